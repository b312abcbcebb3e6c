"""The catalog itself: which one it is to its managed store, and to which organisation all that it knows belongs."""

from __future__ import annotations

from flexai.checkpoints.catalog.database import Database, Transaction, begun_again
from flexai.checkpoints.models import now, to_text
from flexai.checkpoints.names import Id, new_id, parse_id


@begun_again
def identity_of(database: Database) -> Id:
    """The catalog's own id, which its managed store knows it by; made where there is none, or empty in a look at it."""
    with database.reading() as transaction:
        found = transaction.value("SELECT id FROM identity WHERE number = 1")
    if found is None and database.is_read_only:
        return Id("")
    if found is None:
        with database.writing() as transaction:
            transaction.insert("identity", _new_row(), otherwise="ON CONFLICT (number) DO NOTHING")
            found = transaction.value("SELECT id FROM identity WHERE number = 1")
    return parse_id(found)


def organisation(transaction: Transaction, own: Id) -> Id:
    """The organisation that all in the catalog belongs to: that of who made the first thing, which may be ``own``."""
    found = transaction.value("SELECT owner_org_id FROM identity WHERE number = 1")
    if found is None:
        row = _new_row() | {"owner_org_id": own}
        keep = "owner_org_id = COALESCE(identity.owner_org_id, excluded.owner_org_id)"
        transaction.insert("identity", row, otherwise=f"ON CONFLICT (number) DO UPDATE SET {keep}")
        found = transaction.value("SELECT owner_org_id FROM identity WHERE number = 1")
    return parse_id(found)


def _new_row() -> dict[str, str | int]:
    return {"number": 1, "id": new_id(), "created_at": to_text(now())}
