"""Which machine this is, as launchers tell."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from flexai.checkpoints.errors import UsageError
from flexai.checkpoints.models import Node
from flexai.checkpoints.training.launchers import this_node

STEP = {"SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0"}


@pytest.mark.parametrize(
    ("environment", "node"),
    [
        ({}, None),
        (STEP | {"SLURM_NODEID": "1", "SLURM_NNODES": "4", "SLURM_NTASKS": "32", "SLURM_PROCID": "8"}, Node(1, 4)),
        (STEP | {"SLURM_NODEID": "0", "SLURM_NNODES": "1", "SLURM_NTASKS": "8"}, None),
        # A step on two of the job's four machines.
        (STEP | {"SLURM_NODEID": "1", "SLURM_STEP_NUM_NODES": "2", "SLURM_NNODES": "4"}, Node(1, 2)),
        # The batch script itself runs once, on the first machine.
        ({"SLURM_JOB_ID": "7", "SLURM_NODEID": "0", "SLURM_NNODES": "4"}, None),
        ({"SLURM_NODEID": "1", "SLURM_NNODES": "2"}, Node(1, 2)),
        # torchrun
        (
            {"GROUP_RANK": "1", "GROUP_WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "8", "WORLD_SIZE": "16", "RANK": "9"},
            Node(1, 2),
        ),
        ({"GROUP_RANK": "0", "GROUP_WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "8", "WORLD_SIZE": "8", "RANK": "3"}, None),
        ({"GROUP_RANK": "1", "LOCAL_WORLD_SIZE": "4", "WORLD_SIZE": "8"}, Node(1, 2)),
        ({"PET_NODE_RANK": "2", "PET_NNODES": "3"}, Node(2, 3)),
        # Lightning
        ({"NODE_RANK": "1", "LOCAL_WORLD_SIZE": "4", "WORLD_SIZE": "8"}, Node(1, 2)),
        ({"NODE_RANK": "0", "WORLD_SIZE": "8"}, None),
        ({"NODE_RANK": "1", "NUM_NODES": "2"}, Node(1, 2)),
        ({"NODE_RANK": "1", "NNODES": "2"}, Node(1, 2)),
        (STEP | {"NODE_RANK": "1", "SLURM_NODEID": "1", "SLURM_NNODES": "2"}, Node(1, 2)),
        ({"SKYPILOT_NODE_RANK": "3", "SKYPILOT_NUM_NODES": "4"}, Node(3, 4)),
        # Processes, of which the machines are not known.
        ({"WORLD_SIZE": "8", "RANK": "3", "LOCAL_RANK": "3"}, None),
        ({"OMPI_COMM_WORLD_RANK": "3", "OMPI_COMM_WORLD_SIZE": "8", "OMPI_COMM_WORLD_NODE_RANK": "3"}, None),
        # What is no number is none.
        ({"NODE_RANK": "one", "NNODES": "2"}, None),
        ({"PET_NODE_RANK": "0", "PET_NNODES": "1:4"}, None),
    ],
)
def test_machines_are_counted_and_processes_are_not(environment: Mapping[str, str], node: Node | None) -> None:
    assert this_node(None, None, environment) == node


def test_what_was_said_goes_before_what_the_environment_tells() -> None:
    environment = STEP | {"SLURM_NODEID": "1", "SLURM_NNODES": "4"}
    assert this_node(0, 2, environment) == Node(0, 2)
    assert this_node(0, 1, environment) is None
    assert this_node(None, 2, environment) == Node(1, 2)
    assert this_node(3, None, environment) == Node(3, 4)


@pytest.mark.parametrize(
    ("rank", "total", "environment"),
    [
        (1, None, {}),
        (None, 2, {}),
        (2, 2, {}),
        (-1, 2, {}),
        (0, 0, {}),
        (None, None, {"NODE_RANK": "1", "WORLD_SIZE": "8"}),
        (None, None, {"SKYPILOT_NODE_RANK": "4", "SKYPILOT_NUM_NODES": "4"}),
    ],
)
def test_what_does_not_say_which_of_how_many_is_refused(
    rank: int | None, total: int | None, environment: Mapping[str, str]
) -> None:
    with pytest.raises(UsageError) as raised:
        this_node(rank, total, environment)
    assert raised.value.hint
