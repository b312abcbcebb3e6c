"""Tasks in a plain script: run directly where there is no Prefect API, and as task runs where there is one."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from flexai.prefect_server.credential import make_credential
from flexai.prefect_server.processes import Background, start, stop
from tests.cli.conftest import program
from tests.cli.program import Program
from tests.servers.prefect import PrefectServer

__all__ = ["program"]

# What is started is told on standard output; the log is on standard error.
WATCH = """
import sys
def told(event, arguments):
    if event in ("subprocess.Popen", "os.posix_spawn", "socket.bind") or event == "socket.connect":
        print(event, arguments)
sys.addaudithook(told)
"""
# All of Prefect is there before: a script of the user's own begins like this.
SETTINGS = """
import prefect
from prefect import flow
{imports}
from prefect.settings import get_current_settings
api = get_current_settings().api
print(api.url, api.auth_string.get_secret_value() if api.auth_string else None)
"""


def run(program: Program, code: str, **environment: str) -> tuple[str, str]:
    """Run code in a process of its own; what it printed, and its log."""
    log = program.cwd / "log"
    redirect = f"import sys\nsys.stderr = open({str(log)!r}, 'w')\n"
    return program.python(redirect + code, environment), log.read_text()


def test_without_an_api_a_call_runs_the_operation_and_says_so_once(program: Program) -> None:
    program.file("a.bin")
    printed, log = run(
        program,
        "from flexai.tasks import fetch_checkpoint, push_checkpoint\n"
        + WATCH
        + "print(push_checkpoint('by-task', files=['a.bin'])['metadata']['name'])\n"
        "print(fetch_checkpoint('by-task', destination='out')['fetchedFiles'])\n"
        "print(fetch_checkpoint.with_options(retries=1)('by-task', 'out')['keptFiles'])\n"
        "print(fetch_checkpoint('by-task', 'out', return_state=True).result()['keptFiles'])\n"
        "print(fetch_checkpoint('unknown', return_state=True).is_failed())",
    )
    assert printed.split() == ["by-task", "1", "1", "1", "True"]
    assert log.count("no Prefect API is configured, so tasks run directly") == 1
    assert (program.cwd / "out" / "a.bin").exists()


def test_without_an_api_an_error_is_that_of_the_operation(program: Program) -> None:
    printed, _ = run(
        program,
        "from flexai import errors\n"
        "from flexai.tasks import fetch_checkpoint, push_checkpoint\n"
        "for call in (lambda: fetch_checkpoint('unknown'), lambda: push_checkpoint('nothing')):\n"
        "    try:\n"
        "        call()\n"
        "    except errors.CheckpointError as error:\n"
        "        print(type(error).__name__)",
    )
    assert printed.split() == ["NotFoundError", "RequestError"]


def test_an_api_that_is_said_to_be_none_is_none(program: Program) -> None:
    program.file("a.bin")
    code = (
        WATCH + "from flexai.tasks import push_checkpoint\nprint(push_checkpoint('one-more', files=['a.bin'])['kind'])"
    )
    printed, log = run(program, code, PREFECT_API_URL="", PREFECT_SERVER_ALLOW_EPHEMERAL_MODE="true")
    assert printed == "Checkpoint\n"
    assert "tasks run directly" in log


def test_where_an_api_is_configured_a_call_is_a_task_run(program: Program, prefect_server: PrefectServer) -> None:
    program.file("a.bin")
    environment = prefect_server.environment(program.home / "prefect-home")
    code = (
        "from flexai.tasks import push_checkpoint\n"
        "print(push_checkpoint('one-more', files=['a.bin'], return_state=True).state_details.task_run_id is not None)"
    )
    printed, log = run(program, code, **environment)
    assert printed == "True\n"
    assert "tasks run directly" not in log


@pytest.fixture
def up(program: Program) -> Iterator[Background]:
    """What ``flexai up`` leaves behind: a process that runs, and the password that it wants."""
    make_credential(program.home)
    command = ["sleep", "600"]
    url = "http://127.0.0.1:9/api"
    server = start(program.home, "server", command, environment=os.environ, cwd=program.cwd, url=url, guarded=True)
    yield server
    stop(server, grace=30)


@pytest.mark.slow
def test_a_script_uses_the_server_of_flexai_up_with_its_credential(program: Program, up: Background) -> None:
    imports = "from flexai.flows.push import push"
    printed, _ = run(program, SETTINGS.format(imports=imports))
    assert printed.split() == [up.url, program.credential]
    imports = "import flexai.tasks"
    printed, _ = run(program, SETTINGS.format(imports=imports))
    assert printed.split() == [up.url, program.credential]
    # An address that the user has set is the user's; that of this very server wants the password all the same.
    printed, _ = run(program, SETTINGS.format(imports=imports), PREFECT_API_URL="http://127.0.0.1:1/api")
    assert printed.split() == ["http://127.0.0.1:1/api", "None"]
    printed, _ = run(program, SETTINGS.format(imports=imports), PREFECT_API_URL=up.url)
    assert printed.split() == [up.url, program.credential]
    printed, _ = run(program, SETTINGS.format(imports=imports), PREFECT_API_URL="")
    assert printed.split()[-1] == "None"
    assert program.credential not in printed


def test_a_server_that_came_up_after_the_import_is_found_by_a_call(program: Program) -> None:
    code = SETTINGS.format(
        imports="import os, pathlib\n"
        "from flexai.prefect_client import is_without_api\n"
        "from flexai.prefect_server.processes import start, stop\n"
        "import flexai.tasks\n"
        "print(is_without_api())\n"
        "home = pathlib.Path(os.environ['FLEXAI_HOME'])\n"
        "up = start(home, 'server', ['sleep', '600'], environment=os.environ, cwd='.', url='http://127.0.0.1:9/api')\n"
        "print(is_without_api())\n"
        "stop(up, grace=30)"
    )
    printed, _ = run(program, code)
    assert printed.split() == ["True", "False", "http://127.0.0.1:9/api", "None"]


def test_what_prefect_gives_a_task_stays(program: Program) -> None:
    printed, _ = run(
        program,
        "from prefect import Task, flow\n"
        "from flexai import tasks\n"
        "found = [getattr(tasks, name) for name in tasks.__all__]\n"
        "print(all(isinstance(one, Task) and isinstance(one.with_options(retries=2), type(one)) for one in found))\n"
        "print(tasks.fetch_checkpoint.with_options(retries=7, name='other').retries, tasks.fetch_checkpoint.retries)\n"
        "print({one.submit.__func__ is Task.submit and one.map.__func__ is Task.map for one in found})\n"
        "print({type(one).__call__ is not Task.__call__ for one in found})\n"
        "try:\n"
        "    tasks.fetch_checkpoint.fn('unknown')\n"
        "except Exception as error:\n"
        "    print(type(error).__name__)\n",
    )
    assert printed.split() == ["True", "7", "3", "{True}", "{True}", "NotFoundError"]
