"""A catalog on PostgreSQL whose connections are lost in the middle of an operation, which ends as if they had not been.

The sequences that number rows do not go back: what a change asks again may have other answers.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from flexai.checkpoints.catalog.postgresql import PostgresqlTransaction
from flexai.checkpoints.service.change_requests import DeleteRequest, ProtectRequest, UndeleteRequest
from flexai.checkpoints.service.delete import delete, protect, undelete
from flexai.checkpoints.service.recover import recover
from flexai.checkpoints.service.store_requests import VerifyRequest
from flexai.checkpoints.service.verify import verify
from tests.chaos.stage import ROUNDS
from tests.servers.postgresql import PostgreSQL
from tests.support.jobs import begin_job, capture_files
from tests.support.machine import SOURCE, Machine, check_nothing_is_torn, lose_catalog

pytestmark = pytest.mark.slow


def _prepare(machine: Machine) -> None:
    for name in ("kept", "other"):
        machine.push(name, machine.write(name, SOURCE | {"name": name.encode()}))
    delete(machine.system, DeleteRequest("other"))
    capture_files(machine, begin_job(machine, "train"), "step-5", {"model.bin": b"m" * 99})


def _push(machine: Machine) -> None:
    machine.push("new", machine.write("new", SOURCE | {"new.bin": b"new" * 9999}))


def _capture(machine: Machine) -> None:
    capture_files(machine, begin_job(machine, "tune"), "step-6", {"model.bin": b"n" * 99})


OPERATIONS: dict[str, Callable[[Machine], object]] = {
    "push": _push,
    "fetch": lambda machine: machine.fetch("kept"),
    "export": lambda machine: machine.export("kept"),
    "delete": lambda machine: delete(machine.system, DeleteRequest("kept")),
    "undelete": lambda machine: undelete(machine.system, UndeleteRequest("other")),
    "protect": lambda machine: protect(machine.system, ProtectRequest(["kept"])),
    "verify": lambda machine: verify(machine.system, VerifyRequest()),
    "gc": lambda machine: machine.collect(),
    "recover": lambda machine: recover(lose_catalog(machine).system),
    "capture": _capture,
}


class Connections:
    """Those to a database, which are lost before the statement of a number."""

    def __init__(self, server: PostgreSQL) -> None:
        self.name = server.create_database()
        self.url = server.url(self.name)
        self.lost_before = 0
        self.statements = 0
        self._server = server

    def count(self) -> None:
        """A statement is about to be run."""
        self.statements += 1
        if self.statements == self.lost_before:
            self._server.execute(
                f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{self.name}'"
            )

    def begin(self, *, lost_before: int) -> None:
        """Count from here on."""
        self.statements, self.lost_before = 0, lost_before


@contextmanager
def _machine(root: Path, connections: Connections) -> Iterator[Machine]:
    with Machine.start(root, database_url=connections.url, patience=60) as machine:
        for name in ("kept", "other"):
            machine.push(name, machine.write(name, SOURCE | {"name": name.encode()}))
        delete(machine.system, DeleteRequest("other"))
        capture_files(machine, begin_job(machine, "train"), "step-5", {"model.bin": b"m" * 99})
        yield machine


@pytest.mark.parametrize("operation", OPERATIONS)
def test_an_operation_whose_connections_are_lost_before_any_of_its_statements_ends_as_without(
    operation: str, fast_path: Path, postgresql: PostgreSQL, monkeypatch: pytest.MonkeyPatch, chance: random.Random
) -> None:
    current: list[Connections] = []
    for name in ("execute", "execute_many"):
        method = getattr(PostgresqlTransaction, name)

        def counted(*arguments: object, method: Callable[..., object] = method) -> object:
            current[-1].count()
            return method(*arguments)

        monkeypatch.setattr(PostgresqlTransaction, name, counted)

    def play(lost_before: int) -> tuple[int, list[tuple[str, str, bool]]]:
        """How many statements there were, and what there is afterwards."""
        connections = Connections(postgresql)
        current.append(connections)
        with _machine(fast_path / f"machine-{len(current)}", connections) as machine:
            connections.begin(lost_before=lost_before)
            OPERATIONS[operation](machine)
            statements = connections.statements
            with machine.again() as after:
                check_nothing_is_torn(after)
                there = sorted((one.title, str(one.status), one.is_protected) for one in after.checkpoints())
        postgresql.drop_database(connections.name)
        return statements, there

    statements, expected = play(0)
    for number in chance.sample(range(1, statements + 1), min(ROUNDS, statements)):
        print(f"lost before statement {number} of {statements}")
        assert play(number)[1] == expected
