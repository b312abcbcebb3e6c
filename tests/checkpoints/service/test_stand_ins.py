"""What trainers write, by stand-ins of them: in which order, under which names, and what they delete again."""

from __future__ import annotations

from datetime import timedelta
from typing import NamedTuple

import pytest

from flexai.checkpoints.models import JobStatus
from tests.checkpoints.training.trainers import Files, archive, lightning_file, torch_file, weights
from tests.support.fixtures import NewMachine
from tests.support.training import captured, contents, run

pytestmark = pytest.mark.slow


class StandIn(NamedTuple):
    """A trainer, and what is to be captured of it."""

    text: str
    expected: list[tuple[str, Files]]
    steps: list[int | None]
    resumable: bool = True


def _nano(step: int) -> bytes:
    return torch_file(step, {"model": {}, "optimizer": {}, "iter_num": step})


def _lightning(*steps: int) -> list[tuple[str, Files]]:
    names = {step: f"epoch={step}-step={step}.ckpt" for step in steps}
    return [(name, {name: lightning_file(step)}) for step, name in names.items()]


_FOURTH = "epoch=4-step=4.ckpt"


def _orbax(step: int) -> Files:
    return {
        "default/_METADATA": b"{}",
        "default/manifest.ocdbt": b"m",
        "default/d/0a1b": b"x" * 500 + str(step).encode(),
        "_CHECKPOINT_METADATA": b"{}",
    }


_STATES = "mp_rank_00_model_states.pt"
_FP16 = {
    "config.json": b'{"architectures": ["Tiny"]}',
    "model.fp16-00001-of-00001.safetensors": weights(1),
    "model.safetensors.index.fp16.json": b'{"weight_map": {"w": "model.fp16-00001-of-00001.safetensors"}}',
}

STAND_INS = {
    "Lightning, each file deleted by the next, and a copy of the last": StandIn(
        """
for step in range(1, 5):
    save(output(), {f"epoch={step}-step={step}.ckpt": lightning_file(step)})
    save(output(), {"last.ckpt": lightning_file(step)})
    (output() / f"epoch={step - 1}-step={step - 1}.ckpt").unlink(missing_ok=True)
    time.sleep(PAUSE)
""",
        _lightning(1, 2, 3, 4),
        [1, 2, 3, 4],
    ),
    "Lightning, two files kept, and a link to the last": StandIn(
        """
for step in range(1, 5):
    save(output(), {f"epoch={step}-step={step}.ckpt": lightning_file(step)})
    (output() / "last.ckpt").unlink(missing_ok=True)
    (output() / "last.ckpt").symlink_to(f"epoch={step}-step={step}.ckpt")
    (output() / f"epoch={step - 2}-step={step - 2}.ckpt").unlink(missing_ok=True)
    time.sleep(PAUSE)
""",
        [*_lightning(1, 2, 3), (_FOURTH, {_FOURTH: lightning_file(4), "last.ckpt": b"-> a link"})],
        [1, 2, 3, 4],
    ),
    "nanoGPT, one file that each save writes over, and a failure": StandIn(
        """
for step in range(1, 6):
    save(output(), {"ckpt.pt": torch_file(step, {"model": {}, "optimizer": {}, "iter_num": step})})
    time.sleep(PAUSE if step < 5 else 0)
sys.exit(1)
""",
        [("ckpt.pt", {"ckpt.pt": _nano(step)}) for step in range(1, 6)],
        [1, 2, 3, 4, 5],
    ),
    "files beside a log that never rests, below the root": StandIn(
        """
folder = output() / "lightning_logs" / "version_0" / "checkpoints"
for step in range(1, 4):
    save(folder, {f"ckpt-{step}.pt": torch_file(step, {"model": {}, "optimizer": {}, "step": step})})
    (folder / f"ckpt-{step - 1}.pt").unlink(missing_ok=True)
    for second in range(5):
        save(folder, {"metrics.csv": b"1,2\\\\n" * second, "events.out.tfevents.1.host": b"e" * second})
        time.sleep(PAUSE / 5)
""",
        [
            (f"lightning_logs/version_0/checkpoints/ckpt-{step}.pt",
             {f"ckpt-{step}.pt": torch_file(step, {"model": {}, "optimizer": {}, "step": step})})
            for step in range(1, 4)
        ],
        [1, 2, 3],
    ),
    "DeepSpeed, and a failure": StandIn(
        f"""
for step in (100, 200):
    save(output() / f"global_step{{step}}", {{
        "{_STATES}": torch_file(step, {{"module": {{}}, "global_steps": step}}),
        "bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt": archive(step)}})
    save(output(), {{"latest": f"global_step{{step}}".encode(), "zero_to_fp32.py": b"#"}})
    time.sleep(PAUSE)
sys.exit(1)
""",
        [
            (f"global_step{step}", {
                f"global_step{step}/{_STATES}": torch_file(step, {"module": {}, "global_steps": step}),
                f"global_step{step}/bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt": archive(step),
                "latest": f"global_step{step}".encode(),
            })
            for step in (100, 200)
        ],
        [100, 200],
    ),
    "Megatron, and a failure": StandIn(
        """
for step in (100, 200):
    save(output() / f"iter_{step:07}" / "mp_rank_00", {
        "model_optim_rng.pt": torch_file(step, {"model": {}, "optimizer": {}, "iteration": step})})
    save(output(), {"latest_checkpointed_iteration.txt": str(step).encode()})
    time.sleep(PAUSE)
sys.exit(1)
""",
        [
            (f"iter_{step:07}", {
                f"iter_{step:07}/mp_rank_00/model_optim_rng.pt":
                    torch_file(step, {"model": {}, "optimizer": {}, "iteration": step}),
                "latest_checkpointed_iteration.txt": str(step).encode(),
            })
            for step in (100, 200)
        ],
        [100, 200],
    ),
    "Orbax, and a failure": StandIn(
        """
for step in (100, 200):
    folder = output() / f"{step}.orbax-checkpoint-tmp-17"
    save(folder / "default", {"_METADATA": b"{}", "manifest.ocdbt": b"m", "d/0a1b": b"x" * 500 + str(step).encode()})
    save(folder, {"_CHECKPOINT_METADATA": b"{}"})
    folder.rename(output() / str(step))
    time.sleep(PAUSE)
sys.exit(1)
""",
        [(str(step), _orbax(step)) for step in (100, 200)],
        [100, 200],
    ),
    "shards of half precision under an index of their own, deleted again": StandIn(
        f"""
folder = output() / "checkpoint-fp16"
save(folder, {_FP16!r})
time.sleep(2 * PAUSE)
shutil.rmtree(folder)
""",
        [("checkpoint-fp16", _FP16)],
        [None],
        resumable=False,
    ),
}  # fmt: skip


@pytest.mark.parametrize("stand_in", STAND_INS.values(), ids=STAND_INS)
def test_each_save_of_a_trainer_is_captured_under_its_own_name(new_machine: NewMachine, stand_in: StandIn) -> None:
    # Longer than all of the trainer's work: what waits for quiet is not captured while it runs.
    machine = new_machine(quiet_period=timedelta(seconds=60))
    job = run(machine, f"PAUSE = 0.4\n{stand_in.text}")
    assert job.status is (JobStatus.FAILED if "sys.exit(1)" in stand_in.text else JobStatus.SUCCEEDED)
    assert contents(machine) == stand_in.expected
    facts = [checkpoint.facts for checkpoint in captured(machine)]
    assert [one.step for one in facts] == stand_in.steps
    assert [one.resumable for one in facts] == [stand_in.resumable] * len(facts)
    assert all(one.inference_ready for one in facts if one.model), "weights under a name of their own are weights"
    assert "lost" not in job.reason
