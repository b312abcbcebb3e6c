"""Who works for the holder of a lease stops when the lease no longer holds."""

from __future__ import annotations

from datetime import timedelta

import pytest
from sqlalchemy import update

from flexai.checkpoints.catalog.catalog import Catalog
from flexai.checkpoints.catalog.leases import LEASE_LENGTH, Lease
from flexai.checkpoints.catalog.shard_journal import ShardJournal
from flexai.checkpoints.catalog.tables import checkpoints
from flexai.checkpoints.errors import ConflictError
from flexai.checkpoints.models import now, to_text
from tests.checkpoints.catalog.steps import STORE_ID, begin, store
from tests.support.tables import tables_of


@pytest.fixture
def leased(catalog: Catalog) -> tuple[str, Lease]:
    """A checkpoint that is being pushed, and the lease on it."""
    return begin(catalog)


@pytest.fixture
def held(catalog: Catalog, leased: tuple[str, Lease]) -> ShardJournal:
    """The journal of a process that works for the push."""
    checkpoint_id, lease = leased
    return ShardJournal(catalog.database, STORE_ID, checkpoint_id=checkpoint_id, token=lease.token)


def _last_renewed(catalog: Catalog, checkpoint_id: str, ago: timedelta) -> None:
    with tables_of(catalog.database) as connection:
        until = to_text(now() - ago + LEASE_LENGTH)
        connection.execute(update(checkpoints).where(checkpoints.c.id == checkpoint_id).values(claim_until=until))


def test_what_is_stored_for_a_claim_is_recorded_while_it_holds(held: ShardJournal, leased: tuple[str, Lease]) -> None:
    assert store(held, leased[0], b"content").size == len(b"content")


def test_nothing_is_recorded_for_a_claim_that_was_given_back(
    catalog: Catalog, held: ShardJournal, leased: tuple[str, Lease]
) -> None:
    catalog.checkpoints.fail(*leased, reason="it broke off")
    with pytest.raises(ConflictError, match="not being stored by this operation"):
        store(held, leased[0], b"content")


def test_nothing_is_recorded_for_a_holder_that_has_died(
    catalog: Catalog, held: ShardJournal, leased: tuple[str, Lease]
) -> None:
    _last_renewed(catalog, leased[0], 2 * LEASE_LENGTH)
    with pytest.raises(ConflictError, match="not being stored by this operation"):
        store(held, leased[0], b"content")


def test_a_claim_that_is_renewed_late_still_holds(
    catalog: Catalog, held: ShardJournal, leased: tuple[str, Lease]
) -> None:
    _last_renewed(catalog, leased[0], 1.5 * LEASE_LENGTH)
    assert store(held, leased[0], b"content").size == len(b"content")
