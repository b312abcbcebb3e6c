"""Which of several machines this one is, as what starts training processes tells it.

Launchers count two things: machines, and the processes of all of them (``WORLD_SIZE``, ``RANK``, ``SLURM_PROCID``,
``OMPI_COMM_WORLD_RANK``). Only the first is of use here. ``WORLD_SIZE`` leads to it where ``LOCAL_WORLD_SIZE`` says how
many processes a machine has. Sources: torchrun (``elastic/agent/server/local_elastic_agent.py`` and, for ``PET_…``,
``distributed/argparse_util.py``), Lightning (``fabric/plugins/environments/lightning.py``), Slurm (srun(1), OUTPUT
ENVIRONMENT VARIABLES), SkyPilot (Distributed Multi-Node Jobs), Open MPI (mpirun(1)).
"""

from __future__ import annotations

from collections.abc import Mapping

from flexai.checkpoints.errors import UsageError
from flexai.checkpoints.models import Node

NODE_SUFFIX = "-node-"

_LAUNCHERS = (
    ("GROUP_RANK", ("GROUP_WORLD_SIZE",)),
    ("NODE_RANK", ("NNODES", "NUM_NODES")),
    ("PET_NODE_RANK", ("PET_NNODES",)),
    ("SKYPILOT_NODE_RANK", ("SKYPILOT_NUM_NODES",)),
    ("SLURM_NODEID", ("SLURM_STEP_NUM_NODES", "SLURM_NNODES", "SLURM_JOB_NUM_NODES")),
)
"""The variables of a machine's number and of how many there are; the launcher that is nearest to the command first."""
_OF_PROCESSES = frozenset({"GROUP_RANK", "NODE_RANK"})
"""Beside these, ``WORLD_SIZE`` and ``LOCAL_WORLD_SIZE`` count processes."""


def this_node(rank: int | None, total: int | None, environment: Mapping[str, str]) -> Node | None:
    """Which of several machines this is: as it was said, and else as the environment tells; None for a single one.

    Raises UsageError where only one of the two numbers is known, or they contradict each other.
    """
    if rank is None or total is None:
        told_rank, told_total = _told(environment)
        if rank is None and total is None and not told_rank and told_total is None:
            return None  # the first of a number that is not known is as good as alone
        rank = told_rank if rank is None else rank
        total = told_total if total is None else total
    if rank is None or total is None:
        lacks = "--node-rank says which machine this is" if rank is None else "--nodes says how many machines there are"
        raise UsageError("it is not known which of how many machines this is", hint=lacks)
    if not 0 <= rank < total:
        raise UsageError(
            f"there is no node {rank} of {total}: nodes are counted from 0", hint="--node-rank R --nodes N, with R < N"
        )
    return Node(rank, total) if total > 1 else None


def folder_suffix(node: Node | None) -> str:
    """What the names of a machine's own folders end with, where several may share a disk."""
    return "" if node is None else f"{NODE_SUFFIX}{node.rank}"


def _told(environment: Mapping[str, str]) -> tuple[int | None, int | None]:
    """The machine's number and how many there are, as far as one launcher tells."""
    found: int | None = None
    for variable, totals in _LAUNCHERS:
        rank = _number(environment, variable)
        if rank is None or (variable == "SLURM_NODEID" and _is_batch_script(environment)):
            continue
        total = next((number for name in totals if (number := _number(environment, name)) is not None), None)
        if total is None and variable in _OF_PROCESSES:
            total = _by_processes(environment)
        if total is not None:
            return rank, total
        found = rank if found is None else found
    return found, None


def _is_batch_script(environment: Mapping[str, str]) -> bool:
    """Whether this is the one shell of a Slurm job rather than what ``srun`` starts on each of its machines."""
    return "SLURM_JOB_ID" in environment and "SLURM_STEP_ID" not in environment


def _by_processes(environment: Mapping[str, str]) -> int | None:
    world, local = _number(environment, "WORLD_SIZE"), _number(environment, "LOCAL_WORLD_SIZE")
    return world // local if world and local and not world % local else None


def _number(environment: Mapping[str, str], variable: str) -> int | None:
    text = environment.get(variable, "")
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 10 else None
