"""Which flags fit which provider, and where secrets may come from. Prefect is never asked."""

from __future__ import annotations

import os
import pty
import shlex
import subprocess
from pathlib import Path

import pytest

from flexai.checkpoints.errors import UsageError
from flexai.checkpoints.storage.kinds import KINDS
from flexai.cli.storage.secrets import read_secret
from tests.cli.conftest import Run
from tests.cli.program import PROGRAM, Program

ACCOUNT = "0123456789abcdef0123456789abcdef"


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("--provider r2", "--provider r2 needs --account-id"),
        ("--provider r2 --account-id x", "--provider r2 needs --access-key-id or --credentials-block"),
        ("--provider minio --access-key-id a", "--provider minio needs --endpoint-url"),
        ("--provider minio --endpoint-url http://m", "--provider minio needs --access-key-id or --credentials-block"),
        ("--provider s3 --secret-from env:X", "--secret-from needs --access-key-id"),
        ("--provider s3 --root x", "--root and --provider s3 cannot be used together"),
        ("--provider s3 --account-id x", "--account-id and --provider s3 cannot be used together"),
        ("--provider s3 --token-from env:X", "--token-from and --provider s3 cannot be used together"),
        ("--provider r2 --endpoint-url http://m", "--endpoint-url and --provider r2 cannot be used together"),
        ("--provider r2 --region x", "--region and --provider r2 cannot be used together"),
        (
            "--provider r2 --addressing-style path",
            "--addressing-style and --provider r2 cannot be used together",
        ),
        ("--provider minio --anonymous", "--anonymous and --provider minio cannot be used together"),
        ("--provider gcs --secret-from env:X", "--secret-from and --provider gcs cannot be used together"),
        ("--provider gcs --region x", "--region and --provider gcs cannot be used together"),
        ("--provider huggingface --project x", "--project and --provider huggingface cannot be used together"),
        ("--provider huggingface --access-key-id x", "--access-key-id and --provider huggingface cannot be used"),
        ("--provider local --root x --region y", "--region and --provider local cannot be used together"),
        (
            "--provider s3 --access-key-id a --secret-from env:NOT_SET",
            "--secret-from: there is no environment variable",
        ),
        ("--provider s3 --access-key-id a --secret-from file:/nowhere", "--secret-from: /nowhere cannot be read"),
        ("--provider s3 --access-key-id a --secret-from canary", "--secret-from names where the secret access key is"),
        ("--provider s3 --access-key-id a --secret-from env:", "--secret-from names where the secret access key is"),
        ("--provider huggingface --token-from hf_canary", "--token-from names where the token is"),
    ],
)
def test_flags_that_do_not_fit_are_refused_by_name(flexai: Run, typed: str, message: str) -> None:
    done = flexai("storage", "create", "my-conn", *shlex.split(typed))
    assert done.code == 2
    assert done.error.startswith(message)
    assert done.hint
    assert "canary" not in done.out + done.err
    assert "starting" not in done.err


def test_the_right_form_is_shown_for_each_provider(flexai: Run) -> None:
    for provider in KINDS:
        flag = "--root" if provider != "local" else "--region"
        done = flexai("storage", "create", "my-conn", "--provider", provider, flag, "x")
        assert done.hint.startswith(f"flexai storage create my-conn --provider {provider} ")


def test_every_flag_says_which_kinds_take_it(flexai: Run) -> None:
    shown = " ".join(flexai("storage", "create", "--help").out.split())
    for provider, kind in KINDS.items():
        for option in kind.options.values():
            _, _, text = shown.partition(f" {option.flag} ")
            said, _, _ = text.partition(f": {option.help}")
            assert provider in said.rpartition(". ")[2].rpartition("] ")[2].replace(",", "").split(), option.flag


@pytest.mark.parametrize("content", ["canary", "canary\n", "  canary\r\n", "\ufeffcanary"])
def test_a_secret_comes_from_a_file_without_what_editors_add(tmp_path: Path, content: str) -> None:
    (tmp_path / "secret").write_text(content, encoding="utf-8")
    assert read_secret("--secret-from", f"file:{tmp_path}/secret", "secret") == "canary"


def test_a_secret_comes_from_a_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_SECRET", "canary")
    assert read_secret("--secret-from", "env:MY_SECRET", "secret") == "canary"


def test_a_file_below_the_home_folder_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "secret").write_text("canary")
    assert read_secret("--secret-from", "file:~/secret", "secret") == "canary"


@pytest.mark.parametrize(
    "content", [b"", b"\n", b"two words canary", b"canary\ncanary", b"\xff\xfecanary", b"canary\0", b"c" * 70_000]
)
def test_what_can_be_no_secret_is_refused_without_being_quoted(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "secret").write_bytes(content)
    with pytest.raises(UsageError) as refused:
        read_secret("--secret-from", f"file:{tmp_path}/secret", "secret")
    assert "canary" not in refused.value.message


def test_a_key_file_may_have_many_lines(tmp_path: Path) -> None:
    (tmp_path / "key.json").write_text('{\n "a": 1\n}\n')
    assert read_secret("--x", f"file:{tmp_path}/key.json", "key", one_word=False) == '{\n "a": 1\n}'


def test_without_a_terminal_nothing_is_asked(program: Program) -> None:
    for flags in (["--provider", "s3", "--access-key-id", "a"], ["--provider", "huggingface", "--token-from"]):
        done = program.run("storage", "create", "my-conn", *flags)
        assert done.code == 2
        assert "there is no terminal to ask" in done.error


@pytest.mark.parametrize("flags", [["--secret-from"], [], ["--secret-from", "-"]])
def test_at_a_terminal_the_secret_is_asked_for_without_echo(program: Program, flags: list[str]) -> None:
    master, slave = pty.openpty()
    # The endpoint is refused after the secret was read, so that no Prefect is needed.
    arguments = ["--provider", "s3", "--access-key-id", "a", "--endpoint-url", "http://169.254.169.254", *flags]
    with subprocess.Popen(
        [PROGRAM, "storage", "create", "my-conn", *arguments],
        cwd=program.cwd,
        env=program.environment | {"PREFECT_API_URL": "http://127.0.0.1:9/api"},
        stdin=slave,
        stdout=slave,
        stderr=slave,
        start_new_session=True,
    ) as process:
        os.close(slave)
        shown = b""
        while b"Secret access key" not in shown:
            shown += os.read(master, 1024)
        os.write(master, b"canary-secret\n")
        shown += _rest(master)
        assert process.wait(60) == 2
    os.close(master)
    assert b"the endpoint is refused" in shown
    assert b"canary" not in shown


def _rest(master: int) -> bytes:
    shown = b""
    while True:
        try:
            piece = os.read(master, 1024)
        except OSError:  # how Linux says that the other end is closed
            return shown
        if not piece:
            return shown
        shown += piece


def test_an_endpoint_that_is_refused_is_not_quoted(program: Program) -> None:
    api = {"PREFECT_API_URL": "http://127.0.0.1:9/api"}
    done = program.run(
        "storage", "create", "my-conn", "--provider", "s3", "--endpoint-url", "https://canary:canary@host", env=api
    )
    assert done.code == 2
    assert done.error.startswith("--endpoint-url: the endpoint is refused: it has a user name or password in it")
    assert "canary" not in done.err
