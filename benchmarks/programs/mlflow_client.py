"""mlflow's artifact upload: ``mlflow_client.py (push|fetch) FOLDER BUCKET PREFIX``; the endpoint is inherited."""

from __future__ import annotations

import sys

from mlflow.store.artifact.artifact_repository_registry import (
    get_artifact_repository,
)


def main(verb: str, folder: str, bucket: str, prefix: str) -> None:
    """Move a folder."""
    repository = get_artifact_repository(f"s3://{bucket}/{prefix.rstrip('/')}")
    if verb == "push":
        repository.log_artifacts(folder)
    else:
        repository.download_artifacts("", folder)


if __name__ == "__main__":
    main(*sys.argv[1:])
