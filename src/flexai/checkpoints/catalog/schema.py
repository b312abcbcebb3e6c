"""The form of the catalog, and how long SQLite waits: what SQLite commands need without importing SQLAlchemy."""

HEAD_REVISION = "0001"
"""The newest migration; a test compares it with the folder of migrations."""

BUSY_TIMEOUT_SECONDS = 60
"""How long an SQLite connection waits for another writer."""
