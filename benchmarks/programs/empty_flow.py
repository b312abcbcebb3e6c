"""A flow that does nothing, and the deployment of it and of the training's: ``empty_flow.py POOL``.

What a flow run costs that has nothing to do is Prefect's own. Prints the ids of both deployments.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

from prefect import flow
from prefect.types.entrypoint import EntrypointType


@flow
def empty(times: str) -> None:
    """Say when it runs."""
    with Path(times).open("a") as file:
        file.write(f"empty {time.time()}\n")


def main(pool: str) -> None:
    """Deploy both to a pool of workers."""
    from benchmarks.programs.empty_flow import empty as importable

    from flexai.flows.train_push_export import train_push_export

    for one in (train_push_export, importable):
        deployment: Any = one.to_deployment(
            f"bench-{pool}", work_pool_name=pool, entrypoint_type=EntrypointType.MODULE_PATH
        )
        print(deployment.apply())


if __name__ == "__main__":
    main(sys.argv[1])
