"""What a folder leaves out by itself, and the links that are followed out of it."""

from __future__ import annotations

import contextlib
import gc
import os
from pathlib import Path
from typing import Any

import pytest

from flexai.checkpoints.errors import SourceError
from flexai.checkpoints.patterns import LONGEST_IGNORE_FILE, looks_secret, of_folder
from flexai.checkpoints.storage.beneath import Beneath
from flexai.checkpoints.transfer.scan import scan_local
from tests.support.machine import Machine
from tests.support.progress import Counter
from tests.support.trees import write_tree


def scanned(*specs: str, **options: Any) -> tuple[list[str], list[str]]:
    left_out: list[str] = []
    found = scan_local(specs, left_out=left_out, **options)
    return [source.path for source in found], sorted(left_out)


def test_a_folder_leaves_out_what_version_control_python_and_the_hubs_cache_keep_in_it(tmp_path: Path) -> None:
    tree = {
        ".git/config": b"",
        ".gitattributes": b"",
        "code/__pycache__/a.pyc": b"",
        ".cache/huggingface/download/a.lock": b"",
        ".cache/huggingface/download/a.metadata": b"",
        "model.bin": b"m",
    }
    write_tree(tmp_path / "run", tree)
    kept = [".cache/huggingface/download/a.metadata", ".gitattributes", "model.bin"]
    behind = [".cache/huggingface/download/a.lock", ".git", "code/__pycache__"]
    assert scanned(str(tmp_path / "run")) == (kept, behind)
    assert scanned(f"{tmp_path}/run=x/y") == ([f"x/y/{path}" for path in kept], [f"x/y/{path}" for path in behind])
    assert scanned(str(tmp_path / "run"), default_excludes=False) == (sorted(tree), [])
    assert scanned(f"{tmp_path}/run/.git/config=config") == (["config"], [])


def test_the_ignore_file_of_a_folder_has_patterns_from_its_root_and_stays_behind(tmp_path: Path) -> None:
    rules = b"# notes\n\n*.tmp\n/logs/\n!keep.tmp  \n!__pycache__\n"
    tree = {
        ".flexaiignore": rules,
        "a.tmp": b"",
        "keep.tmp": b"",
        "logs/x": b"",
        "deep/logs/x": b"",
        "__pycache__/a.pyc": b"",
        "deep/.flexaiignore": b"*",
    }
    write_tree(tmp_path / "run", tree)
    kept = ["__pycache__/a.pyc", "deep/.flexaiignore", "deep/logs/x", "keep.tmp"]
    for options in ({}, {"follow_symlinks": True}):
        assert scanned(str(tmp_path / "run"), **options) == (kept, [".flexaiignore", "a.tmp", "logs"])
    (tmp_path / "run/.flexaiignore").write_text("*")
    with pytest.raises(SourceError, match="holds no file that is not excluded"):
        scanned(str(tmp_path / "run"))


def test_an_ignore_file_that_is_a_link_is_followed_as_others_are_or_refused(tmp_path: Path) -> None:
    """What it names would be pushed if it was passed over."""
    write_tree(tmp_path, {"rules": b"*.bin", "run/rules": b"*.bin", "run/a.bin": b"a"})
    (tmp_path / "run/.flexaiignore").symlink_to("rules")
    with pytest.raises(SourceError, match=r"\.flexaiignore is a symbolic link"):
        scanned(str(tmp_path / "run"))
    assert scanned(str(tmp_path / "run"), follow_symlinks=True) == (["rules"], [".flexaiignore", "a.bin"])
    (tmp_path / "run/.flexaiignore").unlink()
    (tmp_path / "run/.flexaiignore").symlink_to(tmp_path / "rules")
    with pytest.raises(SourceError, match="leaves"):
        scanned(str(tmp_path / "run"), follow_symlinks=True)


def test_an_ignore_file_of_a_snapshot_is_read_from_its_blob(tmp_path: Path) -> None:
    snapshot = _cached(tmp_path)
    write_tree(snapshot.parent.parent, {"blobs/9abc": b"unet/"})
    (snapshot / ".flexaiignore").symlink_to("../../blobs/9abc")
    assert scanned(str(snapshot), follow_symlinks=True) == (["config.json"], [".flexaiignore", "unet"])


@pytest.mark.parametrize("kind", ["folder", "FIFO", "FIFO that is written to"])
def test_an_ignore_file_that_is_no_file_is_refused_and_not_waited_for(tmp_path: Path, kind: str) -> None:
    write_tree(tmp_path, {"a.bin": b"a"})
    path = tmp_path / ".flexaiignore"
    with contextlib.ExitStack() as stack:
        if kind == "folder":
            path.mkdir()
        else:
            os.mkfifo(path)
        if kind == "FIFO that is written to":
            stack.callback(os.close, os.open(path, os.O_RDWR | os.O_NONBLOCK))
        gc.collect()
        opened = len(os.listdir("/proc/self/fd"))
        with pytest.raises(SourceError, match=r"\.flexaiignore cannot be read: it is no file"):
            scanned(str(tmp_path))
        assert Beneath(tmp_path).peek(".flexaiignore", 10) == b""
        gc.collect()
        assert len(os.listdir("/proc/self/fd")) == opened


def test_an_ignore_file_is_read_as_a_whole_or_not_at_all(tmp_path: Path) -> None:
    line = b"/logs/old\n"
    rules = line * (LONGEST_IGNORE_FILE // len(line))
    write_tree(tmp_path, {".flexaiignore": rules, "logs/old": b"", "logs/new": b""})
    assert scanned(str(tmp_path)) == (["logs/new"], [".flexaiignore", "logs/old"])
    rules += b"/logs"  # and what is behind the longest
    (tmp_path / ".flexaiignore").write_bytes(rules + b"/new/and/so/on")
    with pytest.raises(SourceError, match="longer than 64 KiB"):
        scanned(str(tmp_path))
    # Where no push can be refused, the line that is cut off names nothing.
    patterns = of_folder(rules + b"/new/and/so/on")
    assert patterns.name("logs/old")
    assert not patterns.name("logs/new")


def _cached(hub: Path) -> Path:
    repository = hub / "models--org--name"
    write_tree(repository, {"blobs/1234": b"weights", "blobs/5678": b"{}"})
    snapshot = repository / "snapshots/abcdef"
    (snapshot / "unet").mkdir(parents=True)
    (snapshot / "config.json").symlink_to("../../blobs/5678")
    (snapshot / "unet/model.bin").symlink_to("../../../blobs/1234")
    return snapshot


def test_a_snapshot_of_the_hubs_cache_is_pushed_from_its_blobs(tmp_path: Path, machine: Machine) -> None:
    snapshot = _cached(tmp_path)
    with pytest.raises(SourceError, match="symbolic link") as raised:
        scanned(str(snapshot))
    assert "--follow-symlinks" in raised.value.hint
    machine.push("model", snapshot, follow_symlinks=True)
    assert machine.fetched("model") == {"config.json": b"{}", "unet/model.bin": b"weights"}


@pytest.mark.parametrize("target", ["../../refs/main", "../../../other/blobs/1", "/etc/passwd", "../abc/config.json"])
def test_a_snapshots_links_lead_to_its_own_blobs_alone(tmp_path: Path, target: str) -> None:
    snapshot = _cached(tmp_path)
    write_tree(tmp_path, {"models--org--name/refs/main": b"", "other/blobs/1": b""})
    write_tree(tmp_path / "models--org--name/snapshots", {"abc/config.json": b""})
    (snapshot / "odd").symlink_to(target)
    with pytest.raises(SourceError, match="leaves"):
        scanned(str(snapshot), follow_symlinks=True)


def test_a_folder_that_is_no_snapshot_may_lead_to_no_blobs(tmp_path: Path) -> None:
    write_tree(tmp_path, {"blobs/1234": b"w", "mine/run/a": b"a"})
    (tmp_path / "mine/run/b").symlink_to("../../blobs/1234")
    with pytest.raises(SourceError, match="leaves"):
        scanned(str(tmp_path / "mine/run"), follow_symlinks=True)


@pytest.mark.parametrize(
    ("paths", "are_secret"),
    [
        (
            ".env x/.env .env.local key.pem x/server.KEY id_rsa .ssh/id_ed25519 .netrc .git/config .git-credentials",
            True,
        ),
        (".env.example id_rsa.pub config model.bin tokenizer.json keys.json environment.yml", False),
    ],
)
def test_names_under_which_secrets_are_kept_are_known(paths: str, are_secret: bool) -> None:
    assert {path: looks_secret(path) for path in paths.split()} == dict.fromkeys(paths.split(), are_secret)


def test_a_push_says_in_a_line_each_what_was_left_out_and_what_looks_like_a_secret(machine: Machine) -> None:
    tree = {".git/HEAD": b"ref", "__pycache__/a.pyc": b"", "m.bin": b"m", ".env": b"KEY=1", "server.pem": b"-----"}
    progress = Counter()
    machine.push("model", machine.write("run", tree), progress=progress)
    left, secret = progress.notes
    assert left.endswith("left out, as .flexaiignore or the defaults say") and "and 1 more" in left
    assert secret.startswith("'.env' and 1 more look like secrets")
    assert set(machine.fetched("model")) == {"m.bin", ".env", "server.pem"}
