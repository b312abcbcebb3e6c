from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from flexai.checkpoints.catalog import leases
from flexai.checkpoints.catalog.leases import (
    LEASE_LENGTH,
    RENEWAL,
    Lease,
    LeaseKeeper,
    lease_end,
    process_start,
    this_host,
)
from flexai.checkpoints.errors import StorageError, StorageUnavailableError
from flexai.checkpoints.models import from_text, now, to_text

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells when a process began")


_RENAMED = """
import ctypes, sys, time
set_name = 15  # PR_SET_NAME of <linux/prctl.h>
ctypes.CDLL(None).prctl(set_name, bytes.fromhex(sys.argv[1]))
print("renamed", flush=True)
time.sleep(60)
"""


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Renew as often as can be."""
    monkeypatch.setattr(leases, "RENEWAL", timedelta(milliseconds=1))


def test_a_claim_of_this_process_is_alive_and_names_it() -> None:
    lease = Lease.new()
    assert lease.is_alive
    assert lease.pid == os.getpid()
    assert str(os.getpid()) in lease.holder
    assert lease.host == this_host()
    assert len(lease.token) == 32
    assert Lease.new().token != lease.token


def test_a_claim_fills_every_column_of_a_row() -> None:
    assert set(Lease.new().columns()) == set(leases.NO_LEASE)
    assert all(value is not None for value in Lease.new().columns().values())


@pytest.fixture(params=["with", "without"])
def _proc(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A system with ``/proc``, and one without."""
    if request.param == "without":
        monkeypatch.setattr(leases, "_HAS_PROC", False)
    elif not Path("/proc/self/stat").exists():
        pytest.skip("this system has no /proc: Linux has")


@pytest.mark.usefixtures("_proc")
def test_the_claim_of_a_process_that_has_ended_is_dead_however_long_its_lease() -> None:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    lease = Lease.new()._replace(pid=process.pid, started=process_start(process.pid) or "")
    assert lease.is_alive
    process.communicate(b"\n")
    assert from_text(lease.until) > now()
    assert not lease.is_alive


@pytest.mark.usefixtures("_proc")
def test_the_claim_of_a_stopped_process_is_alive() -> None:
    process = subprocess.Popen(["sleep", "60"])
    lease = Lease.new()._replace(pid=process.pid, started=process_start(process.pid) or "")
    process.send_signal(signal.SIGSTOP)
    assert lease.is_alive
    process.kill()
    process.wait()


@pytest.mark.usefixtures("_proc")
def test_a_process_that_ended_and_that_no_parent_asked_about_is_dead() -> None:
    process = subprocess.Popen(["true"])
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert process_start(process.pid) is None
    process.wait()


@pytest.mark.usefixtures("_proc")
def test_another_process_with_the_same_number_is_not_the_holder() -> None:
    assert not Lease.new()._replace(started="1", until=to_text(now())).is_alive


def test_where_proc_tells_the_start_the_lease_of_a_number_that_was_given_anew_says_nothing() -> None:
    if not Path("/proc/self/stat").exists():
        pytest.skip("this system has no /proc: Linux has")
    assert not Lease.new()._replace(started="1").is_alive


def test_a_clock_that_was_set_ends_no_claim_of_a_live_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "_HAS_PROC", False)
    lease = Lease.new()
    monkeypatch.setattr("psutil.Process.create_time", lambda _: float(lease.started) + 3600)
    assert lease.is_alive
    assert not lease._replace(until=to_text(now())).is_alive


@pytest.mark.usefixtures("_proc")
def test_a_holder_of_which_no_start_is_known_is_alive_while_a_process_has_its_number() -> None:
    process = subprocess.Popen(["sleep", "60"])
    lease = Lease.new()._replace(pid=process.pid, started="")
    assert lease.is_alive
    process.kill()
    process.wait()
    assert not lease.is_alive


@linux_only
@pytest.mark.parametrize("name", [b"we) S (ird", b"a b c", b"\xff) Z 1", b"(", b"new\nline"])
def test_a_process_may_have_any_name(name: bytes) -> None:
    process = subprocess.Popen([sys.executable, "-c", _RENAMED, name.hex()], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"renamed\n"
    assert Path(f"/proc/{process.pid}/comm").read_bytes() == name + b"\n"
    lease = Lease.new()._replace(pid=process.pid, started=process_start(process.pid) or "")
    assert lease.started.isdigit()
    assert lease.is_alive
    process.kill()
    process.communicate()
    assert not lease.is_alive


def test_a_claim_that_this_living_process_has_let_go_of_is_dead() -> None:
    kept, dropped = Lease.new(), Lease.new()
    dropped.drop()
    assert kept.is_alive
    assert not dropped.is_alive
    assert not dropped._replace(until=lease_end()).is_alive, "whatever the catalog shows"


def test_a_claim_is_let_go_of_where_it_may_not_have_been_taken() -> None:
    lease = Lease.new()
    with lease.dropped_on_error():
        pass
    assert lease.is_alive
    for error in (StorageError("the answer was lost"), KeyboardInterrupt()):
        other = Lease.new()
        with pytest.raises(type(error)), other.dropped_on_error():
            raise error
        assert not other.is_alive


@pytest.mark.parametrize("host", ["elsewhere/boot/pid:[1]", ""])
def test_the_claim_of_another_machine_lasts_as_long_as_its_lease(host: str) -> None:
    elsewhere = Lease.new()._replace(host=host)
    assert elsewhere.is_alive
    assert not elsewhere._replace(until=to_text(now() - timedelta(microseconds=1))).is_alive


def test_a_host_is_one_start_of_a_machine_and_one_space_of_process_numbers() -> None:
    hostname, boot, namespace = this_host().split("/", 2)
    assert hostname
    assert this_host() == this_host()
    if sys.platform == "linux":
        assert uuid.UUID(boot)
        assert namespace.startswith("pid:")


def test_a_lease_outlasts_several_renewals() -> None:
    assert LEASE_LENGTH >= 3 * RENEWAL
    assert now() < from_text(lease_end()) <= now() + LEASE_LENGTH


def _keep_until(renew: Callable[[int], bool], times: int) -> int:
    """Renew until it was tried so many times, and return how often that was when the block was left."""
    enough = threading.Event()
    tries = 0

    def count() -> bool:
        nonlocal tries
        tries += 1
        if tries >= times:
            enough.set()
        return renew(tries)

    with LeaseKeeper(count):
        assert enough.wait(30)
    return tries


def test_a_claim_is_renewed_while_its_holder_works(often: None) -> None:
    assert _keep_until(lambda _: True, times=5) >= 5
    assert not [thread for thread in threading.enumerate() if thread.name == "lease-keeper"]


@pytest.mark.parametrize("error", [StorageUnavailableError("gone for a moment"), StorageError("full")])
def test_a_database_that_fails_for_a_moment_does_not_end_the_renewals(often: None, error: StorageError) -> None:
    def renew(tries: int) -> bool:
        if tries < 4:
            raise error
        return True

    assert _keep_until(renew, times=6) >= 6


def test_a_renewal_that_failed_is_tried_again_long_before_the_next_one_is_due(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "RENEWAL", timedelta(0))

    def renew(_tries: int) -> bool:
        monkeypatch.setattr(leases, "RENEWAL", timedelta(hours=1))
        raise StorageUnavailableError("gone for a moment")

    assert _keep_until(renew, times=3) == 3


def test_a_claim_that_is_lost_is_renewed_no_more(often: None) -> None:
    tried: list[int] = []

    def renew() -> bool:
        tried.append(1)
        return False

    keeper = LeaseKeeper(renew)
    with keeper:
        keeper._thread.join(30)
        assert not keeper._thread.is_alive()
    assert tried == [1]


def test_the_keeper_ends_with_its_block_whatever_happened_there() -> None:
    with pytest.raises(RuntimeError, match="work"), LeaseKeeper(lambda: True):
        raise RuntimeError("work failed")
    assert not [thread for thread in threading.enumerate() if thread.name == "lease-keeper"]
