"""A checkpoint manager for people who train models, built as a Prefect task collection."""

__version__ = "0.1.0"
