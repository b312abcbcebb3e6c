"""Where checkpoints were exported to: one record for each place, of what lies there now."""

from __future__ import annotations

from collections.abc import Collection

from flexai.checkpoints.catalog.changes import changing
from flexai.checkpoints.catalog.database import MIGRATION_LOCK, Database, Transaction, batches, each_begun_again
from flexai.checkpoints.errors import NotFoundError
from flexai.checkpoints.models import ExportRecord, to_text

_EXPORT_LOCK = MIGRATION_LOCK + 3
"""PostgreSQL advisory lock held while an export is recorded: of two to one place the later one stays."""
_PLACE = "RTRIM(TRIM(e.destination_path), '/')"
"""Where an export ``e`` is, as ``_place`` writes it."""


@each_begun_again
class Exports:
    """The exports of a catalog's checkpoints."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def providers_at(self, destination_path: str) -> set[str]:
        """The connections by which something was exported to a path of that name, which may be one place or several."""
        query = f"SELECT DISTINCT e.storage_provider FROM exports e WHERE {_PLACE} = :place"
        with self._database.reading() as transaction:
            return set(transaction.column(query, place=_place(destination_path)))

    def record(self, record: ExportRecord, *, gone: Collection[str] = (), also: Collection[str] = ()) -> None:
        """Record an export. What lay there before is exported there no more: a place has one record.

        ``also`` are other connections by which the same path leads to the same place. ``gone`` are the paths below the
        place whose objects were replaced or removed: an export of another place that had one of them as a file of its
        own is no longer whole, and is forgotten too. Raises NotFoundError for a checkpoint that gc has taken meanwhile;
        of what lay there before the same is true.
        """
        row = record._asdict() | {"exported_at": to_text(record.exported_at)}
        others: set[str] = {record.checkpoint_id}
        while True:
            with changing(self._database, "export", sorted(others)) as transaction:
                transaction.lock(_EXPORT_LOCK)
                over = [
                    pair
                    for one in (record.storage_provider, *also)
                    for pair in _overwritten(transaction, record, gone, one)
                ]
                missed = {checkpoint_id for _, checkpoint_id in over} - others
                if not missed:
                    for batch in batches([export_id for export_id, _ in over]):
                        transaction.change("DELETE FROM exports WHERE id IN :ids", ids=batch)
                    there = transaction.row("SELECT 1 FROM checkpoints WHERE id = :id", id=record.checkpoint_id)
                    if there is not None:
                        transaction.insert("exports", row)
                    break
            others |= missed
        if there is None:
            raise NotFoundError(f"checkpoint {record.checkpoint_id} is gone for good")

    def size_at(self, storage_provider: str, destination_path: str) -> tuple[int, int]:
        """Bytes, and number of files, of the largest checkpoints that were exported to a place; zeros for none."""
        query = f"""
            SELECT COALESCE(MAX(c.size), 0), COALESCE(MAX(c.file_count), 0)
            FROM exports e JOIN checkpoints c ON c.id = e.checkpoint_id
            WHERE e.storage_provider = :storage_provider AND {_PLACE} = :place
        """
        place = {"storage_provider": storage_provider, "place": _place(destination_path)}
        with self._database.reading() as transaction:
            size, file_count = transaction.row(query, **place) or (0, 0)
        return int(size), int(file_count)


def _place(destination_path: str) -> str:
    """A ``BUCKET/PREFIX`` in the one form that places are compared in."""
    return destination_path.strip().rstrip("/")


def _overwritten(
    transaction: Transaction, record: ExportRecord, gone: Collection[str], storage_provider: str
) -> list[tuple[str, str]]:
    """The exports by a connection, with their checkpoints, that one to the same place ends, or takes a file from."""
    of_provider = f"SELECT e.id, e.checkpoint_id, {_PLACE} FROM exports e WHERE e.storage_provider = :storage_provider"
    values = {"storage_provider": storage_provider, "place": _place(record.destination_path)}
    over = [(one, of) for one, of, _ in transaction.rows(f"{of_provider} AND {_PLACE} = :place", **values)]
    if gone:
        prefix = values["place"] + "/"
        around = f"SUBSTR(:place, 1, LENGTH({_PLACE}) + 1) = {_PLACE} || '/'"
        inside = f"SUBSTR({_PLACE}, 1, LENGTH(:prefix)) = :prefix"
        nested = transaction.rows(f"{of_provider} AND ({around} OR {inside})", prefix=prefix, **values)
        has_one = "SELECT 1 FROM files WHERE checkpoint_id = :checkpoint_id AND path IN :paths LIMIT 1"
        for export_id, checkpoint_id, place in nested:
            keys = (prefix + path for path in gone)
            paths = [key.removeprefix(f"{place}/") for key in keys if key.startswith(f"{place}/")]
            if any(transaction.rows(has_one, checkpoint_id=checkpoint_id, paths=batch) for batch in batches(paths)):
                over.append((export_id, checkpoint_id))
    return over
