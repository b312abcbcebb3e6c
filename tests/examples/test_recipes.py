"""The files that run a training job under a scheduler: what they say to flexai, and how their times go together."""

from __future__ import annotations

import http.server
import re
import shlex
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from flexai.checkpoints.settings import ENVIRONMENT_PREFIX, RULES
from flexai.cli.parameters import read_duration
from flexai.cli.training.run import run
from tests.servers.local import LocalServer

ROOT = Path(__file__).resolve().parents[2]
RECIPES = ROOT / "examples"
FOR_THE_END = 15
"""Seconds that a recipe leaves between the end of the grace and the KILL, to record the end in."""


class Recipe(NamedTuple):
    """What a file says."""

    command: Sequence[str]
    """What it runs, from ``flexai`` on."""
    notice: float
    """The seconds from the TERM to the KILL."""
    restarts_at: int | None
    """The exit code at which the scheduler, or the script, runs the job again whatever else holds."""


def _shell(text: str) -> list[str]:
    """The command of a shell script that begins with ``flexai``, its lines joined."""
    found = re.search(r"\bflexai training run\b.*", text.replace("\\\n", " "))
    assert found is not None
    return shlex.split(found[0].removesuffix(" &"))


def _slurm(path: Path) -> Recipe:
    text = path.read_text()
    notice = re.search(r"^#SBATCH --signal=B:TERM@(\d+)$", text, re.M)
    code = re.search(r'"\$code" = (\d+)', text)
    assert notice is not None and code is not None
    return Recipe(_shell(text), float(notice[1]), int(code[1]))


def _kubernetes(path: Path) -> Recipe:
    job = yaml.safe_load(path.read_text())["spec"]
    (code,) = job["podFailurePolicy"]["rules"][0]["onExitCodes"]["values"]
    pod = job["template"]["spec"]
    return Recipe(pod["containers"][0]["args"], pod["terminationGracePeriodSeconds"], code)


def _skypilot(path: Path) -> Recipe:
    job = yaml.safe_load(path.read_text())
    (code,) = job["resources"]["job_recovery"]["recover_on_exit_codes"]
    # What AWS says in advance; see on-notice.sh.
    assert job["resources"]["infra"] == "aws"
    return Recipe(_shell(job["run"]), 120, code)


def _systemd(path: Path) -> Recipe:
    settings = dict(re.findall(r"^(\w+)=(.*)$", path.read_text(), re.M))
    assert (settings["KillMode"], settings["KillSignal"]) == ("mixed", "SIGTERM")
    return Recipe(_shell(settings["ExecStart"]), float(settings["TimeoutStopSec"]), None)


def _compose(path: Path) -> Recipe:
    (service,) = yaml.safe_load(path.read_text())["services"].values()
    return Recipe(_shell(service["command"]), read_duration("stop", service["stop_grace_period"]).total_seconds(), None)


READ = {
    "slurm/train.sbatch": _slurm,
    "slurm/array.sbatch": _slurm,
    "slurm/nodes.sbatch": _slurm,
    "kubernetes/job.yaml": _kubernetes,
    "kubernetes/kueue.yaml": _kubernetes,
    "spot/skypilot.yaml": _skypilot,
    "systemd/my-run.service": _systemd,
    "docker/compose.yaml": _compose,
}


@pytest.fixture(params=READ)
def recipe(request: pytest.FixtureRequest) -> Recipe:
    """Each of the files."""
    return READ[request.param](RECIPES / request.param)


def _options(recipe: Recipe) -> dict[str, Any]:
    """The options of the command, as flexai's own parser reads them."""
    assert recipe.command[:3] == ["flexai", "training", "run"]
    with run.make_context("run", list(recipe.command[3:])) as context:
        return context.params


def test_every_file_that_runs_a_job_is_read_here() -> None:
    kinds = {Path(name).suffix for name in READ}
    found = {str(path.relative_to(RECIPES)) for path in RECIPES.rglob("*") if path.suffix in kinds}
    assert found == set(READ)


def test_a_recipe_goes_on_from_the_latest_checkpoint(recipe: Recipe) -> None:
    options = _options(recipe)
    assert options["checkpoint"] == "latest"
    assert "train.py" in options["command"]


def test_the_time_between_the_notice_and_the_kill_is_for_the_grace_and_for_recording_the_end(recipe: Recipe) -> None:
    grace = read_duration("--grace", _options(recipe)["grace"]).total_seconds()
    assert grace + FOR_THE_END <= recipe.notice


def test_the_code_of_a_run_that_was_told_to_end_is_the_one_at_which_the_scheduler_runs_it_again(recipe: Recipe) -> None:
    assert _options(recipe)["preempted_exit_code"] == recipe.restarts_at


@pytest.mark.parametrize("name", READ)
def test_the_page_tells_a_recipe_s_times(name: str) -> None:
    recipe = READ[name](RECIPES / name)
    grace = read_duration("--grace", _options(recipe)["grace"]).total_seconds()
    (row,) = [line for line in (ROOT / "docs" / "recipes.md").read_text().splitlines() if f"[`{name}`]" in line]
    assert f" {recipe.notice:g} s | {grace:g} s |" in row


def test_the_file_of_settings_names_settings_and_what_an_sdk_reads() -> None:
    lines = [line for line in (RECIPES / "flexai.env").read_text().splitlines() if line and not line.startswith("#")]
    values = dict(line.split("=", 1) for line in lines)
    ours = {name.removeprefix(ENVIRONMENT_PREFIX).lower() for name in values if name.startswith(ENVIRONMENT_PREFIX)}
    assert ours == {"database_url", "store", "owner"}
    for name in ours:
        RULES[name].read(values[f"{ENVIRONMENT_PREFIX}{name.upper()}"])
    assert {name for name in values if not name.startswith(ENVIRONMENT_PREFIX)} == {
        "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_REGION",
    }
    # What a shell, systemd, docker, kubectl and sky read alike.
    assert [line for line in lines if not re.fullmatch(r"\w+=[^\s'\"$#]+", line)] == []


def test_the_job_of_kueue_is_the_job_in_a_queue() -> None:
    plain, queued = (yaml.safe_load((RECIPES / "kubernetes" / name).read_text()) for name in ("job.yaml", "kueue.yaml"))
    assert queued["metadata"].pop("labels") == {"kueue.x-k8s.io/queue-name": "training"}
    assert queued["spec"].pop("suspend") is True
    assert queued == plain


def test_a_pod_of_the_job_writes_where_the_image_lets_it() -> None:
    pod = yaml.safe_load((RECIPES / "kubernetes" / "job.yaml").read_text())["spec"]["template"]["spec"]
    image = (ROOT / "deployments" / "docker" / "Dockerfile").read_text()
    (mount,) = pod["containers"][0]["volumeMounts"]
    assert f"FLEXAI_HOME={mount['mountPath']}" in image
    context = pod["securityContext"]
    assert f"USER {context['runAsUser']}:{context['runAsGroup']}" in image
    assert context["fsGroup"] == context["runAsGroup"]


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="needs systemd-analyze, of the package systemd")
def test_systemd_finds_no_fault_in_the_unit(tmp_path: Path) -> None:
    text = (RECIPES / "systemd" / "my-run.service").read_text()
    # systemd looks for the program too.
    program = tmp_path / "flexai"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    unit = tmp_path / "my-run.service"
    unit.write_text(re.sub(r"^ExecStart=\S+", f"ExecStart={program}", text, flags=re.M))
    done = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True, check=False)
    assert (done.returncode, [line for line in done.stderr.splitlines() if "my-run.service" in line]) == (0, [])


@pytest.mark.skipif(not shutil.which("docker-compose"), reason="needs Debian's package docker-compose")
def test_docker_finds_no_fault_in_the_file_of_services(tmp_path: Path) -> None:
    shutil.copy(RECIPES / "docker" / "compose.yaml", tmp_path)
    shutil.copy(RECIPES / "flexai.env", tmp_path)
    done = subprocess.run(
        ["docker-compose", "config", "--quiet"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


class _Metadata(http.server.BaseHTTPRequestHandler):
    """What the metadata services of AWS and Google Cloud answer; ``is_announced`` is set on the server."""

    def do_PUT(self) -> None:
        """Give out a token, as AWS does."""
        self._answer(200 if self.server.cloud == "aws" else 404, "token")  # type: ignore[attr-defined]

    def do_GET(self) -> None:
        """Tell whether this machine goes."""
        server: Any = self.server
        server.asked.release()
        if server.cloud == "aws":
            is_right = self.path == "/latest/meta-data/spot/instance-action"
            is_right = is_right and self.headers["X-aws-ec2-metadata-token"] == "token"
            self._answer(200 if is_right and server.is_announced else 404, '{"action": "terminate"}')
        else:
            is_right = self.path == "/computeMetadata/v1/instance/preempted"
            is_right = is_right and self.headers["Metadata-Flavor"] == "Google"
            self._answer(200 if is_right else 404, "TRUE" if server.is_announced else "FALSE")

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def _answer(self, status: int, text: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())


@contextmanager
def _cloud(name: str) -> Iterator[Any]:
    server: Any = LocalServer(("127.0.0.1", 0), _Metadata)
    server.cloud, server.is_announced, server.asked = name, False, threading.Semaphore(0)
    with server.serving():
        yield server


def _start_on_notice(server: Any, *command: str) -> subprocess.Popen[str]:
    address = f"http://127.0.0.1:{server.server_port}"
    metadata = {"AWS_METADATA": address, "GOOGLE_METADATA": address, "NOTICE_SECONDS": "0.05"}
    return subprocess.Popen(
        ["bash", RECIPES / "spot" / "on-notice.sh", *command],
        env={"PATH": "/usr/bin:/bin", **metadata},
        stdout=subprocess.PIPE,
        text=True,
    )


SAVES_AT_TERM = "trap 'echo saved; exit 75' TERM; echo begins; while :; do sleep 0.05; done"
needs_curl = pytest.mark.skipif(not shutil.which("curl"), reason="needs curl")


@needs_curl
@pytest.mark.parametrize("cloud", ["aws", "google"])
def test_a_command_is_told_to_end_when_the_cloud_takes_the_machine_away_and_not_before(cloud: str) -> None:
    with _cloud(cloud) as server:
        process = _start_on_notice(server, "sh", "-c", SAVES_AT_TERM)
        assert process.stdout is not None and process.stdout.readline() == "begins\n"
        for _ in range(3):
            assert server.asked.acquire(timeout=60)
        assert process.poll() is None
        server.is_announced = True
        out, _ = process.communicate()
    assert (process.returncode, out) == (75, "saved\n")


@needs_curl
def test_a_stop_of_the_script_is_one_of_the_command() -> None:
    with _cloud("aws") as server:
        process = _start_on_notice(server, "sh", "-c", SAVES_AT_TERM)
        assert process.stdout is not None and process.stdout.readline() == "begins\n"
        # Its handler is there before it asks for a second time.
        for _ in range(2):
            assert server.asked.acquire(timeout=60)
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate()
    assert (process.returncode, out) == (75, "saved\n")


@needs_curl
def test_a_command_that_ends_by_itself_ends_the_script_with_its_code() -> None:
    with _cloud("aws") as server:
        process = _start_on_notice(server, "sh", "-c", "exit 3")
        process.communicate()
    assert process.returncode == 3
