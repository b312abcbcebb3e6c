"""The first tables: jobs, checkpoints, blobs and their parts, contents, files, references, exports."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "blobs",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("store_id", sa.String(length=36), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("status", sa.String(length=8), nullable=False),
        sa.Column("writer_id", sa.String(length=36), nullable=True),
        sa.Column("writer_path", sa.Text(), nullable=True),
        sa.Column("writer_version", sa.Text(), nullable=True),
        sa.Column("upload_id", sa.Text(), nullable=True),
        sa.Column("part_size", sa.BigInteger(), nullable=True),
        sa.Column("created_at", sa.String(length=32), nullable=False),
        sa.CheckConstraint("status IN ('writing', 'stored', 'deleting')", name=op.f("ck_blobs_status")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_blobs")),
    )
    op.create_index(op.f("ix_blobs_status"), "blobs", ["status"], unique=False)
    op.create_index(op.f("ix_blobs_writer_id"), "blobs", ["writer_id"], unique=False)
    op.create_table(
        "jobs",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("name", sa.String(length=63), nullable=False),
        sa.Column("name_key", sa.String(length=63), nullable=True),
        sa.Column("creator_user_id", sa.String(length=36), nullable=False),
        sa.Column("owner_org_id", sa.String(length=36), nullable=False),
        sa.Column("status", sa.String(length=16), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("command", sa.Text(), nullable=False),
        sa.Column("env_names", sa.Text(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("exit_code", sa.Integer(), nullable=True),
        sa.Column("input_checkpoint_id", sa.String(length=36), nullable=True),
        sa.Column("output_dir", sa.Text(), nullable=False),
        sa.Column("log_path", sa.Text(), nullable=False),
        sa.Column("host", sa.Text(), nullable=False),
        sa.Column("stop_requested", sa.Boolean(), nullable=False),
        sa.Column("code_commit", sa.String(length=80), nullable=False),
        sa.Column("created_at", sa.String(length=32), nullable=False),
        sa.Column("started_at", sa.String(length=32), nullable=False),
        sa.Column("ended_at", sa.String(length=32), nullable=True),
        sa.Column("updated_at", sa.String(length=32), nullable=False),
        sa.Column("claim_token", sa.String(length=32), nullable=True),
        sa.Column("claim_host", sa.Text(), nullable=True),
        sa.Column("claim_pid", sa.Integer(), nullable=True),
        sa.Column("claim_started", sa.Text(), nullable=True),
        sa.Column("claim_until", sa.String(length=32), nullable=True),
        sa.CheckConstraint(
            "status IN ('in progress', 'stop in progress', 'succeeded', 'failed', 'stopped', 'interrupted')",
            name=op.f("ck_jobs_status"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_jobs")),
        sa.UniqueConstraint("name_key", name=op.f("uq_jobs_name_key")),
    )
    op.create_table(
        "blob_parts",
        sa.Column("blob_id", sa.String(length=32), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("digest", sa.LargeBinary(length=32), nullable=False),
        sa.Column("receipt", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["blob_id"], ["blobs.id"], name=op.f("fk_blob_parts_blob_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("blob_id", "number", name=op.f("pk_blob_parts")),
    )
    op.create_table(
        "checkpoints",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("kind", sa.String(length=8), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("name_key", sa.String(length=63), nullable=True),
        sa.Column("creator_user_id", sa.String(length=36), nullable=False),
        sa.Column("owner_org_id", sa.String(length=36), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("status", sa.String(length=10), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("file_count", sa.Integer(), nullable=False),
        sa.Column("manifest_digest", sa.String(length=64), nullable=True),
        sa.Column("store_id", sa.String(length=36), nullable=False),
        sa.Column("parent_id", sa.String(length=36), nullable=True),
        sa.Column("job_id", sa.String(length=36), nullable=True),
        sa.Column("node", sa.String(length=16), nullable=False),
        sa.Column("sequence", sa.Integer(), nullable=False),
        sa.Column("step", sa.BigInteger(), nullable=True),
        sa.Column("train_loss", sa.Float(), nullable=True),
        sa.Column("eval_loss", sa.Float(), nullable=True),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("version", sa.Text(), nullable=False),
        sa.Column("inference_ready", sa.Boolean(), nullable=False),
        sa.Column("inference_missing", sa.Text(), nullable=False),
        sa.Column("resumable", sa.Boolean(), nullable=False),
        sa.Column("resumable_missing", sa.Text(), nullable=False),
        sa.Column("is_protected", sa.Boolean(), nullable=False),
        sa.Column("created_at", sa.String(length=32), nullable=False),
        sa.Column("updated_at", sa.String(length=32), nullable=False),
        sa.Column("deleted_at", sa.String(length=32), nullable=True),
        sa.Column("claim_token", sa.String(length=32), nullable=True),
        sa.Column("claim_host", sa.Text(), nullable=True),
        sa.Column("claim_pid", sa.Integer(), nullable=True),
        sa.Column("claim_started", sa.Text(), nullable=True),
        sa.Column("claim_until", sa.String(length=32), nullable=True),
        sa.CheckConstraint("kind IN ('pushed', 'captured')", name=op.f("ck_checkpoints_kind")),
        sa.CheckConstraint(
            "status <> 'available' OR manifest_digest IS NOT NULL", name=op.f("ck_checkpoints_available")
        ),
        sa.CheckConstraint(
            "status IN ('uploading', 'syncing', 'available', 'failed', 'deleting')",
            name=op.f("ck_checkpoints_status"),
        ),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_checkpoints_job_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_checkpoints")),
        sa.UniqueConstraint("job_id", "node", "sequence", name=op.f("uq_checkpoints_job_id_node_sequence")),
        sa.UniqueConstraint("name_key", name=op.f("uq_checkpoints_name_key")),
    )
    op.create_index(op.f("ix_checkpoints_deleted_at"), "checkpoints", ["deleted_at"], unique=False)
    op.create_index(op.f("ix_checkpoints_job_id_sequence"), "checkpoints", ["job_id", "sequence"], unique=False)
    op.create_index(
        op.f("ix_checkpoints_kind_deleted_at_created_at"),
        "checkpoints",
        ["kind", "deleted_at", "created_at"],
        unique=False,
    )
    op.create_table(
        "contents",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("blob_id", sa.String(length=32), nullable=False),
        sa.Column("start", sa.BigInteger(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("part_size", sa.BigInteger(), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=True),
        sa.Column("part_digests", sa.LargeBinary(), nullable=False),
        sa.Column("checksums", sa.Text(), nullable=False),
        sa.Column("origin", sa.Text(), nullable=True),
        sa.Column("is_damaged", sa.Boolean(), nullable=False),
        sa.Column("verified_at", sa.String(length=32), nullable=True),
        sa.ForeignKeyConstraint(["blob_id"], ["blobs.id"], name=op.f("fk_contents_blob_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_contents")),
    )
    op.create_index(op.f("ix_contents_blob_id"), "contents", ["blob_id"], unique=False)
    op.create_index(op.f("ix_contents_digest"), "contents", ["digest"], unique=False)
    op.create_index(op.f("ix_contents_origin"), "contents", ["origin"], unique=False)
    op.create_index(op.f("ix_contents_size"), "contents", ["size"], unique=False)
    op.create_index(op.f("ix_contents_verified_at"), "contents", ["verified_at"], unique=False)
    op.create_table(
        "blob_references",
        sa.Column("checkpoint_id", sa.String(length=36), nullable=False),
        sa.Column("blob_id", sa.String(length=32), nullable=False),
        sa.ForeignKeyConstraint(["blob_id"], ["blobs.id"], name=op.f("fk_blob_references_blob_id")),
        sa.ForeignKeyConstraint(
            ["checkpoint_id"],
            ["checkpoints.id"],
            name=op.f("fk_blob_references_checkpoint_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("checkpoint_id", "blob_id", name=op.f("pk_blob_references")),
        sqlite_with_rowid=False,
    )
    op.create_index(op.f("ix_blob_references_blob_id"), "blob_references", ["blob_id"], unique=False)
    op.create_table(
        "exports",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("checkpoint_id", sa.String(length=36), nullable=False),
        sa.Column("storage_provider", sa.Text(), nullable=False),
        sa.Column("destination_path", sa.Text(), nullable=False),
        sa.Column("manifest_digest", sa.String(length=64), nullable=False),
        sa.Column("exported_at", sa.String(length=32), nullable=False),
        sa.ForeignKeyConstraint(
            ["checkpoint_id"], ["checkpoints.id"], name=op.f("fk_exports_checkpoint_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_exports")),
        sa.UniqueConstraint(
            "checkpoint_id",
            "storage_provider",
            "destination_path",
            name=op.f("uq_exports_checkpoint_id_storage_provider_destination_path"),
        ),
    )
    op.create_table(
        "files",
        sa.Column("checkpoint_id", sa.String(length=36), nullable=False),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("content_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.ForeignKeyConstraint(
            ["checkpoint_id"], ["checkpoints.id"], name=op.f("fk_files_checkpoint_id"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(["content_id"], ["contents.id"], name=op.f("fk_files_content_id")),
        sa.PrimaryKeyConstraint("checkpoint_id", "path", name=op.f("pk_files")),
        sqlite_with_rowid=False,
    )
    op.create_index(op.f("ix_files_content_id"), "files", ["content_id"], unique=False)


def downgrade() -> None:
    """Drop the tables."""
    op.drop_index(op.f("ix_files_content_id"), table_name="files")
    op.drop_table("files")
    op.drop_table("exports")
    op.drop_index(op.f("ix_blob_references_blob_id"), table_name="blob_references")
    op.drop_table("blob_references")
    op.drop_index(op.f("ix_contents_size"), table_name="contents")
    op.drop_index(op.f("ix_contents_digest"), table_name="contents")
    op.drop_index(op.f("ix_contents_blob_id"), table_name="contents")
    op.drop_table("contents")
    op.drop_index(op.f("ix_checkpoints_kind_deleted_at_created_at"), table_name="checkpoints")
    op.drop_index(op.f("ix_checkpoints_job_id_sequence"), table_name="checkpoints")
    op.drop_index(op.f("ix_checkpoints_deleted_at"), table_name="checkpoints")
    op.drop_table("checkpoints")
    op.drop_table("blob_parts")
    op.drop_table("jobs")
    op.drop_index(op.f("ix_blobs_writer_id"), table_name="blobs")
    op.drop_index(op.f("ix_blobs_status"), table_name="blobs")
    op.drop_table("blobs")
