"""A machine whose clock is wrong goes by the clock of the catalog's server."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from flexai.checkpoints import models
from flexai.checkpoints.catalog.catalog import Catalog
from flexai.checkpoints.catalog.leases import LEASE_LENGTH, Lease, is_held, lease_end
from flexai.checkpoints.catalog.tables import metadata
from flexai.checkpoints.errors import ConflictError
from flexai.checkpoints.models import from_text, machine_time, now
from flexai.checkpoints.names import parse_reference
from tests.checkpoints.catalog.steps import STORE_ID, begin, push
from tests.servers.postgresql import PostgreSQL
from tests.support.tables import tables_of

YEAR = timedelta(days=365)
GRACE = timedelta(days=7)
A_MINUTE = timedelta(minutes=1)


@pytest.fixture(params=[-YEAR, YEAR], ids=["a year behind", "a year ahead"])
def wrong(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[timedelta]:
    """By how much this machine's clock is wrong."""
    monkeypatch.setattr(models, "machine_time", lambda: machine_time() + request.param)
    yield request.param
    monkeypatch.undo()
    models.follow_clock(machine_time())


@pytest.fixture
def catalog(wrong: timedelta, postgresql: PostgreSQL, postgresql_catalog: str) -> Iterator[Catalog]:
    """A catalog on a server whose clock is right."""
    postgresql.empty_tables(postgresql_catalog, [table.name for table in reversed(metadata.sorted_tables)])
    with Catalog.open(postgresql.url(postgresql_catalog)) as opened:
        yield opened


def test_the_present_is_that_of_the_server(catalog: Catalog, wrong: timedelta) -> None:
    assert abs(now() - machine_time()) < A_MINUTE


def test_without_a_server_the_present_is_that_of_the_machine(wrong: timedelta) -> None:
    assert abs(now() - machine_time() - wrong) < A_MINUTE


def test_what_is_deleted_is_kept_for_the_grace_period_of_the_server(catalog: Catalog, wrong: timedelta) -> None:
    push(catalog, "llama", {"a": b"content"})
    gone = catalog.checkpoints.delete(parse_reference("llama"))
    assert gone.deleted_at is not None
    assert abs(gone.deleted_at - machine_time()) < A_MINUTE
    garbage = catalog.garbage(STORE_ID)
    assert garbage.purgeable(before=now() - GRACE) == {}
    assert garbage.purge_deleted(before=now() - GRACE) == []
    assert list(garbage.purgeable(before=now() + A_MINUTE)) == [gone.id]


def test_a_push_of_another_machine_is_not_taken_over_while_its_lease_lasts(catalog: Catalog, wrong: timedelta) -> None:
    checkpoint_id, _ = begin(catalog, "llama")
    with tables_of(catalog.database) as connection:
        connection.exec_driver_sql("UPDATE checkpoints SET claim_host = 'another'")
    assert catalog.garbage(STORE_ID).abandoned(before=now() + A_MINUTE) == set()
    with pytest.raises(ConflictError, match="is being pushed by"):
        begin(catalog, "llama")
    with catalog.database.reading() as transaction:
        row = transaction.record("SELECT * FROM checkpoints WHERE id = :id", id=checkpoint_id)
    assert row is not None
    assert is_held(row)
    assert abs(from_text(row["claim_until"]) - machine_time() - LEASE_LENGTH) < A_MINUTE


def test_a_lease_that_has_run_out_by_the_server_is_taken_over(catalog: Catalog, wrong: timedelta) -> None:
    ended = Lease.new()._replace(host="another", until=models.to_text(datetime.now(UTC) - A_MINUTE))
    assert not ended.is_alive
    assert ended._replace(until=lease_end()).is_alive
