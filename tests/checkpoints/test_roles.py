from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flexai.checkpoints.roles import BY_FOLDER, BY_NAME, Role, RoleRule, role_of_path, sizes_by_role
from flexai.checkpoints.training.completeness.by_format import FileRole, role_of


@pytest.mark.parametrize(
    ("role", "paths"),
    [
        (
            Role.WEIGHTS,
            "model.safetensors pytorch_model-00001-of-00002.bin model.safetensors.index.json adapter_model.bin ckpt.pt"
            " epoch=3-step=400.ckpt unet/diffusion_pytorch_model.fp16.safetensors pytorch_model_fsdp_0/__0_0.distcp"
            " pytorch_model_fsdp_0/.metadata .metadata __1_0.distcp global_step5/mp_rank_00_model_states.pt"
            " iter_0000500/mp_rank_00/model_optim_rng.pt consolidated.00.pth llama.gguf model.onnx variables.index"
            " variables.data-00000-of-00001 saved_model.pb default/manifest.ocdbt default/_METADATA"
            " default/d/0123456789abcdef0123456789abcdef model.h5 flax_model.msgpack model.pdparams",
        ),
        (
            Role.OPTIMIZER,
            "optimizer.pt optimizer.bin optimizer_1.bin optimizer.safetensors optim.pt policy.optimizer.pth"
            " global_step5/zero_pp_rank_0_mp_rank_00_optim_states.pt bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt"
            " optimizer_0/__0_0.distcp optimizer_0/.metadata mp_rank_00/distrib_optim.pt model.pdopt"
            " optimizer/optimizer_pp-0-of-1_tp-0-of-1.pt opt_state.msgpack Optimizer.PT",
        ),
        (
            Role.TOKENIZER,
            "tokenizer.json tokenizer.model tokenizer_config.json special_tokens_map.json added_tokens.json vocab.json"
            " vocab.txt merges.txt spiece.model chat_template.jinja qwen.tiktoken tekken.json"
            " preprocessor_config.json processor_config.json tokenizer_2/vocab.json tokenization_qwen.py",
        ),
        (
            Role.CONFIG,
            "config.json generation_config.json adapter_config.json model_index.json params.json unet/config.json"
            " scheduler/scheduler_config.json modeling_llama.py configuration_llama.py hparams.yaml config.yaml",
        ),
        (
            Role.STATE,
            "scheduler.pt scheduler.bin scaler.pt rng_state.pth rng_state_3.pth random_states_0.pkl trainer_state.json"
            " training_args.bin sampler.bin dl_state_dict.bin custom_checkpoint_0.pkl latest"
            " latest_checkpointed_iteration.txt lr_scheduler/lr_scheduler.pt random/tp-0.pt",
        ),
        (None, "README.md LICENSE .gitattributes events.out.tfevents.1 logs/train.log images/a.png"),
    ],
)
def test_a_trainers_file_names_tell_what_a_file_is_for(role: Role | None, paths: str) -> None:
    assert {path: role_of_path(path) for path in paths.split()} == dict.fromkeys(paths.split(), role)


def test_the_roles_agree_with_those_that_a_capture_judges_by() -> None:
    same = {
        FileRole.OPTIMIZER: Role.OPTIMIZER,
        FileRole.DEEPSPEED_OPTIMIZER: Role.OPTIMIZER,
        FileRole.STATE: Role.STATE,
    }
    names = [
        "optimizer.pt",
        "optimizer_3.bin",
        "zero_pp_rank_0_mp_rank_00_optim_states.pt",
        "scheduler.pt",
        "scaler.pt",
        "sampler_1.bin",
        "dl_state_dict.bin",
        "training_args.bin",
        "rng_state_2.pth",
        "random_states_0.pkl",
        "custom_checkpoint_1.pkl",
        "mp_rank_00_model_states.pt",
        "__0_0.distcp",
        "a.ckpt",
        "model.safetensors.index.json",
        "model.safetensors",
    ]
    assert {name: role_of_path(name) for name in names} == {
        name: same.get(role_of(name), Role.WEIGHTS) for name in names
    }


@pytest.mark.parametrize("rule", [*BY_NAME, *BY_FOLDER], ids=lambda rule: rule.pattern[:20])
@given(data=st.data())
def test_the_words_of_a_rule_keep_out_no_name_that_its_pattern_matches(rule: RoleRule, data: st.DataObject) -> None:
    pattern = re.compile(rule.pattern, re.IGNORECASE)
    assert rule.matches(data.draw(st.from_regex(pattern, fullmatch=True, alphabet=st.characters(codec="ascii"))))


def test_sizes_are_added_up_by_role() -> None:
    sizes = [("README.md", 1), ("optimizer.pt", 8), ("a.safetensors", 3), ("b.safetensors", 4)]
    assert list(sizes_by_role(sizes).items()) == [("weights", 7), ("optimizer", 8), ("other", 1)]
