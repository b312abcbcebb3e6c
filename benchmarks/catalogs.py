"""A catalog as large as a team's becomes: rows written straight into its tables, in seconds instead of days.

Of a hundred checkpoints ten were pushed, two were deleted, and the others were captured by training jobs, 250 by each.
Each has ten files, as a trainer writes them: those that all checkpoints of a job share (configuration, tokenizer) have
one content, small ones of a checkpoint's own lie in its pack, and large ones are blobs of their own.
"""

from __future__ import annotations

import json
import os
import random
import sqlite3
import uuid
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any, cast

from sqlalchemy import ColumnDefault

from flexai.checkpoints.catalog.catalog import Catalog
from flexai.checkpoints.catalog.tables import metadata
from flexai.checkpoints.models import to_text
from flexai.checkpoints.owner import login
from flexai.checkpoints.service.support.manifest_writer import write_manifest
from flexai.checkpoints.service.system import System
from flexai.checkpoints.storage.managed import ManagedStore

OF_A_JOB = 250
"""Checkpoints that a training job wrote."""
SHARED = ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json")
SMALL = ("scheduler.pt", "rng_state.pth", "trainer_state.json")
LARGE = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "optimizer.pt")
FILES = len(SHARED) + len(SMALL) + len(LARGE)
"""Files of a checkpoint."""
_MODELS = ("llama-3-8b", "mistral-7b", "qwen2-7b", "gemma-2-9b", "phi-3-mini")
_KINDS = ("sft", "dpo", "pretrain", "lora", "eval")
_MIB = 1024**2

Row = dict[str, Any]


@dataclass(frozen=True)
class Filled:
    """What to ask a filled catalog for."""

    store_id: str
    name: str
    """Of a pushed checkpoint in the middle."""
    id: str
    """Its id."""
    captured_id: str
    """The id of a captured checkpoint."""
    job: str
    """The name of the training job that captured it."""
    digests: tuple[str, ...]
    """Digests of the pushed checkpoint's files, in hex."""
    pushed: int
    """Pushed checkpoints that are there."""


def fill(url: str, count: int, *, store_id: str | None = None) -> Filled:
    """Make a catalog of ``count`` checkpoints, in a store of that id, at an SQLAlchemy URL.

    They are this user's, so that commands may change and delete them.
    """
    Catalog.open(url).close()
    rows = _Rows(count, store_id)
    if url.startswith("sqlite"):
        _fill_sqlite(url.partition(":///")[2], rows)
    else:
        _fill_postgresql(url, rows)
    return rows.filled()


def put_blobs(system: System) -> int:
    """Give each blob of a filled catalog a sparse file of its size in its local store; says how many."""
    with system.catalog.database.reading() as transaction:
        blobs = transaction.rows("SELECT id, size FROM blobs")
    store, made = system.settings.effective_store, set[Path]()
    for blob_id, size in blobs:
        path = f"{store}/{system.store.blob_key(blob_id)}"
        if (folder := Path(path).parent) not in made:
            folder.mkdir(parents=True, exist_ok=True)
            made.add(folder)
        # Not by a file object, of which 400,000 take a minute.
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)
        # As much as a block has to be freed when it is collected.
        os.pwrite(descriptor, b"x", size - 1)
        os.close(descriptor)
    return len(blobs)


def put_manifests(system: System) -> int:
    """Give each available checkpoint of a filled catalog its manifest in its local store; says how many."""
    with system.catalog.database.reading() as transaction:
        ids = transaction.column("SELECT id FROM checkpoints WHERE status = 'available'")
    folder = Path(system.settings.effective_store) / "manifests"
    folder.mkdir(exist_ok=True)
    # The store's own way makes each durable, which takes longer than all else.
    quick = cast(ManagedStore, _QuickStore(folder))
    for checkpoint_id in ids:
        checkpoint = system.catalog.checkpoints.get_by_id(checkpoint_id)
        write_manifest(quick, checkpoint, system.blobs.files_of(checkpoint_id))
    return len(ids)


@dataclass(frozen=True)
class _QuickStore:
    """A store in so far as manifests are written to it."""

    folder: Path

    def write_manifest(self, checkpoint_id: str, *document: bytes | bytearray) -> None:
        (self.folder / f"{checkpoint_id}.json").write_bytes(b"".join(document))


@dataclass(frozen=True)
class _Shared:
    """What the checkpoints of a job have in common."""

    job_id: str | None
    pack: str
    contents: list[int]


class _Rows:
    """The rows of all tables; the same for the same count."""

    def __init__(self, count: int, store_id: str | None) -> None:
        self._random = random.Random(count)
        self._begin = datetime(2026, 1, 1, tzinfo=UTC)
        self._owner, self._store = self._uuid(), store_id or self._uuid()
        self._tables: dict[str, list[Row]] = {name: [] for name in metadata.tables}
        self._shared: dict[str, _Shared] = {}
        self._pushed: list[tuple[str, str, list[str]]] = []
        self._captured: list[tuple[str, str]] = []
        self._count = count
        self._content = 0

    def batches(self) -> Iterator[dict[str, list[Row]]]:
        """Rows by table, parents before children; a table comes many times."""
        for number in range(self._count):
            self._add_checkpoint(number)
            if number % 1000 == 999:
                yield self._take()
        yield self._take()

    def filled(self) -> Filled:
        """What can be asked for."""
        checkpoint_id, name, digests = self._pushed[len(self._pushed) // 2]
        captured_id, job = self._captured[len(self._captured) // 2]
        return Filled(self._store, name, checkpoint_id, captured_id, job, tuple(digests), len(self._pushed))

    def _take(self) -> dict[str, list[Row]]:
        taken, self._tables = self._tables, {name: [] for name in metadata.tables}
        return taken

    def _uuid(self) -> str:
        return str(uuid.UUID(int=self._random.getrandbits(128), version=4))

    def _hex(self, bits: int) -> str:
        return f"{self._random.getrandbits(bits):0{bits // 4}x}"

    def _add_checkpoint(self, number: int) -> None:
        time = to_text(self._begin + timedelta(minutes=number))
        is_captured, is_deleted = number % 10 != 3, number % 47 == 7
        name = f"{_MODELS[number % 5]}-{_KINDS[number // 7 % 5]}-{number:06}"
        job_name = f"{_MODELS[number // OF_A_JOB % 5]}-run-{number // OF_A_JOB:04}" if is_captured else ""
        folder = job_name or _MODELS[number % 5]
        if folder not in self._shared:
            self._add_shared(folder, time, is_job=is_captured)
        shared = self._shared[folder]
        # One of a hundred pushes was given up.
        is_failed = not is_captured and not is_deleted and number % 1000 == 13
        checkpoint_id = self._uuid()
        step = number % OF_A_JOB * 500
        # What was given up has no files: its blobs are gc's.
        digests = [] if is_failed else self._add_files(checkpoint_id, time, shared)
        self._tables["checkpoints"].append(
            {
                "id": checkpoint_id,
                "kind": "captured" if is_captured else "pushed",
                "name": f"checkpoint-{step}" if is_captured else name,
                "name_key": None if is_captured or is_deleted else name,
                "creator": login(),
                "creator_user_id": self._owner,
                "owner_org_id": self._owner,
                "source": json.dumps({"from_local_files": [] if is_captured else [f"output/{name}"]}),
                "status": "deleting" if is_deleted else "failed" if is_failed else "available",
                "reason": "the disk was full" if is_failed else "",
                "size": 14_000_000_000 + number * 1_000_003,
                "file_count": FILES,
                "manifest_digest": None if is_failed else self._hex(256),
                "store_id": self._store,
                "job_id": shared.job_id,
                "node": "0",
                "sequence": number % OF_A_JOB + 1 if is_captured else 0,
                "step": step if is_captured else None,
                "train_loss": 2.5 - step / 100_000 if is_captured else None,
                "model": folder if is_captured else "",
                "version": "",
                "inference_ready": True,
                "inference_missing": "[]",
                "resumable": is_captured,
                "resumable_missing": "[]",
                "resumable_unknown": False,
                "metrics": "{}",
                "best_by": "",
                "pointers": "[]",
                "reported": "[]",
                "nodes": "",
                "parts": 0,
                "attempt": 1 if is_captured else 0,
                "is_protected": number % 500 == 3,
                "created_at": time,
                "updated_at": time,
                "deleted_at": time if is_deleted else None,
            }
        )
        if not is_captured and number % 20 == 3:
            self._tables["exports"].append(
                {
                    "id": self._uuid(),
                    "checkpoint_id": checkpoint_id,
                    "storage_provider": "team-bucket",
                    "destination_path": f"releases/{name}",
                    "manifest_digest": self._hex(256),
                    "exported_at": time,
                }
            )
        if is_captured:
            self._captured.append((checkpoint_id, job_name))
        elif not is_deleted:
            self._pushed.append((checkpoint_id, name, digests))

    def _add_shared(self, folder: str, time: str, *, is_job: bool) -> None:
        """A job and what all its checkpoints share; of pushed checkpoints, what those of a model share."""
        job_id = self._uuid() if is_job else None
        if is_job:
            self._tables["jobs"].append(
                {
                    "id": job_id,
                    "name": folder,
                    "name_key": folder,
                    "creator": login(),
                    "creator_user_id": self._owner,
                    "owner_org_id": self._owner,
                    "status": "succeeded",
                    "reason": "",
                    "command": json.dumps(["python", "train.py", f"--output={folder}"]),
                    "env_names": '["WANDB_MODE"]',
                    "attempt": 1,
                    "exit_code": 0,
                    "output_dir": f"/data/{folder}/output",
                    "log_path": f"/data/{folder}/log.txt",
                    "host": "trainer-1",
                    "stop_requested": False,
                    "lost": 0,
                    "nodes": 1,
                    "code_commit": self._hex(160),
                    "created_at": time,
                    "started_at": time,
                    "ended_at": time,
                    "updated_at": time,
                }
            )
        pack = self._add_blob(time, len(SHARED) * 20_000)
        contents = [self._add_content(pack, place * 20_000, 20_000 - place) for place in range(len(SHARED))]
        self._shared[folder] = _Shared(job_id, pack, [content_id for content_id, _ in contents])

    def _add_files(self, checkpoint_id: str, time: str, shared: _Shared) -> list[str]:
        contents = dict(zip(SHARED, shared.contents, strict=True))
        pack = self._add_blob(time, len(SMALL) * 15_000)
        needed, digests = [shared.pack, pack], []
        for place, path in enumerate(SMALL):
            contents[path], digest = self._add_content(pack, place * 15_000, 14_000 + self._random.randrange(1000))
            digests.append(digest)
        for path in LARGE:
            size = 4000 * _MIB + self._random.randrange(_MIB)
            needed.append(self._add_blob(time, size))
            contents[path], digest = self._add_content(needed[-1], 0, size)
            digests.append(digest)
        self._tables["files"] += [
            {"checkpoint_id": checkpoint_id, "path": path, "content_id": content_id}
            for path, content_id in contents.items()
        ]
        self._tables["blob_references"] += [{"checkpoint_id": checkpoint_id, "blob_id": blob_id} for blob_id in needed]
        return digests

    def _add_blob(self, time: str, size: int) -> str:
        blob_id = self._hex(128)
        self._tables["blobs"].append(
            {"id": blob_id, "store_id": self._store, "size": size, "status": "stored", "created_at": time}
        )
        return blob_id

    def _add_content(self, blob_id: str, start: int, size: int) -> tuple[int, str]:
        self._content += 1
        digest = self._hex(256)
        self._tables["contents"].append(
            {
                "id": self._content,
                "blob_id": blob_id,
                "start": start,
                "size": size,
                # Of one part: the digests of more would only make the rows longer.
                "part_size": max(64 * _MIB, 1 << (size - 1).bit_length()),
                "digest": digest,
                "part_digests": bytes.fromhex(digest),
                "checksums": "{}",
                "is_damaged": False,
            }
        )
        return self._content, digest


@cache
def _defaults(table: str) -> Row:
    """What the program would enter where nothing is said; what the database enters is left to it."""
    columns = metadata.tables[table].columns
    return {one.name: one.default.arg for one in columns if isinstance(one.default, ColumnDefault)}


def _fill_sqlite(path: str, rows: _Rows) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        # What breaks off is made anew, so nothing needs to survive; and indexes are made faster than they grow.
        connection.execute("PRAGMA synchronous=OFF")
        connection.execute("PRAGMA cache_size=-262144")
        made = connection.execute("SELECT name, sql FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL")
        indexes = dict(made.fetchall())
        connection.execute("BEGIN")
        for name in indexes:
            connection.execute(f"DROP INDEX {name}")
        for batch in rows.batches():
            for table, found in batch.items():
                some = [_defaults(table) | row for row in found]
                if some:
                    places = ", ".join(f":{column}" for column in some[0])
                    connection.executemany(f"INSERT INTO {table} ({', '.join(some[0])}) VALUES ({places})", some)
        for sql in indexes.values():
            connection.execute(sql)
        connection.execute("COMMIT")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def _fill_postgresql(url: str, rows: _Rows) -> None:
    import psycopg

    with psycopg.connect(url) as connection:
        # Rows come parents first, so foreign keys need not be looked up a million times; only administrators may.
        connection.execute("SET session_replication_role = replica")
        for batch in rows.batches():
            for table, found in batch.items():
                some = [_defaults(table) | row for row in found]
                if not some:
                    continue
                into = f"COPY {table} ({', '.join(some[0])}) FROM STDIN"
                with connection.cursor().copy(into.encode()) as copy:
                    for row in some:
                        copy.write_row(list(row.values()))
        last = "SELECT setval(pg_get_serial_sequence('contents', 'id'), max(id)) FROM contents"
        connection.execute(last)
        connection.commit()
        connection.autocommit = True
        # As a server that is used does by itself.
        connection.execute("VACUUM ANALYZE")
