"""Flows composed of the tasks, ready to be deployed: see ``deployments/prefect.yaml``."""
