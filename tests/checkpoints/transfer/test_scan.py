from __future__ import annotations

import os
import pwd
import re
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flexai.checkpoints.errors import SourceError, UnsafePathError
from flexai.checkpoints.paths import CheckpointPath
from flexai.checkpoints.storage.connection import RemotePath
from flexai.checkpoints.storage.local import PARTIAL_SUFFIX, LocalStorage
from flexai.checkpoints.transfer.scan import scan_local, scan_remote, split_spec
from tests.hostile.paths import CLASHING_SETS, HOSTILE_PATHS, TWINS
from tests.hostile.swaps import swapping
from tests.support.trees import write_tree

_TREE = {"config.json": b"{}", "model/a.bin": b"aa", "model/deep/b.bin": b"bbb"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_tree(tmp_path / "run", _TREE)


def _paths(*specs: object, follow_symlinks: bool = False) -> list[str]:
    return [source.path for source in scan_local([str(spec) for spec in specs], follow_symlinks=follow_symlinks)]


def test_a_file_without_a_destination_keeps_its_base_name(folder: Path) -> None:
    assert _paths(folder / "model" / "a.bin") == ["a.bin"]


def test_a_file_goes_where_its_destination_says(folder: Path) -> None:
    assert _paths(f"{folder}/model/a.bin=weights/first.bin") == ["weights/first.bin"]


def test_a_destination_that_ends_with_a_slash_is_a_folder_for_the_file(folder: Path) -> None:
    assert _paths(f"{folder}/model/a.bin=weights/") == ["weights/a.bin"]


def test_a_folder_s_content_goes_to_the_root_or_below_its_destination(folder: Path) -> None:
    assert _paths(folder) == sorted(_TREE)
    assert _paths(f"{folder}/") == sorted(_TREE)
    assert _paths(f"{folder}=here/there") == [f"here/there/{path}" for path in sorted(_TREE)]
    assert _paths(f"{folder}=here/") == [f"here/{path}" for path in sorted(_TREE)]
    assert _paths(f"{folder}=/") == sorted(_TREE)


def test_sources_come_in_order_of_their_paths_with_their_sizes(folder: Path) -> None:
    sources = scan_local([f"{folder}=z", f"{folder}/config.json"])
    assert [(source.path, source.size) for source in sources] == [
        ("config.json", 2),
        ("z/config.json", 2),
        ("z/model/a.bin", 2),
        ("z/model/deep/b.bin", 3),
    ]
    assert all(source.local_path.is_absolute() for source in sources)


def test_a_source_relative_to_the_working_directory_is_found(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder / "model")
    assert _paths(".") == ["a.bin", "deep/b.bin"]
    assert _paths("deep/..") == ["a.bin", "deep/b.bin"]
    assert _paths("./a.bin") == ["a.bin"]
    assert _paths("../config.json") == ["config.json"]


def test_a_tilde_means_the_home_directory(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(folder))
    assert _paths("~/config.json") == ["config.json"]
    assert _paths("~/config.json=c.json") == ["c.json"]


@pytest.mark.parametrize("name", ["epoch=3-step=500.ckpt", "a=", "a==b", "lr=1e-4"])
def test_an_equals_sign_in_the_name_of_something_that_exists_is_part_of_the_name(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(b"x")
    assert split_spec(str(path)) == (str(path), "")
    assert split_spec(f"{path}=here=there") == (str(path), "here=there")


def test_an_equals_sign_in_the_name_of_a_folder_above_is_part_of_it(tmp_path: Path) -> None:
    folder = write_tree(tmp_path / "lr=1e-4", {"a.bin": b"x"})
    assert _paths(folder / "a.bin") == ["a.bin"]
    assert _paths(f"{folder}/a.bin=b.bin") == ["b.bin"]
    assert _paths(f"{folder}=run") == ["run/a.bin"]


def test_the_shortest_source_that_exists_is_the_source(tmp_path: Path) -> None:
    write_tree(tmp_path, {"a": b"1", "a=b": b"2"})
    assert split_spec(f"{tmp_path}/a=b=c") == (f"{tmp_path}/a", "b=c")
    assert split_spec(f"{tmp_path}/a=b") == (f"{tmp_path}/a=b", "")


def test_an_equals_sign_with_nothing_after_it_is_refused(folder: Path) -> None:
    with pytest.raises(SourceError, match="nothing after '='") as caught:
        scan_local([f"{folder}/config.json="])
    assert "SOURCE=DESTINATION" in caught.value.hint


@pytest.mark.parametrize("spec", ["a\0b", "~nobody-of-that-name/a", "a" * 5000, "~nobody-of-that-name/a=b", "a\0=b"])
def test_a_source_that_cannot_be_a_path_is_refused(spec: str) -> None:
    with pytest.raises(SourceError):
        scan_local([spec])


@pytest.mark.parametrize("spec", ["", "=", "=a"])
def test_an_empty_source_is_refused(spec: str) -> None:
    with pytest.raises(SourceError):
        scan_local([spec])


def test_no_source_at_all_is_refused() -> None:
    with pytest.raises(SourceError, match="nothing to push"):
        scan_local([])


def test_a_source_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=f"{tmp_path}/nowhere.bin does not exist"):
        scan_local([f"{tmp_path}/nowhere.bin"])
    with pytest.raises(SourceError, match=f"{tmp_path}/nowhere does not exist"):
        scan_local([f"{tmp_path}/nowhere=a"])


def test_a_source_below_a_file_is_refused(folder: Path) -> None:
    with pytest.raises(SourceError, match=r"config\.json/x"):
        scan_local([f"{folder}/config.json/x"])


def test_a_folder_without_a_file_is_refused_even_beside_other_sources(folder: Path) -> None:
    empty = folder.parent / "empty"
    (empty / "deep").mkdir(parents=True)
    with pytest.raises(SourceError, match=f"{empty} holds no file"):
        scan_local([str(folder), str(empty)])


def test_an_empty_file_is_a_source(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    (source,) = scan_local([str(tmp_path / "empty")])
    assert source.size == 0


def test_two_sources_for_one_path_are_refused(folder: Path) -> None:
    with pytest.raises(SourceError, match=r"two sources are meant for the path 'config\.json'"):
        scan_local([str(folder), f"{folder}/model/a.bin=config.json"])


@pytest.mark.parametrize(("one", "other"), TWINS)
def test_two_paths_that_some_file_system_takes_for_one_are_refused(folder: Path, one: str, other: str) -> None:
    both = [f"{folder}/config.json={one}", f"{folder}/model/a.bin={other}"]
    with pytest.raises(UnsafePathError) as raised:
        scan_local(both)
    way_out = re.match(r"--exclude '(.*?)' leaves", raised.value.hint)
    assert way_out is not None
    assert len(scan_local(both, exclude=[way_out[1]])) == 1


@pytest.mark.parametrize("paths", [paths for paths in CLASHING_SETS if len(set(paths)) == len(paths)])
def test_paths_that_cannot_lie_together_are_refused(folder: Path, paths: tuple[str, ...]) -> None:
    with pytest.raises(UnsafePathError):
        scan_local([f"{folder}/config.json={path}" for path in paths])


# What a user may write: a slash at the end says "a folder".
_FOLDERS = {"a/", "a/b/"}
_HOSTILE = [(path, reason) for path, reason in HOSTILE_PATHS if path not in _FOLDERS]


@pytest.mark.parametrize(("path", "reason"), _HOSTILE)
def test_a_hostile_destination_of_a_file_is_refused(folder: Path, path: str, reason: str) -> None:
    with pytest.raises((UnsafePathError, SourceError)):
        scan_local([f"{folder}/config.json={path}"])


@pytest.mark.parametrize(("path", "reason"), [one for one in _HOSTILE if one[0].strip("/") or not one[0]])
def test_a_hostile_destination_of_a_folder_is_refused(folder: Path, path: str, reason: str) -> None:
    with pytest.raises((UnsafePathError, SourceError)):
        scan_local([f"{folder}={path}"])


def _can_be_a_file_s_name(name: str) -> bool:
    encoded = name.encode(errors="surrogatepass")
    return name not in {"", ".", ".."} and not {"/", "\0"} & {*name} and len(encoded) < 256 and name.isprintable()


@pytest.mark.parametrize(
    ("name", "reason"), [(path, reason) for path, reason in HOSTILE_PATHS if _can_be_a_file_s_name(path)]
)
def test_a_hostile_name_in_a_folder_is_refused(tmp_path: Path, name: str, reason: str) -> None:
    root = write_tree(tmp_path / "run", {"good.bin": b"x", name: b"x"})
    with pytest.raises(UnsafePathError):
        scan_local([str(root)])


def test_a_name_that_is_no_unicode_text_is_refused(tmp_path: Path) -> None:
    root = write_tree(tmp_path / "run", {"good.bin": b"x", os.fsdecode(b"bad\xff.bin"): b"x"})
    with pytest.raises(UnsafePathError):
        scan_local([str(root)])


def test_a_link_is_refused_and_the_way_out_shown(folder: Path) -> None:
    (folder / "link.bin").symlink_to("config.json")
    for spec in (folder, folder / "link.bin"):
        with pytest.raises(SourceError, match=r"link\.bin is a symbolic link") as caught:
            scan_local([str(spec)])
        assert "--follow-symlinks" in caught.value.hint


def test_a_link_to_a_folder_is_refused(folder: Path) -> None:
    (folder / "latest").symlink_to("model")
    with pytest.raises(SourceError, match="latest is a symbolic link"):
        scan_local([str(folder)])


@pytest.mark.parametrize("follow_symlinks", [False, True])
def test_folders_that_are_swapped_for_links_while_they_are_listed_lead_nowhere(
    folder: Path, follow_symlinks: bool
) -> None:
    outside = write_tree(folder.parent / "outside", {"secret.bin": b"secret", "deep/secret.bin": b"secret"})
    found: set[str] = set()
    with swapping(folder / "model", outside):
        for _ in range(4000):
            with suppress(SourceError):
                found |= set(_paths(folder, follow_symlinks=follow_symlinks))
    assert "model/deep/b.bin" in found
    assert not [path for path in found if "secret" in path]


def test_links_inside_the_folder_are_followed_on_request(folder: Path) -> None:
    (folder / "link.bin").symlink_to("model/a.bin")
    (folder / "latest").symlink_to(folder / "model" / "deep")
    assert _paths(folder, follow_symlinks=True) == [
        "config.json",
        "latest/b.bin",
        "link.bin",
        "model/a.bin",
        "model/deep/b.bin",
    ]


def test_a_source_that_is_itself_a_link_is_followed_on_request(folder: Path) -> None:
    link = folder.parent / "latest"
    link.symlink_to(folder)
    with pytest.raises(SourceError, match="symbolic link"):
        scan_local([str(link)])
    assert _paths(link, follow_symlinks=True) == sorted(_TREE)


@pytest.mark.parametrize("target", ["../secret", "/etc/passwd", "../run-evil/secret", "model/../../secret"])
def test_a_link_that_leaves_the_folder_is_never_followed(folder: Path, target: str) -> None:
    write_tree(folder.parent, {"secret": b"s", "run-evil/secret": b"s"})
    (folder / "link").symlink_to(target)
    with pytest.raises(SourceError, match="a symbolic link that leaves"):
        scan_local([str(folder)], follow_symlinks=True)


def test_a_link_that_leaves_the_folder_by_another_link_is_never_followed(folder: Path) -> None:
    write_tree(folder.parent / "outside", {"secret": b"s"})
    (folder / "door").symlink_to("model/exit/secret")
    (folder / "model" / "exit").symlink_to(folder.parent / "outside")
    with pytest.raises(SourceError, match="a symbolic link that leaves"):
        scan_local([str(folder)], follow_symlinks=True)


def test_a_link_to_nowhere_is_refused(folder: Path) -> None:
    (folder / "link").symlink_to("gone")
    with pytest.raises(SourceError, match="to nowhere"):
        scan_local([str(folder)], follow_symlinks=True)


@pytest.mark.parametrize("target", [".", "..", "../.."])
def test_links_in_a_circle_are_noticed(folder: Path, target: str) -> None:
    (folder / "model" / "deep" / "loop").symlink_to(target)
    with pytest.raises(SourceError):
        scan_local([str(folder)], follow_symlinks=True)


def test_a_link_to_itself_is_noticed(folder: Path) -> None:
    (folder / "loop").symlink_to("loop")
    with pytest.raises(SourceError):
        scan_local([str(folder)], follow_symlinks=True)


def test_two_links_to_one_folder_are_no_circle(folder: Path) -> None:
    (folder / "one").symlink_to("model/deep")
    (folder / "two").symlink_to("model/deep")
    assert {"one/b.bin", "two/b.bin"} <= set(_paths(folder, follow_symlinks=True))


def test_a_pipe_or_a_socket_is_refused_without_being_opened(folder: Path) -> None:
    os.mkfifo(folder / "pipe")
    for spec in (folder, folder / "pipe"):
        with pytest.raises(SourceError, match="pipe is neither a file nor a folder"):
            scan_local([str(spec)])
    (folder / "pipe").unlink()
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(str(folder / "socket"))
        with pytest.raises(SourceError, match="socket is neither a file nor a folder"):
            scan_local([str(folder)])


def test_a_device_is_refused() -> None:
    with pytest.raises(SourceError, match="/dev/null is neither a file nor a folder"):
        scan_local(["/dev/null"])


def test_what_an_interrupted_fetch_left_is_no_source(folder: Path) -> None:
    (folder / "model" / f".a.bin.0123{PARTIAL_SUFFIX}").write_bytes(b"half")
    assert _paths(folder) == sorted(_TREE)


def test_an_unfinished_file_named_as_a_source_is_refused(folder: Path) -> None:
    unfinished = folder / f".a.bin.0123{PARTIAL_SUFFIX}"
    unfinished.write_bytes(b"half")
    for spec in (f"{unfinished}", f"{folder}/config.json=a{PARTIAL_SUFFIX}"):
        with pytest.raises(SourceError, match="unfinished"):
            scan_local([spec])


def test_a_folder_that_may_not_be_read_is_refused_by_name(tmp_path: Path) -> None:
    closed = write_tree(tmp_path / "run" / "closed", {"a.bin": b"x"})
    closed.chmod(0)
    try:
        found = _scan_as_another_user(tmp_path, tmp_path / "run")
    finally:
        closed.chmod(0o755)
    assert found == f"SourceError: source {closed} cannot be read: Permission denied"


def _scan_as_another_user(root: Path, source: Path) -> str:
    """What a scan says to a user whom permissions bind."""
    code = (
        "import sys\n"
        "from flexai.checkpoints.transfer.scan import scan_local\n"
        "from flexai.checkpoints.errors import CheckpointError\n"
        "import os\n"
        "if os.geteuid() == 0:\n"
        "    os.setgroups([]); os.setgid(int(sys.argv[2])); os.setuid(int(sys.argv[3]))\n"
        "try:\n"
        "    print([one.path for one in scan_local([sys.argv[1]])])\n"
        "except CheckpointError as error:\n"
        "    print(f'{type(error).__name__}: {error}')\n"
    )
    nobody = pwd.getpwnam("nobody")
    for folder in (root, *root.parents):
        if folder.stat().st_uid == os.geteuid() and folder != Path("/"):
            folder.chmod(folder.stat().st_mode | 0o055)
    arguments = [sys.executable, "-c", code, str(source), str(nobody.pw_gid), str(nobody.pw_uid)]
    return subprocess.run(arguments, capture_output=True, text=True, check=True).stdout.strip()


_NAMES = st.lists(st.sampled_from(["a", "b", "c=d", "e.bin", "f f"]), min_size=1, max_size=3).map("/".join)


@given(st.dictionaries(_NAMES, st.binary(max_size=3), min_size=1, max_size=6), st.sampled_from(["", "x", "x/y=z"]))
def test_every_file_of_a_folder_is_found_once(
    tmp_path_factory: pytest.TempPathFactory, files: dict[str, bytes], destination: str
) -> None:
    files = {path: text for path, text in files.items() if not any(one.startswith(f"{path}/") for one in files)}
    root = write_tree(tmp_path_factory.mktemp("any") / "run", files)
    sources = scan_local([f"{root}={destination}" if destination else str(root)])
    prefix = f"{destination}/" if destination else ""
    assert [(source.path, source.local_path.read_bytes()) for source in sources] == sorted(
        (prefix + path, text) for path, text in files.items()
    )


def _place(root: Path, key: str) -> RemotePath:
    return RemotePath(storage=LocalStorage(root), key=key)


def test_the_content_of_a_prefix_lands_at_the_root(folder: Path) -> None:
    sources = scan_remote(_place(folder.parent, "run"))
    assert [(source.path, source.info.key, source.size) for source in sources] == [
        ("config.json", "run/config.json", 2),
        ("model/a.bin", "run/model/a.bin", 2),
        ("model/deep/b.bin", "run/model/deep/b.bin", 3),
    ]


def test_the_whole_bucket_can_be_meant(folder: Path) -> None:
    assert [source.path for source in scan_remote(_place(folder, ""))] == sorted(_TREE)


def test_a_key_means_that_object_under_its_base_name(folder: Path) -> None:
    (source,) = scan_remote(_place(folder.parent, "run/model/a.bin"))
    assert (source.path, source.info.key) == ("a.bin", "run/model/a.bin")


def test_a_sibling_that_begins_alike_is_not_below_the_prefix(folder: Path) -> None:
    write_tree(folder.parent, {"run-evil/x": b"x", "run.txt": b"x"})
    assert [source.path for source in scan_remote(_place(folder.parent, "run"))] == sorted(_TREE)


def test_nothing_at_the_path_is_an_error_that_names_it(folder: Path) -> None:
    for key in ("ru", "nowhere", "run/model/a"):
        with pytest.raises(SourceError, match=f"no object at {folder.parent}/{key}"):
            scan_remote(_place(folder.parent, key))


def test_a_key_that_no_checkpoint_can_hold_is_refused(folder: Path) -> None:
    (folder / "a:b").write_bytes(b"x")
    with pytest.raises(UnsafePathError):
        scan_remote(_place(folder.parent, "run"))


def test_twins_below_a_prefix_are_refused(folder: Path) -> None:
    write_tree(folder, {"Config.json": b"x"})
    with pytest.raises(UnsafePathError):
        scan_remote(_place(folder.parent, "run"))


def test_empty_folders_are_found_beside_the_files(tmp_path: Path) -> None:
    root = write_tree(tmp_path / "run", {"a/file": b"x", f"left/.file.0{PARTIAL_SUFFIX}": b"unfinished"})
    for folder in ("a/b/c", "empty", "full"):
        (root / folder).mkdir(parents=True)
    other = write_tree(tmp_path / "other", {"file": b"y"})
    (other / "empty").mkdir()
    found: list[CheckpointPath] = []
    sources = scan_local([str(root), f"{other}=full"], folders=found)
    assert [source.path for source in sources] == ["a/file", "full/file"]
    assert found == ["a/b/c", "empty", "full/empty", "left"]


def test_an_empty_folder_with_a_name_that_no_checkpoint_holds_is_refused(tmp_path: Path) -> None:
    root = write_tree(tmp_path / "run", {"file": b"x"})
    (root / "what?").mkdir()
    with pytest.raises(UnsafePathError):
        scan_local([str(root)])


def test_a_file_tells_whether_its_owner_may_execute_it(tmp_path: Path) -> None:
    root = write_tree(tmp_path / "run", {"a": b"", "b": b"", "c": b""})
    for name, mode in (("a", 0o700), ("b", 0o655), ("c", 0o755)):
        (root / name).chmod(mode)
    assert [source.is_executable for source in scan_local([str(root)])] == [True, False, True]
