"""What holds for the whole suite.

Two environment variables make the suite stricter, for CI:

``FLEXAI_NO_SKIPS=1``
    a test that skips itself fails, so that a missing server can not pass for a tested one
``FLEXAI_TEST_INSTALLED=1``
    the suite refuses to start unless ``flexai`` comes from the environment's ``site-packages``
"""

from __future__ import annotations

import os
import signal
import sysconfig
from collections.abc import Generator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

import flexai
from tests.servers.fixtures import fake_gcs, juicefs, lease, moto, rclone, seaweedfs, swift, terse_gcs
from tests.servers.lease import Lease
from tests.servers.postgresql import postgresql
from tests.servers.prefect import prefect_api, prefect_server
from tests.support.memory import have_garbage_collected_soon, have_memory_given_back

# Prefect reports usage to its makers unless told not to; tests talk to this machine alone.
os.environ.setdefault("DO_NOT_TRACK", "1")
os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")

# How long an example takes says how busy the machine is.
settings.register_profile("flexai", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("flexai")

__all__ = [
    "fake_gcs",
    "juicefs",
    "lease",
    "moto",
    "postgresql",
    "prefect_api",
    "prefect_server",
    "rclone",
    "seaweedfs",
    "swift",
    "terse_gcs",
]

_LEASE = pytest.StashKey[Lease]()

PACKAGE = Path(flexai.__file__).resolve().parent


def _wanted(variable: str) -> bool:
    return os.environ.get(variable) == "1"


def pytest_configure(config: pytest.Config) -> None:
    have_memory_given_back()
    # pytest-xdist sets it in its workers; a program that is started there would take it for a terminal's.
    os.environ.pop("COLUMNS", None)
    # What is ignored stays ignored in all that a test starts, and waits for a signal: as below nohup.
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # The workers of a run share the servers of the process that started them.
    if not hasattr(config, "workerinput"):
        config.stash[_LEASE] = lease = Lease.begin()
        # Nor does a connection of the user who runs them count, where this process is asked and not a server.
        os.environ["PREFECT_HOME"] = str(lease.directory / "prefect-home")


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """What test modules import finds no server of the user who runs them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FLEXAI_HOME", os.devnull)
        return (yield)


def pytest_unconfigure(config: pytest.Config) -> None:
    if _LEASE in config.stash:
        config.stash[_LEASE].end()


def pytest_report_header() -> str:
    return f"flexai: {flexai.__version__}, from {PACKAGE}"


def pytest_sessionstart() -> None:
    site_packages = Path(sysconfig.get_path("purelib")).resolve()
    if _wanted("FLEXAI_TEST_INSTALLED") and not PACKAGE.is_relative_to(site_packages):
        raise pytest.UsageError(f"flexai must come from {site_packages}, but comes from {PACKAGE}")


def pytest_collection_finish() -> None:
    have_garbage_collected_soon()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    # An expected failure is reported as a skip with ``wasxfail``; it did run.
    if report.skipped and not hasattr(report, "wasxfail"):
        _refuse_skip(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    if report.skipped:
        _refuse_skip(report)
    return report


def _refuse_skip(report: pytest.TestReport | pytest.CollectReport) -> None:
    if _wanted("FLEXAI_NO_SKIPS"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longreprtext
        report.outcome = "failed"
        report.longrepr = f"Skips are failures here. {reason}"
