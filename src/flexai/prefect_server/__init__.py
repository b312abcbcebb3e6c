"""Which Prefect API there is, and the server of ``flexai up``; all of it without importing Prefect."""
