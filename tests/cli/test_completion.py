from __future__ import annotations

import shutil
import subprocess

import pytest

from tests.cli.conftest import Run
from tests.cli.program import Program


def _complete(program: Program, words: str) -> list[str]:
    """What a bash that asks for the last of the words is given."""
    typed = words.split(" ")
    done = program.run(
        env={
            "_FLEXAI_COMPLETE": "bash_complete",
            "COMP_WORDS": words,
            "COMP_CWORD": str(len(typed) - 1),
        }
    )
    assert done.err == ""
    return [line.partition(",")[2] for line in done.out.splitlines() if line]


@pytest.fixture(autouse=True)
def pushed(flexai: Run, program: Program) -> None:
    program.file("a.bin")
    for name in ("mistral-500", "Mistral-600", "llama"):
        assert flexai("checkpoint", "push", name, "-f", "a.bin").code == 0


def test_names_of_checkpoints_are_completed_in_any_case(program: Program) -> None:
    for command in ("inspect", "fetch", "delete", "export", "verify"):
        assert _complete(program, f"flexai checkpoint {command} m") == ["mistral-500", "Mistral-600"]
    assert _complete(program, "flexai training run x --checkpoint ll") == ["llama"]
    assert sorted(_complete(program, "flexai checkpoint inspect ")) == ["Mistral-600", "llama", "mistral-500"]


def test_commands_and_options_are_completed(program: Program) -> None:
    assert _complete(program, "flexai ch") == ["checkpoint"]
    assert _complete(program, "flexai checkpoint l") == ["list"]
    assert _complete(program, "flexai checkpoint push x --from") == ["--from-checkpoint"]
    assert _complete(program, "flexai completion z") == ["zsh"]


def test_captured_checkpoints_and_jobs_are_completed(program: Program) -> None:
    script = "mkdir $FLEXAI_OUTPUT_CHECKPOINT_DIR/c; echo x > $FLEXAI_OUTPUT_CHECKPOINT_DIR/c/w.bin; sleep 0.1"
    program.run("training", "run", "my-run", "--", "sh", "-c", script, env={"FLEXAI_QUIET_PERIOD": "0.05"})
    assert _complete(program, "flexai training inspect my") == ["my-run"]
    for row in program.run("training", "checkpoints", "my-run", "--json").json():
        assert _complete(program, f"flexai checkpoint fetch {row['id'][:6]}") == [row["id"]]
    for words in (
        "checkpoint fetch MY-run/",
        "checkpoint push x --from-checkpoint my-run/c",
        "training run y -C my-run/",
    ):
        assert _complete(program, f"flexai {words}") == ["my-run/c/w.bin"]
    assert _complete(program, "flexai checkpoint fetch other-run/") == []


def test_a_broken_catalog_completes_nothing_and_says_nothing(program: Program) -> None:
    (program.home / "catalog.db").write_bytes(b"no database" * 100)
    assert _complete(program, "flexai checkpoint inspect m") == []
    assert _complete(program, "flexai training inspect m") == []


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_of_a_shell_is_printed(program: Program, shell: str) -> None:
    done = program.run("completion", shell)
    assert done.code == 0
    assert "_FLEXAI_COMPLETE" in done.out


def test_bash_completes_with_the_script(program: Program) -> None:
    bash = shutil.which("bash")
    assert bash is not None
    script = f"""
        PATH="{program.folder_of_program}:$PATH"
        source <(flexai completion bash)
        COMP_WORDS=(flexai checkpoint inspect mis) COMP_CWORD=3
        _flexai_completion flexai
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    done = subprocess.run(
        [bash, "-c", script], env=program.environment, cwd=program.cwd, capture_output=True, text=True, check=False
    )
    assert done.stdout.split() == ["mistral-500", "Mistral-600"], done.stderr


def test_an_unknown_shell_is_refused(flexai: Run) -> None:
    done = flexai("completion", "tcsh")
    assert done.code == 2
    assert "'bash', 'zsh', 'fish'" in done.error


@pytest.mark.parametrize(
    "variables", [{}, {"COMP_WORDS": "flexai ", "COMP_CWORD": "one"}, {"_FLEXAI_COMPLETE": "junk"}]
)
def test_a_completion_that_fails_shows_nothing(program: Program, variables: dict[str, str]) -> None:
    done = program.run(env={"_FLEXAI_COMPLETE": "bash_complete"} | variables)
    assert (done.code, done.out, done.err) == (1, "", "")
