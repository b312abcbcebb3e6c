"""What the roles of a team may do with the tables of a catalog in PostgreSQL, as SQL."""

from __future__ import annotations

from collections.abc import Iterable

from flexai.checkpoints.catalog.tables import metadata

READER, WRITER, ADMIN = DATABASE_ROLES = ("flexai_reader", "flexai_writer", "flexai_admin")
"""Each may also do what the one before may."""

_REVISION = "alembic_version"
_HEAD = """\
-- Roles of a flexai catalog. Run this as the user who owns its tables and may make roles, and again after each upgrade.
--   flexai_reader   sees everything: list, inspect, history, fetch
--   flexai_writer   also pushes, captures, exports, protects and deletes; adds to the history, and changes none of it
--   flexai_admin    also frees the bytes of what was deleted: gc
BEGIN;
"""
_MAKE = """\
DO $$ BEGIN CREATE ROLE {role} NOLOGIN; EXCEPTION WHEN duplicate_object THEN NULL; END $$;
"""
_USE = """\
DO $$ BEGIN
    EXECUTE format('GRANT CONNECT ON DATABASE %I TO {role}', current_database());
    EXECUTE format('GRANT USAGE ON SCHEMA %I TO {role}', current_schema());
END $$;
"""


def grants_sql() -> str:
    """The statements that make the roles, and grant each what it needs; they can be run again and again."""
    tables = [table.name for table in metadata.sorted_tables]
    serials = [
        f"{table.name}_{column.name}_seq"
        for table in metadata.sorted_tables
        if (column := table.autoincrement_column) is not None
    ]
    added_to = {"commits", "history"}
    freed = {"blobs", "commits", "contents"}
    changed = [name for name in tables if name not in added_to | freed | {"identity"}]
    statements = [
        f"REVOKE ALL ON {_names([*tables, _REVISION])} FROM {', '.join(DATABASE_ROLES)};",
        f"GRANT {READER} TO {WRITER};",
        f"GRANT {WRITER} TO {ADMIN};",
        f"GRANT SELECT ON {_names([*tables, _REVISION])} TO {READER};",
        f"GRANT INSERT ON {_names(tables)} TO {WRITER};",
        f"GRANT UPDATE ON {_names(name for name in tables if name not in added_to)} TO {WRITER};",
        f"GRANT DELETE ON {_names(changed)} TO {WRITER};",
        f"GRANT USAGE ON SEQUENCE {_names(serials)} TO {WRITER};",
        f"GRANT DELETE ON {_names(freed)} TO {ADMIN};",
    ]
    make = "".join(_MAKE.format(role=role) for role in DATABASE_ROLES)
    return f"{_HEAD}{make}{_USE.format(role=READER)}" + "".join(f"{one}\n" for one in statements) + "COMMIT;\n"


def _names(tables: Iterable[str]) -> str:
    return ", ".join(sorted(tables))
