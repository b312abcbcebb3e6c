"""What a job starts from: which checkpoint, what is said of the choice, and what the command's framework finds."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from flexai.checkpoints.errors import ConflictError, UsageError
from flexai.checkpoints.models import JobStatus, TrainingFacts, TrainingJob
from flexai.checkpoints.service.change_requests import DeleteRequest
from flexai.checkpoints.service.delete import delete
from flexai.checkpoints.service.fetch import fetch
from flexai.checkpoints.service.naming import name_checkpoint
from flexai.checkpoints.service.push_requests import NameRequest
from flexai.checkpoints.service.requests import FetchRequest
from flexai.checkpoints.service.training import inspect_job, job_log
from flexai.checkpoints.service.training_requests import TrainingRequest
from tests.checkpoints.training.trainers import lightning_file, trainer_files
from tests.support.jobs import begin_job, capture_files
from tests.support.machine import Machine
from tests.support.training import Notes, captured, kill_a_runner, run
from tests.support.trees import Tree

# Says, as JSON, what the command finds: the files of the directory with where links lead, and the place of the unit.
LOOK = """
import json
def tree(folder):
    return {path.relative_to(folder).as_posix(): os.readlink(path) if path.is_symlink() else path.read_bytes().hex()
            for path in sorted(folder.rglob("*")) if path.is_symlink() or path.is_file()}
directory, unit = (os.environ.get(f"FLEXAI_INPUT_CHECKPOINT{end}") for end in ("_DIR", ""))
if directory:
    place = Path(directory).relative_to(Path(os.environ["FLEXAI_OUTPUT_CHECKPOINT_DIR"]).parent / "input").as_posix()
    inner = Path(unit).relative_to(directory).as_posix()
    say("found " + json.dumps([place, inner, os.path.isdir(unit), os.path.isfile(unit), tree(Path(directory))]))
else:
    say("found " + json.dumps([directory, unit]))
sys.exit(1)
"""


def look(machine: Machine, checkpoint: str = "latest", name: str = "run", notes: Notes | None = None) -> list[object]:
    """What the command of a job's next attempt finds: its place, the unit in it, what kind that is, and the files."""
    run(machine, LOOK, name, checkpoint=checkpoint, progress=notes or Notes())
    (line,) = [line for line in "".join(job_log(machine.system, name)).splitlines() if line.startswith("found ")]
    found: list[object] = json.loads(line.removeprefix("found "))
    return found


def hexed(files: Tree) -> dict[str, str]:
    """Files as the command prints them."""
    return {path: content.hex() for path, content in files.items() if isinstance(content, bytes)}


def begun(machine: Machine) -> TrainingJob:
    """A job whose command has failed, to be continued."""
    return begin_job(machine, "run", status=JobStatus.FAILED)


# The places that the environment tells.

DEEPSPEED: Tree = {
    "global_step200/mp_rank_00_model_states.pt": b"states",
    "global_step200/zero_pp_rank_0_mp_rank_00_optim_states.pt": b"optimizer",
    "latest": b"global_step200",
}
MEGATRON: Tree = {
    "iter_0000200/mp_rank_00/model_optim_rng.pt": b"model",
    "latest_checkpointed_iteration.txt": b"200",
}
ORBAX: Tree = {"default/_METADATA": b"{}", "default/d/0a1b": b"x", "_CHECKPOINT_METADATA": b"{}"}
TENSORFLOW: Tree = {"ckpt-1.index": b"i", "ckpt-1.data-00000-of-00001": b"d", "checkpoint": b"model_checkpoint_path"}
LIGHTNING = "lightning_logs/version_0/checkpoints/epoch=3-step=400.ckpt"

LAYOUTS: list[tuple[str, Tree, str, str, str]] = [
    ("checkpoint-20", {"config.json": b"{}", "model.safetensors": b"m"}, "checkpoint-20", ".", "folder"),
    ("run-3/checkpoint-20", {"a/b.bin": b"x"}, "checkpoint-20", ".", "folder"),
    ("200", ORBAX, "200", ".", "folder"),
    ("checkpoint-500", {"global_step500/a": b"x", "latest": b"g"}, "checkpoint-500", ".", "folder"),
    ("global_step200", DEEPSPEED, ".", "global_step200", "folder"),
    ("exp/global_step200", DEEPSPEED, ".", "global_step200", "folder"),
    ("global_step200", {"global_step200/mp_rank_00_model_states.pt": b"x"}, ".", "global_step200", "folder"),
    ("iter_0000200", MEGATRON, ".", "iter_0000200", "folder"),
    (LIGHTNING, {"epoch=3-step=400.ckpt": b"ckpt"}, ".", "epoch=3-step=400.ckpt", "file"),
    ("ckpt.pt", {"ckpt.pt": b"pt"}, ".", "ckpt.pt", "file"),
    ("tf/ckpt-1", TENSORFLOW, ".", "ckpt-1", "prefix"),
    ("", {"config.json": b"{}", "model.safetensors": b"m"}, ".", ".", "folder"),
    ("", {"model.safetensors": b"m"}, ".", "model.safetensors", "file"),
    ("CON", {"model.safetensors": b"m"}, ".", ".", "folder"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "files", "place", "unit", "kind"), LAYOUTS, ids=[layout[0] or "." for layout in LAYOUTS]
)
def test_the_command_finds_what_its_framework_loads_under_its_own_name(
    machine: Machine, name: str, files: Tree, place: str, unit: str, kind: str
) -> None:
    capture_files(machine, begun(machine), name, files)
    assert look(machine) == [place, unit, kind == "folder", kind == "file", hexed(files)]


def test_a_pushed_checkpoint_is_all_of_the_directory(machine: Machine) -> None:
    machine.push("base", machine.write("base", DEEPSPEED))
    machine.push("one", machine.write("one", {"weights.pt": b"w"}))
    assert look(machine, "base", "first") == [".", ".", True, False, hexed(DEEPSPEED)]
    assert look(machine, "one", "second") == [".", "weights.pt", False, True, hexed({"weights.pt": b"w"})]


def test_a_command_that_starts_from_scratch_is_told_of_no_place(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("FLEXAI_INPUT_CHECKPOINT_DIR", "FLEXAI_INPUT_CHECKPOINT"):
        monkeypatch.setenv(name, "/of/an/outer/job")
    assert look(machine) == [None, None]


@pytest.mark.parametrize("variable", ["FLEXAI_INPUT_CHECKPOINT", "FLEXAI_INPUT_CHECKPOINT_DIR"])
def test_a_user_cannot_set_the_places(variable: str) -> None:
    with pytest.raises(UsageError, match=f"{variable} is set for the command by flexai itself"):
        TrainingRequest("run", ["true"], env={variable: "/x"})


# Pointers.

LINKED = """
for step in (1, 2):
    save(output() / "exp", {f"step={step}.ckpt": lightning_file(step)})
    (output() / "exp" / "last.ckpt").unlink(missing_ok=True)
    (output() / "exp" / "last.ckpt").symlink_to(f"step={step}.ckpt")
(output() / "newest.ckpt").symlink_to("exp/step=2.ckpt")
time.sleep(1)
sys.exit(1)
"""


def test_a_link_to_a_file_is_made_again_where_the_job_resumes_and_where_the_file_is_fetched(
    machine: Machine, tmp_path: Path
) -> None:
    run(machine, LINKED)
    first, second = captured(machine)
    assert first.pointers == ()
    assert second.pointers == ("last.ckpt -> step=2.ckpt", "../newest.ckpt -> step=2.ckpt")
    found = look(machine)
    assert found[:4] == [".", "step=2.ckpt", False, True]
    assert found[4] == {"step=2.ckpt": lightning_file(2).hex(), "last.ckpt": "step=2.ckpt"}
    for _ in range(2):
        fetch(machine.system, FetchRequest("run/exp/step=2.ckpt", str(tmp_path / "out")))
        assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["last.ckpt", "step=2.ckpt"]
        assert (tmp_path / "out" / "last.ckpt").read_bytes() == lightning_file(2)


def test_a_file_that_got_a_name_of_its_own_keeps_its_links(machine: Machine, tmp_path: Path) -> None:
    run(machine, LINKED)
    named = name_checkpoint(machine.system, NameRequest("kept", "run/exp/step=2.ckpt"))
    assert named == machine.checkpoint("kept")
    fetch(machine.system, FetchRequest("kept", str(tmp_path / "out")))
    assert (tmp_path / "out" / "last.ckpt").readlink() == Path("step=2.ckpt")
    assert look(machine, "kept", "next")[4] == {"step=2.ckpt": lightning_file(2).hex(), "last.ckpt": "step=2.ckpt"}


def test_links_of_an_attempt_whose_runner_was_killed_are_kept_by_the_next(machine: Machine) -> None:
    kill_a_runner(machine, LINKED.partition("time.sleep")[0])
    found = look(machine)
    assert found[4] == {"step=2.ckpt": lightning_file(2).hex(), "last.ckpt": "step=2.ckpt"}


def test_a_copy_of_the_last_file_is_shown_and_not_made_again(machine: Machine) -> None:
    text = LINKED.replace('.symlink_to(f"step={step}.ckpt")', ".write_bytes(lightning_file(step))")
    run(machine, text)
    assert "last.ckpt" in captured(machine)[-1].pointers
    assert look(machine)[4] == {"step=2.ckpt": lightning_file(2).hex()}


@pytest.mark.parametrize("overwrite", [False, True])
def test_what_is_in_the_place_of_a_link_stays(machine: Machine, tmp_path: Path, overwrite: bool) -> None:
    run(machine, LINKED)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "last.ckpt").symlink_to("mine")
    notes = Notes()
    request = FetchRequest("run/exp/step=2.ckpt", str(tmp_path / "out"), overwrite=overwrite)
    fetch(machine.system, request, progress=notes)
    assert (tmp_path / "out" / "last.ckpt").readlink() == Path("mine")
    assert "the link 'last.ckpt' to 'step=2.ckpt' was not made: file exists" in notes.messages


@pytest.mark.parametrize("name", ["../out.ckpt", "/out.ckpt", "a/b.ckpt", "..", "", "step=2.ckpt", "CON", "x" * 201])
def test_a_link_that_could_lead_out_or_be_no_file_is_not_made(machine: Machine, tmp_path: Path, name: str) -> None:
    run(machine, LINKED)
    _, second = captured(machine)
    machine.system.catalog.checkpoints.set_pointers(second.id, [f"{name} -> step=2.ckpt", "good.ckpt -> step=2.ckpt"])
    fetch(machine.system, FetchRequest(second.id, str(tmp_path / "out")))
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["good.ckpt", "step=2.ckpt"]
    assert (tmp_path / "out" / "step=2.ckpt").is_file()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


# Which one is taken.

FIT = TrainingFacts(step=1, resumable=True)


def unfit(step: int, why: str = "No optimizer state is there.") -> TrainingFacts:
    """What a checkpoint tells from which no training can go on."""
    return TrainingFacts(step=step, resumable=False, resumable_missing=(why,))


def capture_all(machine: Machine, facts: Sequence[TrainingFacts]) -> list[str]:
    """A job with a checkpoint for each; their ids."""
    job = begun(machine)
    return [
        capture_files(machine, job, f"checkpoint-{number}", {"w.bin": bytes([number])}, facts=one).id
        for number, one in enumerate(facts)
    ]


def input_of(machine: Machine, checkpoint: str = "latest") -> tuple[str | None, list[str]]:
    """What the job's next attempt starts from, and what it says."""
    notes = Notes()
    job = run(machine, "sys.exit(1)", checkpoint=checkpoint, progress=notes)
    return job.input_checkpoint_id, [note for note in notes.messages if "starts from" in note or "passed over" in note]


def test_the_latest_that_is_not_known_to_be_unfit_is_taken_and_the_rest_is_said(machine: Machine) -> None:
    ids = capture_all(machine, [TrainingFacts(step=5, resumable=True), FIT, unfit(9), unfit(3)])
    found, said = input_of(machine)
    assert found == ids[0]
    assert said == [
        f"passed over 'run/checkpoint-2' ({ids[2]}), step 9: No optimizer state is there",
        f"the command starts from checkpoint 'run/checkpoint-0' ({ids[0]}), step 5:"
        " the latest of 2 checkpoints that are not known to be unfit",
    ]
    log = "".join(job_log(machine.system, "run"))
    assert all(f"[flexai] {line}" in log for line in said)
    assert inspect_job(machine.system, "run").input_checkpoint_name == "checkpoint-0"


def test_what_cannot_be_told_is_not_unfit(machine: Machine) -> None:
    ids = capture_all(machine, [FIT, TrainingFacts(step=7, resumable_missing=("No reader knows its format.",))])
    found, said = input_of(machine)
    assert found == ids[1]
    assert said[0].endswith(
        "step 7: the latest of 2 checkpoints; whether a training can go on from it cannot be told"
        " (No reader knows its format)"
    )


def test_without_steps_the_one_that_was_captured_last_is_the_latest(machine: Machine) -> None:
    ids = capture_all(machine, [TrainingFacts(), TrainingFacts(), unfit(3)])
    assert input_of(machine)[0] == ids[1]


@pytest.mark.parametrize("choice", ["latest", "best", "best:eval_accuracy"])
def test_where_no_checkpoint_is_fit_the_run_stops_and_lists_them(machine: Machine, choice: str) -> None:
    ids = capture_all(machine, [unfit(step, f"Reason {step}.") for step in range(7)])
    with pytest.raises(ConflictError) as caught:
        run(machine, "print('never')", checkpoint=choice)
    error = caught.value
    assert error.exit_code == 4
    assert error.message.startswith(
        "training job 'run' has captured 7 checkpoints, and a training can go on from none of them:"
        f" 'run/checkpoint-6' ({ids[6]}), step 6: Reason 6; 'run/checkpoint-5'"
    )
    assert error.message.endswith("Reason 2; and 2 more")
    assert f"flexai training run run --checkpoint {ids[6]} starts" in error.hint
    assert "scratch" in error.hint
    job = inspect_job(machine.system, "run")
    assert (job.status, job.reason) == (JobStatus.FAILED, error.message)
    assert input_of(machine, ids[6])[0] == ids[6], "by its UUID one can be used all the same"


def test_it_starts_from_scratch_only_where_nothing_was_captured(machine: Machine) -> None:
    (only,) = capture_all(machine, [unfit(1)])
    delete(machine.system, DeleteRequest(only))
    notes = Notes()
    job = run(machine, "sys.exit(1)", checkpoint="latest", progress=notes)
    assert job.input_checkpoint_id is None
    assert "there is no checkpoint to continue from yet, so the command starts from scratch" in notes.messages


def test_one_whose_content_is_known_to_be_damaged_is_passed_over(machine: Machine) -> None:
    ids = capture_all(machine, [FIT, TrainingFacts(step=7, resumable=True)])
    (file,) = machine.system.blobs.files_of(ids[1])
    machine.system.soundness.record_verification(damaged={file.content.id}, sound=set())
    found, said = input_of(machine)
    assert found == ids[0]
    assert said[0] == f"passed over 'run/checkpoint-1' ({ids[1]}), step 7: its file 'w.bin' is damaged in the store"


def test_the_best_that_is_not_known_to_be_unfit_is_taken_and_the_rest_is_said(machine: Machine) -> None:
    def told(step: int, loss: float, *, resumable: bool) -> TrainingFacts:
        return TrainingFacts(step=step, eval_loss=loss, resumable=resumable, resumable_missing=("No state.",))

    ids = capture_all(
        machine, [told(1, 0.5, resumable=True), told(2, 0.25, resumable=False), told(3, 1, resumable=True)]
    )
    found, said = input_of(machine, "best")
    assert found == ids[0]
    assert said == [
        f"passed over 'run/checkpoint-1' ({ids[1]}), step 2: No state",
        f"the command starts from checkpoint 'run/checkpoint-0' ({ids[0]}), step 1:"
        " the best of 2 checkpoints that are not known to be unfit by its eval loss, 0.5",
    ]


def test_a_trainer_that_died_in_the_middle_of_a_save_resumes_from_the_one_before(machine: Machine) -> None:
    run(
        machine,
        """
save(output() / "checkpoint-1", trainer_files(1))
files = trainer_files(2)
del files["trainer_state.json"]
save(output() / "checkpoint-2", files)
os.kill(os.getpid(), signal.SIGKILL)
""",
    )
    assert look(machine) == ["checkpoint-1", ".", True, False, hexed(trainer_files(1))]
