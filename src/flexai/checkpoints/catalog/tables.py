"""The catalog's tables.

Times are ISO 8601 texts in UTC with microseconds: they sort as they are, and read the same from SQLite and from
PostgreSQL. Digests of files are hex texts; the digests of a content's parts lie one after the other in one binary
value.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    text,
)

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
    }
)

_ID = String(36)
_TIME = String(32)
# SQLite gives only INTEGER PRIMARY KEY columns their numbers by itself.
_SERIAL = BigInteger().with_variant(Integer, "sqlite")


def _claim_columns() -> list[Column[Any]]:
    """Which process works on a row; all empty where none does (see ``leases``)."""
    return [
        Column("claim_token", String(32)),
        Column("claim_host", Text),
        Column("claim_pid", Integer),
        Column("claim_started", Text),
        Column("claim_until", _TIME),
    ]


# The catalog itself, in its one row: which one it is to its managed store, and to whom all that it knows belongs.
Table(
    "identity",
    metadata,
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("id", _ID, nullable=False),
    Column("owner_org_id", _ID),
    Column("created_at", _TIME, nullable=False),
    CheckConstraint("number = 1", name="number"),
)

jobs = Table(
    "jobs",
    metadata,
    Column("id", _ID, primary_key=True),
    Column("name", String(63), nullable=False),
    # The name as it is compared; empty (NULL) once the job is deleted, so that the name is free.
    Column("name_key", String(63), unique=True),
    Column("creator_user_id", _ID, nullable=False),
    Column("owner_org_id", _ID, nullable=False),
    Column("status", String(16), nullable=False),
    Column("reason", Text, nullable=False),
    Column("command", Text, nullable=False),
    Column("env_names", Text, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("exit_code", Integer),
    Column("input_checkpoint_id", _ID),
    Column("output_dir", Text, nullable=False),
    Column("log_path", Text, nullable=False),
    # The machine that the paths are on; the lease forgets it when the job ends.
    Column("host", Text, nullable=False, default=""),
    Column("stop_requested", Boolean, nullable=False),
    # See training.code; empty where nothing is known.
    Column("code_commit", String(80), nullable=False, default=""),
    Column("created_at", _TIME, nullable=False),
    Column("started_at", _TIME, nullable=False),
    Column("ended_at", _TIME),
    Column("updated_at", _TIME, nullable=False),
    *_claim_columns(),
    # Versions of checkpoints that were whole once and could not be stored, of all attempts.
    Column("lost", Integer, nullable=False, server_default=text("0")),
    # How many machines its last attempt has; each has a row in job_nodes where there are several.
    Column("nodes", Integer, nullable=False, server_default=text("1")),
    # Who made it, for people: user@host. Empty where that was not recorded.
    Column("creator", Text, nullable=False, server_default=text("''")),
    CheckConstraint(
        "status IN ('in progress', 'stop in progress', 'succeeded', 'failed', 'stopped', 'interrupted')",
        name="status",
    ),
)

# The machines of attempts that have several: each runs the job's command, under a lease of its own.
job_nodes = Table(
    "job_nodes",
    metadata,
    Column("job_id", _ID, ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
    Column("attempt", Integer, primary_key=True),
    Column("node", Integer, primary_key=True),
    Column("status", String(16), nullable=False),
    Column("reason", Text, nullable=False),
    Column("exit_code", Integer),
    # What the machines have agreed to start from: empty for nothing; NULL where this one has not asked yet.
    Column("input_checkpoint_id", _ID),
    Column("output_dir", Text, nullable=False),
    Column("log_path", Text, nullable=False),
    Column("host", Text, nullable=False),
    Column("started_at", _TIME, nullable=False),
    Column("ended_at", _TIME),
    *_claim_columns(),
)

checkpoints = Table(
    "checkpoints",
    metadata,
    Column("id", _ID, primary_key=True),
    Column("kind", String(8), nullable=False),
    Column("name", Text, nullable=False),
    # The name as it is compared; empty (NULL) for captured checkpoints, and once deleted, so that the name is free.
    Column("name_key", String(63), unique=True),
    Column("creator_user_id", _ID, nullable=False),
    Column("owner_org_id", _ID, nullable=False),
    Column("source", Text, nullable=False),
    Column("status", String(10), nullable=False),
    Column("reason", Text, nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("file_count", Integer, nullable=False),
    Column("manifest_digest", String(64)),
    Column("store_id", _ID, nullable=False),
    Column("parent_id", _ID),
    Column("job_id", _ID, ForeignKey("jobs.id")),
    Column("node", String(16), nullable=False),
    Column("sequence", Integer, nullable=False),
    Column("step", BigInteger),
    Column("train_loss", Float),
    Column("eval_loss", Float),
    Column("model", Text, nullable=False),
    Column("version", Text, nullable=False),
    Column("inference_ready", Boolean, nullable=False),
    Column("inference_missing", Text, nullable=False),
    Column("resumable", Boolean, nullable=False),
    Column("resumable_missing", Text, nullable=False),
    # A user has protected it: no operation deletes it before the user takes that back.
    Column("is_protected", Boolean, nullable=False, default=False),
    Column("created_at", _TIME, nullable=False),
    Column("updated_at", _TIME, nullable=False),
    Column("deleted_at", _TIME),
    *_claim_columns(),
    # A JSON object of names and finite numbers; a JSON list of names relative to the checkpoint's folder.
    Column("metrics", Text, nullable=False, server_default=text("'{}'")),
    Column("pointers", Text, nullable=False, server_default=text("'[]'")),
    # The metric that the trainer chooses by: `accuracy:max`.
    Column("best_by", Text, nullable=False, server_default=text("''")),
    # Whether `resumable` is only "no" because it cannot be told: SQLite cannot let that column be empty any more.
    Column("resumable_unknown", Boolean, nullable=False, server_default=text("false")),
    # A JSON list of what the trainer reported of its step and metrics.
    Column("reported", Text, nullable=False, server_default=text("'[]'")),
    # Of several machines: which of them have brought a part, and how many there are. SQLite cannot learn the status
    # "incomplete" any more: such a checkpoint has failed and has parts.
    Column("nodes", Text, nullable=False, server_default=text("''")),
    Column("parts", Integer, nullable=False, server_default=text("0")),
    Column("attempt", Integer, nullable=False, server_default=text("0")),
    # Of a part: the checkpoint that it belongs to. The part's own job is empty (NULL), so that no list shows it.
    Column("part_of", _ID),
    # Who made it, for people: user@host. Empty where that was not recorded.
    Column("creator", Text, nullable=False, server_default=text("''")),
    # A JSON list of the paths of its empty folders.
    Column("folders", Text, nullable=False, server_default=text("'[]'")),
    CheckConstraint("kind IN ('pushed', 'captured')", name="kind"),
    CheckConstraint("status IN ('uploading', 'syncing', 'available', 'failed', 'deleting')", name="status"),
    CheckConstraint("status <> 'available' OR manifest_digest IS NOT NULL", name="available"),
    Index(None, "kind", "deleted_at", "created_at"),
    Index(None, "deleted_at"),
    Index(None, "job_id", "sequence"),
    # Of parts alone: that a checkpoint is no part is nothing to find it by.
    Index(None, "part_of", sqlite_where=text("part_of IS NOT NULL"), postgresql_where=text("part_of IS NOT NULL")),
    UniqueConstraint("job_id", "node", "sequence"),
)

blobs = Table(
    "blobs",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("store_id", _ID, nullable=False),
    Column("size", BigInteger, nullable=False),
    # writing: its bytes are arriving; stored: all are there; deleting: no process may use it any more.
    Column("status", String(8), nullable=False),
    # While it is being written: by which checkpoint, from which of its files, and as which upload in which parts.
    Column("writer_id", _ID),
    Column("writer_path", Text),
    # Which version of a provider's object that file is; empty for a local one.
    Column("writer_version", Text),
    Column("upload_id", Text),
    Column("part_size", BigInteger),
    Column("created_at", _TIME, nullable=False),
    CheckConstraint("status IN ('writing', 'stored', 'deleting')", name="status"),
    Index(None, "writer_id"),
    Index(None, "status"),
)

blob_parts = Table(
    "blob_parts",
    metadata,
    Column("blob_id", String(32), ForeignKey("blobs.id", ondelete="CASCADE"), primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("digest", LargeBinary(32), nullable=False),
    Column("receipt", Text, nullable=False),
)

contents = Table(
    "contents",
    metadata,
    Column("id", _SERIAL, primary_key=True),
    Column("blob_id", String(32), ForeignKey("blobs.id", ondelete="CASCADE"), nullable=False),
    Column("start", BigInteger, nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("part_size", BigInteger, nullable=False),
    Column("digest", String(64)),
    Column("part_digests", LargeBinary, nullable=False),
    Column("checksums", Text, nullable=False),
    # Which version of which provider's object this is; empty (NULL) for a local file's content.
    Column("origin", Text),
    # Found so by a verification: no push may rely on it.
    Column("is_damaged", Boolean, nullable=False, default=False),
    # When its bytes were last read here and compared; empty (NULL) since they were stored.
    Column("verified_at", _TIME),
    Index(None, "blob_id"),
    Index(None, "digest"),
    Index(None, "origin"),
    Index(None, "size"),
    Index(None, "verified_at"),
)

files = Table(
    "files",
    metadata,
    Column("checkpoint_id", _ID, ForeignKey("checkpoints.id", ondelete="CASCADE"), primary_key=True),
    Column("path", Text, primary_key=True),
    Column("content_id", _SERIAL, ForeignKey("contents.id"), nullable=False),
    Column("is_executable", Boolean, nullable=False, server_default=text("false")),
    Index(None, "content_id"),
    sqlite_with_rowid=False,
)

# Which checkpoints need a blob, whether they are available or still on their way. No checkpoint needs a blob
# without a row here, and gc may take it.
blob_references = Table(
    "blob_references",
    metadata,
    Column("checkpoint_id", _ID, ForeignKey("checkpoints.id", ondelete="CASCADE"), primary_key=True),
    Column("blob_id", String(32), ForeignKey("blobs.id"), primary_key=True),
    Index(None, "blob_id"),
    sqlite_with_rowid=False,
)

exports = Table(
    "exports",
    metadata,
    Column("id", _ID, primary_key=True),
    Column("checkpoint_id", _ID, ForeignKey("checkpoints.id", ondelete="CASCADE"), nullable=False),
    Column("storage_provider", Text, nullable=False),
    Column("destination_path", Text, nullable=False),
    Column("manifest_digest", String(64), nullable=False),
    Column("exported_at", _TIME, nullable=False),
    # Only some of the checkpoint's files are there.
    Column("is_part", Boolean, nullable=False, server_default=text("false")),
    UniqueConstraint("checkpoint_id", "storage_provider", "destination_path"),
)

# What was changed, by whom and from where: written with each change, and never changed itself.
Table(
    "history",
    metadata,
    Column("id", _SERIAL, primary_key=True),
    Column("at", _TIME, nullable=False),
    # user@host; where the command ran; and the Prefect flow run that it was a part of, or empty.
    Column("actor", Text, nullable=False),
    Column("host", Text, nullable=False),
    Column("flow_run_id", Text, nullable=False),
    Column("action", String(32), nullable=False),
    Column("kind", String(16), nullable=False),
    Column("subject_id", _ID, nullable=False),
    # What the subject was called at that time.
    Column("title", Text, nullable=False),
    # JSON objects of what changed.
    Column("before", Text, nullable=False),
    Column("after", Text, nullable=False),
    Index(None, "subject_id"),
    Index(None, "at"),
)

# Of what the store's record has to be written anew: a process is about to change it, or has died over that.
Table(
    "records_due",
    metadata,
    Column("id", _ID, primary_key=True),
    Column("kind", String(16), nullable=False),
    Column("since", _TIME, nullable=False),
)

# Commits on a server, each under a token of its own: where the answer to one is lost, its row tells that it was made.
Table(
    "commits",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("at", _TIME, nullable=False),
)
