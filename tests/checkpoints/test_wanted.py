from __future__ import annotations

import pytest

from flexai.checkpoints.errors import NotFoundError
from flexai.checkpoints.wanted import Wanted

TRAINER = [
    "config.json",
    "model-00001-of-00002.safetensors",
    "model-00002-of-00002.safetensors",
    "model.safetensors.index.json",
    "optimizer.pt",
    "rng_state.pth",
    "scheduler.pt",
    "tokenizer.json",
    "trainer_state.json",
]


def test_includes_roles_and_excludes_narrow_each_other() -> None:
    assert Wanted().of(TRAINER, "llama") == set(TRAINER)
    assert Wanted(only=("weights", "config")).of(TRAINER, "llama") == set(TRAINER[:4])
    assert Wanted(include=("*.pt", "*.json"), exclude=("trainer_*",), only=("state", "config")).of(
        TRAINER, "llama"
    ) == {"config.json", "scheduler.pt"}


@pytest.mark.parametrize(
    ("wanted", "message", "hint"),
    [
        (Wanted(include=("optimiser.pt",)), "--include 'optimiser.pt'", "did you mean 'optimizer.pt'? it has config"),
        (Wanted(include=("*.json", "*.gguf")), "--include '*.gguf'", "tokenizer.json and 1 more"),
        (Wanted(exclude=("*",)), "nothing of checkpoint 'llama' is asked for", "it has config.json"),
    ],
)
def test_a_part_that_names_nothing_is_an_error_that_says_what_there_is(wanted: Wanted, message: str, hint: str) -> None:
    with pytest.raises(NotFoundError) as raised:
        wanted.of(TRAINER, "llama")
    assert message in raised.value.message
    assert hint in raised.value.hint


def test_a_role_that_no_file_has_is_an_error_with_those_that_are_there() -> None:
    with pytest.raises(NotFoundError) as raised:
        Wanted(only=("weights", "optimizer")).of(["model.bin", "config.json", "README.md"], "llama")
    assert "no file for 'optimizer'" in raised.value.message
    assert raised.value.hint == "it has files for weights, config"


def test_what_there_is_is_told_by_folders_where_it_is_much() -> None:
    with pytest.raises(NotFoundError) as raised:
        Wanted(include=("zzz",)).of([f"unet/{number}.bin" for number in range(20)] + ["vae/a.bin"], "sd")
    assert raised.value.hint == "it has unet/, vae/"
