"""The checkpoint system itself: it knows no Prefect and no terminal."""
