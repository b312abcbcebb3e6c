"""A trainer of a real framework as a training job, and its captured checkpoints beside what it saved."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from flexai.checkpoints.documents import captured_list_document
from flexai.checkpoints.models import TrainingJob
from flexai.checkpoints.names import parse_name
from flexai.checkpoints.service.fetch import fetch
from flexai.checkpoints.service.inspect import captured_rows
from flexai.checkpoints.service.requests import FetchRequest
from flexai.checkpoints.service.system import System
from flexai.checkpoints.settings import load_settings
from tests.cli.program import Program
from tests.support.trees import read_tree

TRAINERS = Path(__file__).with_name("trainers")
REQUIREMENTS = Path(__file__).with_name("requirements.txt")
JOB = "job"

# Nothing comes from a hub, and no framework takes all cores.
_ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
    "JAX_PLATFORMS": "cpu",
    "TOKENIZERS_PARALLELISM": "false",
}


@dataclass(frozen=True)
class Case:
    """A layout of a framework."""

    package: str
    """Its name among the requirements."""
    script: str
    argument: str
    layout: str
    """What the page calls it."""
    has_step: bool = True
    resumes: str = "cannot be told"
    """``yes``, ``no``, or ``tried`` where a training is stopped, killed and goes on here."""
    has_copies: bool = False
    """Whether some saves are written twice, so that one which is missing may have been lost twice."""

    @property
    def resumable(self) -> bool | None:
        """What its checkpoints are to say."""
        return {"yes": True, "tried": True, "no": False}.get(self.resumes)

    @property
    def id(self) -> str:
        return "-".join(filter(None, (self.script, self.argument)))


@dataclass(frozen=True)
class Saved:
    """A save, or a captured checkpoint: its name, what is known of it, and the SHA-256 of each file."""

    name: str
    step: int | None
    metrics: Mapping[str, float]
    files: Mapping[str, str]
    is_paced: bool = False
    resumable: bool | None = None

    @property
    def content(self) -> tuple[str, frozenset[tuple[str, str]]]:
        return self.name, frozenset(self.files.items())

    def __str__(self) -> str:
        return f"{self.name or '.'} of step {self.step}"


@dataclass
class Outcome:
    """How the captured checkpoints of a job compare with what its trainer saved."""

    faults: list[str] = field(default_factory=list)
    paced: list[int] = field(default_factory=lambda: [0, 0])
    """Captured and written, of the saves that have a pause behind them."""
    fast: list[int] = field(default_factory=lambda: [0, 0])
    lost: int = 0
    metrics: list[str] = field(default_factory=list)


class Trainer:
    """A script of ``trainers`` under one job, with a home and a truth of its own.

    One that reports is told so; it is run below ``flexai training run``, or alone. Several ranks are made by torchrun.
    """

    def __init__(
        self,
        folder: Path,
        python: Path,
        script: str,
        argument: str = "",
        *,
        reports: bool = False,
        is_alone: bool = False,
        ranks: int = 1,
    ) -> None:
        self.program = Program(folder)
        self.truth = folder / "truth"
        self.truth.mkdir()
        self._folder = folder
        torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)) if ranks > 1 else ()
        self._command = (str(python), "-B", *torchrun, str(TRAINERS / f"{script}.py"), *filter(None, [argument]))
        self._is_alone = is_alone
        self._surroundings = _ENVIRONMENT | {"TRUTH": str(self.truth), "REPORTS": "1" if reports else ""}

    def start(self, *flags: str, mode: str = "", saves: int | None = None) -> subprocess.Popen[str]:
        """Start an attempt of the job, of so many saves or as many as usual, and do not wait for it."""
        surroundings = self._surroundings | {"MODE": mode, "SAVES": "" if saves is None else str(saves)}
        if not self._is_alone:
            return self.program.start("training", "run", JOB, *flags, "--", *self._command, env=surroundings)
        surroundings |= {"FLEXAI_OUTPUT_CHECKPOINT_DIR": str(self._folder / "out")}
        return subprocess.Popen(
            self._command,
            cwd=self.program.cwd,
            env=self.program.environment | surroundings,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *flags: str, mode: str = "", saves: int | None = None) -> tuple[int, str]:
        """Run an attempt to its end: the exit code, and all that was printed."""
        process = self.start(*flags, mode=mode, saves=saves)
        out, err = process.communicate()
        return process.returncode, out + err

    def saved(self) -> list[Saved]:
        """What the trainer saved, in its order."""
        return list(self._saved())

    def _saved(self) -> Iterator[Saved]:
        for folder in sorted(self.truth.glob("save-*")):
            yield Saved(**json.loads((folder / "save.json").read_text()), files=_digests(folder / "files"))

    def resumed_at(self) -> int:
        """The step at which the framework went on, after it had loaded what it was given."""
        return int(json.loads((self.truth / "resumed.json").read_text())["step"])

    def captured(self) -> list[Saved]:
        """The captured checkpoints of the job, in the order of their capture, as they are when they are fetched."""
        folder = self._folder / "fetched"
        found = []
        with System.open(load_settings(home=self.program.home)) as system:
            rows, _ = captured_rows(system.catalog, JOB)
            for row in captured_list_document(rows):
                fetch(system, FetchRequest(row["id"], str(folder)))
                known = {name: row[name] for name in ("name", "step", "metrics", "resumable")}
                found.append(Saved(**known, files=_digests(folder)))
                shutil.rmtree(folder)
        return found

    def job(self) -> TrainingJob | None:
        """The job as it is now; None before it has begun."""
        with System.open(load_settings(home=self.program.home), read_only=True) as system:
            return system.catalog.jobs.find(parse_name(JOB))

    def lost(self) -> int:
        """How many versions the job says it has lost."""
        job = self.job()
        assert job is not None
        return job.lost


def _digests(folder: Path) -> dict[str, str]:
    """The SHA-256 of each file; links, which are made again beside what they mean, are no content."""
    contents = read_tree(folder)
    links = [path for path in contents if (folder / path).is_symlink()]
    assert all((folder / path).is_file() for path in links), f"a link of {links} leads nowhere"
    return {path: hashlib.sha256(content).hexdigest() for path, content in contents.items() if path not in links}


def compare(trainer: Trainer, case: Case) -> Outcome:
    """Find each save among the captured checkpoints, by its name and by the content of all its files."""
    outcome = Outcome(lost=trainer.lost())
    saved, captured = trainer.saved(), trainer.captured()
    rows: dict[object, Saved] = {row.content: row for row in captured}
    for content, count in Counter(row.content for row in captured).items():
        if count > 1:
            outcome.faults.append(f"{rows[content]} was captured {count} times")
    for save in saved:
        row = rows.pop(save.content, None) or _under_another_name(save, rows)
        counts = outcome.paced if save.is_paced else outcome.fast
        counts[1] += 1
        if row is None:
            if save.is_paced or save is saved[-1]:
                outcome.faults.append(f"{save} was saved, and is not captured")
            continue
        counts[0] += 1
        outcome.faults += _differences(save, row, case)
        outcome.metrics = sorted({*outcome.metrics, *row.metrics})
    outcome.faults += [f"{row} was captured, and never saved with {sorted(row.files)}" for row in rows.values()]
    missing = outcome.paced[1] + outcome.fast[1] - outcome.paced[0] - outcome.fast[0]
    if outcome.lost < missing or (outcome.lost > missing and not case.has_copies):
        outcome.faults.append(f"{missing} of {len(saved)} saves are missing, and {outcome.lost} are said to be lost")
    return outcome


def _under_another_name(save: Saved, rows: dict[object, Saved]) -> Saved | None:
    """The copy that a trainer made of a save, where that itself was written over before it was captured."""
    digests = sorted(save.files.values())
    key = next((key for key, row in rows.items() if sorted(row.files.values()) == digests), None)
    return None if key is None else rows.pop(key)


def _differences(save: Saved, row: Saved, case: Case) -> Iterator[str]:
    if row.step != (save.step if case.has_step else None):
        yield f"{save} was captured as one of step {row.step}"
    for name, value in save.metrics.items():
        if row.metrics.get(name) != value:
            yield f"{save} has {name}={value}, and was captured with {row.metrics.get(name)}"
    if strange := [name for name in row.metrics if name.startswith("eval_") and name not in save.metrics]:
        yield f"{save} was captured with {strange} of another step"
    if row.resumable is not case.resumable:
        yield f"{save} was captured with resumable={row.resumable}, and should have {case.resumable}"


def record(results: Path, case: Case, outcome: Outcome) -> None:
    """Write what came of a case, for the page about trainers."""
    pins = dict(line.split("==") for line in REQUIREMENTS.read_text().split() if "==" in line)
    figures = asdict(outcome)
    del figures["faults"]
    document = {
        "framework": case.package,
        "version": pins[case.package],
        "layout": case.layout,
        **figures,
        "step": case.has_step,
        "resumes": case.resumes,
    }
    results.mkdir(exist_ok=True)
    (results / f"{case.id}.json").write_text(json.dumps(document))
