"""The database of checkpoints, training jobs and blobs: SQLite or PostgreSQL, the same code for both."""
