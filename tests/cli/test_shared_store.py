"""A store and a catalog in a folder of a group: two users with uids of their own work on them, and a third may not.

Run by root alone, who can be any user.
"""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.cli.program import Done
from tests.support.users import Calls, User

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can be several users"),
]

GROUP = 61000
TRAIN = (
    "echo trained; mkdir -p $FLEXAI_OUTPUT_CHECKPOINT_DIR/checkpoint-5;"
    " echo x > $FLEXAI_OUTPUT_CHECKPOINT_DIR/checkpoint-5/x; echo rest > $FLEXAI_OUTPUT_CHECKPOINT_DIR/rest.txt"
)
PUSH = ("checkpoint", "push", "warm", "-f", "a.bin")
WARM = [
    PUSH,
    ("checkpoint", "push", "warm", "-f", "b.bin"),
    ("checkpoint", "list"),
    ("checkpoint", "list", "--json"),
    ("checkpoint", "inspect", "warm"),
    ("checkpoint", "inspect", "none"),
    ("checkpoint", "fetch", "warm", "-d", "fetched"),
    ("checkpoint", "verify", "warm"),
    ("checkpoint", "protect", "warm"),
    ("checkpoint", "unprotect", "warm"),
    ("checkpoint", "delete", "warm"),
    ("checkpoint", "undelete", "warm"),
    ("checkpoint", "delete", "warm"),
    ("checkpoint", "gc", "--grace-period", "0"),
    ("history",),
    ("history", "--json"),
    ("checkpoint", "history", "warm"),
    ("training", "run", "warm", "--", "sh", "-c", TRAIN),
    ("training", "run", "warm", "--checkpoint", "latest", "--", "sh", "-c", TRAIN),
    ("training", "list"),
    ("training", "inspect", "warm"),
    ("training", "checkpoints", "warm"),
    ("training", "logs", "warm"),
    ("training", "files", "warm"),
    ("training", "files", "warm", "-d", "rest"),
    ("training", "stop", "warm"),
    ("training", "capture", "warm"),
    ("training", "delete", "warm"),
    ("checkpoint", "prune", "--keep-last", "1", "--apply"),
]


@dataclass
class Team:
    """Two users of one group, and one who is not in it."""

    calls: Calls
    shared: Path
    alice: User
    bob: User
    outsider: User

    def expect(self, user: User, *arguments: str, code: int = 0, umask: int | None = None) -> Done:
        done = self.calls(user, *arguments, umask=umask)
        assert done.code == code, (user.name, arguments, done.err)
        return done


def _team(folder: Path, shared: Path, **environment: str) -> tuple[User, User, User]:
    environment = {
        "FLEXAI_STORE": str(shared / "store"),
        "FLEXAI_DATABASE_URL": f"sqlite:///{shared}/catalog.db",
        **environment,
    }
    alice = User("alice", 61001, folder / "alice", (GROUP,), environment=environment)
    bob = User("bob", 61002, folder / "bob", (GROUP,), environment=environment)
    outsider = User("mallory", 61003, folder / "mallory", environment=environment)
    for user in (alice, bob, outsider):
        user.make_folder()
        for name in ("a.bin", "b.bin"):
            (user.folder / name).write_bytes(f"{name} of {user.name}".encode())
            os.chown(user.folder / name, user.uid, user.uid)
    return alice, bob, outsider


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that all users may enter, which a test's own is not."""
    made = Path(tempfile.mkdtemp())
    made.chmod(0o755)
    yield made
    shutil.rmtree(made)


@pytest.fixture
def calls(folder: Path) -> Iterator[Calls]:
    roots = folder / "root"
    roots.mkdir(0o700)
    for name in ("a.bin", "b.bin"):
        (roots / name).write_bytes(name.encode())
    with Calls(WARM, roots) as made:
        yield made


@pytest.fixture
def team(folder: Path, calls: Calls) -> Team:
    shared = folder / "shared"
    shared.mkdir()
    os.chown(shared, 0, GROUP)
    shared.chmod(0o2770)
    return Team(calls, shared, *_team(folder, shared))


def test_two_users_share_a_store_and_a_third_may_do_nothing_with_it(team: Team) -> None:
    alice, bob, outsider, expect = team.alice, team.bob, team.outsider, team.expect
    expect(alice, "checkpoint", "push", "llama", "-f", "a.bin")
    expect(bob, "checkpoint", "push", "mistral", "-f", "a.bin")
    expect(bob, "checkpoint", "push", "llama", "-f", "b.bin", code=4)
    # What each of them may do with what the other has made.
    for user, own, others in ((alice, "llama", "mistral"), (bob, "mistral", "llama")):
        listed = expect(user, "checkpoint", "list", "--json").json()
        assert [row["creator"].partition("@")[0] for row in listed] == ["alice", "bob"]
        expect(user, "checkpoint", "inspect", others)
        expect(user, "checkpoint", "fetch", others, "-d", "fetched")
        expect(user, "checkpoint", "verify", others)
        expect(user, "checkpoint", "protect", own)
        expect(user, "checkpoint", "unprotect", own)
        for verb in ("protect", "unprotect", "delete"):
            refused = expect(user, "checkpoint", verb, others, code=4)
            assert "was made by" in refused.error
            assert "--force" in refused.hint
    assert (bob.folder / "fetched" / "a.bin").read_text() == "a.bin of alice"
    expect(bob, "checkpoint", "delete", "llama", "--force")
    expect(alice, "checkpoint", "undelete", "llama")
    expect(bob, "checkpoint", "delete", "llama", "--force")
    expect(bob, "checkpoint", "gc", "--grace-period", "0")
    expect(alice, "checkpoint", "delete", "mistral", "--force")
    expect(alice, "checkpoint", "gc", "--grace-period", "0")
    assert list((team.shared / "store" / "blobs").rglob("*")) == []
    told = expect(alice, "checkpoint", "history", "llama", "--json").json()
    done = [(one["by"].partition("@")[0], one["action"]) for one in told if "protect" not in one["action"]]
    assert done[:4] == [
        ("alice", "push"),
        ("bob", "delete"),
        ("alice", "undelete"),
        ("bob", "delete"),
    ]
    for command in (("list",), ("push", "mine", "-f", "a.bin"), ("fetch", "llama", "-d", "x"), ("delete", "llama")):
        refused = team.calls(outsider, "checkpoint", *command)
        assert (refused.code in {1, 2, 5}, "ermission denied" in refused.error) == (True, True), command


def test_what_is_made_in_a_shared_folder_is_the_groups_and_a_home_stays_private(team: Team) -> None:
    team.expect(team.alice, "checkpoint", "push", "llama", "-f", "a.bin", umask=0o007)
    places = [team.shared / "catalog.db", *(team.shared / "store").rglob("*"), team.shared / "store"]
    assert len(places) > 5
    for place in places:
        status = place.stat()
        assert (status.st_uid, status.st_gid) == (team.alice.uid, GROUP), place
        assert stat.S_IMODE(status.st_mode) == (0o2770 if place.is_dir() else 0o660), place
    home = team.alice.folder / "home"
    assert [place for place in [home, *home.rglob("*")] if place.stat().st_mode & 0o077] == []


def test_a_umask_that_leaves_the_group_no_right_is_named_where_it_is_in_the_way(team: Team) -> None:
    team.expect(team.alice, "checkpoint", "push", "llama", "-f", "a.bin", umask=0o007)
    team.expect(team.bob, "checkpoint", "push", "mistral", "-f", "a.bin", umask=0o077)
    refused = team.calls(team.alice, "checkpoint", "fetch", "mistral", "-d", "fetched")
    assert refused.code == 5
    assert "umask" in refused.hint
    assert "chmod -R g+rwX" in refused.hint


def test_a_job_of_another_user_of_the_machine_is_looked_at_and_left_alone(team: Team, folder: Path) -> None:
    """The job is root's: its command starts the interpreter, which may lie where other users cannot read."""
    trainer = User("root", 0, folder / "trainer", (GROUP,), environment=team.alice.environment)
    trainer.make_folder()
    team.expect(trainer, "training", "run", "train", "--", "sh", "-c", TRAIN)
    expect, bob = team.expect, team.bob
    (job,) = expect(bob, "training", "list", "--json").json()
    assert (job["status"], job["creator"].partition("@")[0]) == ("succeeded", "root")
    assert expect(bob, "training", "inspect", "train", "--json").json()["runtime"]["status"] == "succeeded"
    assert expect(bob, "training", "logs", "train").out.startswith("trained\n")
    assert "rest.txt" in expect(bob, "training", "files", "train").out
    expect(bob, "training", "files", "train", "-d", "rest")
    expect(bob, "checkpoint", "fetch", "train/checkpoint-5", "-d", "fetched")
    expect(bob, "training", "stop", "train")
    expect(bob, "training", "run", "train", "--checkpoint", "latest", "--", "sh", "-c", TRAIN, code=4)
    assert "was made by root" in expect(bob, "training", "delete", "train", code=4).error
    expect(bob, "checkpoint", "prune", "--keep-last", "1", "--drop-last", "--drop-best", "--apply")
    (captured,) = expect(bob, "training", "checkpoints", "train", "--json").json()
    assert captured["status"] == "available"
    expect(bob, "training", "delete", "train", "--force")
    assert expect(team.alice, "training", "list", "--json").json() == []


def test_a_catalog_that_the_group_may_only_read_refuses_what_writes(team: Team) -> None:
    team.expect(team.alice, "checkpoint", "push", "llama", "-f", "a.bin", umask=0o027)
    refused = team.expect(team.bob, "checkpoint", "protect", "llama", "--force", code=5)
    assert "readonly" in refused.error
    assert "docs/team.md" in refused.hint


def test_in_a_folder_without_the_setgid_bit_the_setting_makes_files_the_groups(folder: Path, calls: Calls) -> None:
    shared = folder / "shared"
    shared.mkdir()
    store = shared / "store"
    store.mkdir()
    (shared / "db").mkdir()
    for place, mode in ((shared, 0o755), (store, 0o770), (shared / "db", 0o2770)):
        os.chown(place, 0, GROUP)
        place.chmod(mode)
    url = f"sqlite:///{shared}/db/catalog.db"
    alice, bob, _ = _team(folder, shared, FLEXAI_STORE_MODE="group", FLEXAI_DATABASE_URL=url)
    for user, name in ((alice, "llama"), (bob, "mistral")):
        done = calls(user, "checkpoint", "push", name, "-f", "a.bin")
        assert done.code == 0, done.err
    assert {place.stat().st_gid for place in store.rglob("*")} == {GROUP}
    assert calls(bob, "checkpoint", "fetch", "llama", "-d", "fetched").code == 0
    assert calls(bob, "checkpoint", "delete", "llama", "--force").code == 0
    assert calls(bob, "checkpoint", "gc", "--grace-period", "0").code == 0


def test_a_store_is_private_where_the_setting_says_so(team: Team, folder: Path) -> None:
    team.alice.environment["FLEXAI_STORE_MODE"] = "private"
    team.expect(team.alice, "checkpoint", "push", "llama", "-f", "a.bin")
    store = team.shared / "store"
    assert {place.stat().st_mode & 0o077 for place in [store, *store.rglob("*")]} == {0}
    team.expect(team.bob, "checkpoint", "fetch", "llama", "-d", "fetched", code=5)
