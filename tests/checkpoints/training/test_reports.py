"""Reports of saves, as the trainer writes them and the capturing process reads them."""

from __future__ import annotations

import fcntl
import json
import os
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flexai.checkpoints.errors import ConflictError, SourceError
from flexai.checkpoints.models import MOST_METRICS, TrainingFacts
from flexai.checkpoints.training.output_dir import Stamp
from flexai.checkpoints.training.reports import Report, ReportOutcome, Reports, ReportWriter, checked_metrics
from tests.checkpoints.training.trainers import save, trainer_files


@pytest.fixture
def output(tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


@pytest.fixture
def writer(tmp_path: Path, output: Path) -> ReportWriter:
    return ReportWriter(tmp_path / "reports", output)


def reported(writer: ReportWriter, saved: Path, step: int | None = None) -> Report:
    """What the capturing process reads of a save that is reported."""
    writer.write(saved, step=step, metrics={})
    found = Reports(writer.folder).read(writer.waiting()[-1])
    assert found is not None
    return found


def held(report: Report) -> dict[str, bytes]:
    return {
        path.relative_to(report.files).as_posix(): path.read_bytes()
        for path in sorted(report.files.rglob("*"))
        if path.is_file()
    }


def test_a_report_holds_the_very_files_under_their_paths(writer: ReportWriter, output: Path) -> None:
    save(output / "run" / "checkpoint-5", trainer_files(5))
    report = reported(writer, output / "run" / "checkpoint-5", step=5)
    assert (report.path, report.step, report.is_linked) == ("run/checkpoint-5", 5, False)
    assert held(report) == {f"run/checkpoint-5/{name}": data for name, data in trainer_files(5).items()}
    for path, stamp in report.originals.items():
        assert Stamp.of((report.files / path).stat()) == stamp


def test_a_small_file_whose_name_tells_no_number_is_copied(writer: ReportWriter, output: Path) -> None:
    (output / "last.pt").write_bytes(b"first")
    report = reported(writer, output / "last.pt")
    (output / "last.pt").write_bytes(b"other")
    assert held(report) == {"last.pt": b"first"}
    assert not report.is_linked


def test_a_large_file_whose_name_tells_no_number_is_linked_and_that_is_said(writer: ReportWriter, output: Path) -> None:
    with (output / "last.pt").open("wb") as file:
        file.truncate(5 * 1024 * 1024)
    report = reported(writer, output / "last.pt")
    clones = (report.files / "last.pt").stat().st_ino != (output / "last.pt").stat().st_ino
    assert report.is_linked is not clones


def test_a_link_means_what_it_leads_to(writer: ReportWriter, output: Path) -> None:
    (output / "epoch=1.ckpt").write_bytes(b"one")
    (output / "last.ckpt").symlink_to("epoch=1.ckpt")
    assert reported(writer, output / "last.ckpt").path == "epoch=1.ckpt"


def test_the_text_beside_a_folder_that_its_loader_wants_is_held_too(writer: ReportWriter, output: Path) -> None:
    save(output, {"global_step5/mp_rank_00_model_states.pt": b"model", "latest": b"global_step5"})
    report = reported(writer, output / "global_step5")
    (output / "latest").write_bytes(b"global_step6")
    assert held(report) == {"global_step5/mp_rank_00_model_states.pt": b"model", "latest": b"global_step5"}


def test_a_prefix_means_the_files_that_tensorflow_loads_by_it(writer: ReportWriter, output: Path) -> None:
    files = {"ckpt-1.index": b"index", "ckpt-1.data-00000-of-00001": b"data"}
    save(output, files | {"ckpt-10.index": b"other"})
    assert held(reported(writer, output / "ckpt-1")) == files


def test_what_is_no_file_is_left_out_and_named(writer: ReportWriter, output: Path) -> None:
    save(output / "step-1", {"model.pt": b"model"})
    os.mkfifo(output / "step-1" / "pipe")
    (output / "step-1" / "elsewhere").symlink_to("/etc/hostname")
    report = reported(writer, output / "step-1")
    assert held(report) == {"step-1/model.pt": b"model"}
    assert sorted(report.left_out) == ["step-1/elsewhere", "step-1/pipe"]


def test_what_is_not_there_or_lies_elsewhere_is_refused(writer: ReportWriter, output: Path, tmp_path: Path) -> None:
    (tmp_path / "other.pt").write_bytes(b"other")
    (output / "link.pt").symlink_to(tmp_path / "other.pt")
    for saved in (tmp_path / "other.pt", output / "link.pt", output / ".." / "other.pt"):
        with pytest.raises(SourceError, match="is not below the output directory"):
            writer.write(saved, step=None, metrics={})
    with pytest.raises(SourceError, match="is not there"):
        writer.write(output / "missing.pt", step=None, metrics={})
    assert [path.name for path in writer.folder.iterdir()] == ["expected"]


def test_a_report_that_is_being_stored_cannot_be_dropped(writer: ReportWriter, output: Path) -> None:
    (output / "step-1.pt").write_bytes(b"one")
    report = reported(writer, output / "step-1.pt")
    reports = Reports(writer.folder)
    with reports.held(report) as is_there:
        assert is_there
        assert not writer.drop(report.name)
    assert writer.drop(report.name)
    assert not writer.drop(report.name)
    with reports.held(report) as is_there:
        assert not is_there
    assert reports.names() == []
    assert [path.name for path in writer.folder.iterdir()] == ["expected"]


def test_what_is_left_of_a_dropped_report_is_none(writer: ReportWriter, output: Path) -> None:
    (output / "step-1.pt").write_bytes(b"one")
    report = reported(writer, output / "step-1.pt")
    assert writer.drop(report.name)
    report.files.mkdir(parents=True)
    assert writer.waiting() == [] == Reports(writer.folder).names()
    assert Reports(writer.folder).remove_empty()


def test_each_writer_learns_what_became_of_its_own_reports_once(tmp_path: Path, output: Path) -> None:
    (output / "step-1.pt").write_bytes(b"one")
    writers = [ReportWriter(tmp_path / "reports", output, rank=rank, ranks=2) for rank in range(2)]
    reports = Reports(tmp_path / "reports")
    outcomes = []
    for writer in writers:
        writer.write(output / "step-1.pt", step=1, metrics={})
        outcomes.append(ReportOutcome(writer.waiting()[0], "step-1.pt", 1, "id", ""))
        reports.tell(outcomes[-1])
    for writer, outcome in zip(writers, outcomes, strict=True):
        assert writer.outcomes() == [outcome]
        assert writer.outcomes() == []


@pytest.mark.parametrize(
    "change",
    [
        {"path": None, "files": None},
        {"files": {"../outside": [1, 2, 3, 4]}},
        {"files": {"/etc/passwd": [1, 2, 3, 4]}},
        {"files": {"a": ["x"]}},
        {"step": "five"},
        {"metrics": {"loss": "low"}},
        {"metrics": {"\x1b[2J": 1}},
        {"rank": None},
    ],
    ids=str,
)
def test_a_document_that_no_trainer_of_ours_wrote_is_refused(
    writer: ReportWriter, output: Path, change: dict[str, object]
) -> None:
    (output / "step-1.pt").write_bytes(b"one")
    report = reported(writer, output / "step-1.pt")
    place = report.folder / "report.json"
    place.write_text(json.dumps(json.loads(place.read_text()) | change))
    with pytest.raises(ValueError, match=r"."):
        Reports(writer.folder).read(report.name)


_NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
_METRICS = st.dictionaries(st.sampled_from(["loss", "eval_loss", "accuracy", "f1"]), _NUMBERS)


@given(_METRICS, _METRICS, st.none() | st.integers(0, 100), st.none() | st.integers(0, 100))
def test_what_is_reported_wins_over_what_the_files_tell(
    told: dict[str, float], parsed: dict[str, float], step: int | None, parsed_step: int | None
) -> None:
    report = Report("1", Path(), "a", step, told, 0, 1, Path(), {}, False, ())
    facts = report.over(TrainingFacts(step=parsed_step, metrics=parsed, model="Tiny"))
    assert facts.metrics == parsed | told
    assert facts.step == (parsed_step if step is None else step)
    assert set(facts.reported) == told.keys() | ({"step"} if step is not None else set())
    assert facts.model == "Tiny"
    if "eval_loss" in told:
        assert facts.eval_loss == told["eval_loss"]


def test_what_is_reported_stays_where_the_files_tell_too_much() -> None:
    parsed = {f"metric_{number}": 1.0 for number in range(MOST_METRICS)}
    report = Report("1", Path(), "a", None, {"mine": 2.0}, 0, 1, Path(), {}, False, ())
    metrics = report.over(TrainingFacts(metrics=parsed)).metrics
    assert len(metrics) == MOST_METRICS
    assert metrics["mine"] == 2.0


def test_metrics_are_taken_as_numbers_and_what_is_not_finite_is_left_out() -> None:
    class Tensor:
        def __float__(self) -> float:
            return 0.5

    found = checked_metrics({"loss": Tensor(), "steps": 3, "bad": float("nan"), "worse": float("inf")})  # type: ignore[dict-item]
    assert found == {"loss": 0.5, "steps": 3.0}
    with pytest.raises(ValueError, match="is no name of a metric"):
        checked_metrics({"": 1.0})


def test_a_trainer_of_another_job_is_refused_only_while_the_first_one_of_it_is_at_work(
    tmp_path: Path, output: Path
) -> None:
    def of(job: str, rank: int = 0) -> ReportWriter:
        return ReportWriter(tmp_path / "reports", output, job=job, rank=rank, ranks=2)

    first, other = of("first"), of("other")
    first.expect()
    of("first").expect()  # as where a notebook's cell runs again
    with pytest.raises(ConflictError, match="'first' is running with the output directory"):
        other.expect()
    first.close()
    # What the first one has left, and other ranks of the second one, do not count.
    of("other", rank=1)
    other.expect()
    with pytest.raises(ConflictError, match="'other' is running"):
        of("first").expect()


def test_a_rank_that_starts_while_the_first_one_has_not_said_its_job_yet_waits_for_it(
    tmp_path: Path, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = (ReportWriter(tmp_path / "reports", output, job="run", rank=rank, ranks=2) for rank in (0, 1))
    write, waits = Path.write_text, threading.Event()
    errors: list[Exception] = []

    def flock(file: Any, how: int) -> None:
        if how == fcntl.LOCK_SH:
            waits.set()
        fcntl.flock(file, how)

    def start() -> None:
        try:
            second.expect()
        except ConflictError as error:
            errors.append(error)
        waits.set()

    rank = threading.Thread(target=start)

    def write_late(place: Path, *arguments: Any) -> int:
        rank.start()
        assert waits.wait(30)
        return write(place, *arguments)

    (tmp_path / "reports" / "expected").write_text("another job, long ago")
    monkeypatch.setattr(
        "flexai.checkpoints.training.reports.fcntl", SimpleNamespace(**(vars(fcntl) | {"flock": flock}))
    )
    monkeypatch.setattr(Path, "write_text", write_late)
    first.expect()
    rank.join(30)
    assert not rank.is_alive()
    assert errors == []
