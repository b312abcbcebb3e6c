"""``flexai up``, ``down``, ``status`` and ``deploy``: Prefect on this machine, without having to know its commands."""
