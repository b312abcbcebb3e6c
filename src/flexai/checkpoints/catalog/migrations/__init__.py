"""The history of the catalog's tables, one Alembic revision a module."""
