"""Each framework's ordinary layouts: what it saves is captured whole, under its own name."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.frameworks.harness import Case, Trainer, compare, record

pytestmark = pytest.mark.frameworks

CASES = (
    Case("torch", "torch_save", "in-place", "`torch.save` over one path", resumes="yes"),
    Case("torch", "torch_save", "rename", "`torch.save` to a temporary name, then `os.replace`", resumes="yes"),
    Case("torch", "torch_save", "numbered", "`torch.save` to numbered files, of which two stay", resumes="tried"),
    Case(
        "torch", "torch_save", "best", "`checkpoint.pth.tar`, and `model_best.pth.tar` as its copy", resumes="yes",
        has_copies=True,
    ),
    Case("torch", "torch_dcp", "save", "`dcp.save`", resumes="yes"),
    Case("torch", "torch_dcp", "async", "`dcp.async_save`", resumes="yes"),
    Case("torch", "torch_dcp", "rank-wise", "`dcp.save` with `use_collectives=False`", resumes="yes"),
    Case("torch", "torch_dcp", "safetensors", "`HuggingFaceStorageWriter`, in shards", resumes="no"),
    Case("torch", "torch_dcp", "safetensors-consolidated", "`HuggingFaceStorageWriter`, consolidated", resumes="no"),
    Case("transformers", "transformers_trainer", "rotating", "Trainer, `save_total_limit=1`, nested", resumes="tried"),
    Case("transformers", "transformers_trainer", "model-only", "Trainer, `save_only_model=True`", resumes="no"),
    Case("accelerate", "accelerate_state", "explicit", "`save_state` to `step_N`", resumes="yes"),
    Case("accelerate", "accelerate_state", "automatic", "`save_state`, automatic names, one stays", resumes="yes"),
    Case("lightning", "lightning_fit", "copy", "ModelCheckpoint, `save_last=True`", resumes="tried", has_copies=True),
    Case("lightning", "lightning_fit", "link", 'ModelCheckpoint, `monitor`, `save_last="link"`', resumes="yes"),
    Case("lightning", "lightning_fit", "default", "below `lightning_logs`, beside a busy CSV log", resumes="yes"),
    Case("orbax-checkpoint", "orbax_manager", "", "CheckpointManager, `max_to_keep=1`", resumes="yes"),
    Case("flax", "flax_files", "msgpack", "`to_bytes` to numbered files, of which one stays", resumes="yes"),
    Case("flax", "flax_files", "legacy", "`save_checkpoint` of `flax.training`, `keep=1`", resumes="yes"),
    Case("keras", "keras_fit", "numbered", "ModelCheckpoint to numbered `.keras` files", resumes="yes"),
    Case("keras", "keras_fit", "best", "ModelCheckpoint over one `.keras` file", has_step=False, resumes="yes"),
    Case("keras", "keras_fit", "weights", "ModelCheckpoint over one `.weights.h5` file", has_step=False, resumes="yes"),
    Case("peft", "peft_adapters", "", "`save_pretrained` of an adapter", resumes="no"),
    Case("sentence-transformers", "sentence_transformers_save", "", "`save`", has_step=False, resumes="no"),
    Case("scikit-learn", "sklearn_joblib", "numbered", "`joblib.dump` to numbered files"),
    Case("scikit-learn", "sklearn_joblib", "in-place", "`joblib.dump` over one file", has_step=False),
    Case("xgboost", "xgboost_train", "", "TrainingCheckPoint", resumes="yes"),
    Case("lightgbm", "lightgbm_train", "", "`save_model` to numbered files", resumes="yes"),
    Case("stable-baselines3", "stable_baselines", "", "CheckpointCallback", resumes="yes"),
)  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=[case.id for case in CASES])
def test_each_save_is_captured_whole_under_its_own_name(case: Case, frameworks: Path, tmp_path: Path) -> None:
    trainer = Trainer(tmp_path, frameworks / "bin/python", case.script, case.argument)
    code, printed = trainer.run()
    assert code == 0, printed
    outcome = compare(trainer, case)
    record(frameworks / "results", case, outcome)
    assert not outcome.faults, "\n".join([*outcome.faults, printed])
