"""The private parts of Prefect that the product uses: which they are, and that they still have the shape it counts on.

CONTRIBUTING.md says of each why no public part does.
"""

from __future__ import annotations

import ast
import inspect
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import get_type_hints
from uuid import UUID

from prefect import flow_engine, futures
from prefect.blocks.core import Block
from prefect.concurrency import _leases
from prefect.utilities import engine

from flexai.blocks import LocalStorageProvider
from flexai.checkpoints.training.preemption import Preemption
from flexai.checkpoints.training.runner import SignalRelay
from flexai.flows import flow_results, run_leases
from flexai.tasks.training import _set_handler

ROOT = Path(__file__).resolve().parents[1]
USED = {
    "_leases._lease_renewal_loop",
    "_block_document_id",
    "_block_document_name",
    "engine._prefect_sigterm_bridge_lock",
    "engine._prefect_sigterm_handler",
}


def _private_parts(tree: ast.AST) -> Iterator[str]:
    imported, modules = set(), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "prefect":
            imported |= {alias.asname or alias.name for alias in node.names if alias.name.startswith("_")}
            modules |= {alias.asname or alias.name for alias in node.names if alias.name.islower()}
            if "._" in (node.module or ""):
                yield node.module or ""
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith("prefect.") and "._" in alias.name)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith("PREFECT__"):
            yield node.value
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            if isinstance(node.value, ast.Name) and (
                node.value.id in imported or (node.value.id in modules and node.attr.startswith("_"))
            ):
                yield f"{node.value.id}.{node.attr}"
            elif node.attr.startswith("_block_document"):
                yield node.attr
        elif isinstance(node, ast.Name) and node.id in imported and node.id != "_leases":
            yield node.id


def test_the_product_uses_these_private_parts_and_no_others_and_says_why() -> None:
    product = [
        ROOT / folder
        for folder in ("src/flexai/cli", "src/flexai/checkpoints", "src/flexai/connections", "blocks", "tasks", "flows")
    ]
    files = [path for folder in product for path in folder.rglob("*.py")]
    assert len(files) > 100
    assert {part for path in files for part in _private_parts(ast.parse(path.read_text(encoding="utf-8")))} == USED
    page = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    assert [part for part in USED if part.rpartition(".")[2] not in page] == []


def test_prefect_calls_its_renewal_of_leases_by_name_and_in_the_way_that_ours_is_called() -> None:
    prefects = inspect.signature(run_leases._renew_as_prefect_does, eval_str=True)
    assert list(prefects.parameters.items()) == list(
        inspect.signature(run_leases.keep_lease, eval_str=True).parameters.items()
    )
    assert [parameter.annotation for parameter in prefects.parameters.values()] == [UUID, float, threading.Event]
    run_leases.keep_leases()
    assert _leases._lease_renewal_loop is run_leases.keep_lease
    assert "_lease_renewal_loop(lease_id, lease_duration, stop_event)" in inspect.getsource(
        _leases._start_lease_renewal_thread
    )


def test_prefect_looks_through_what_a_flow_returns_by_the_function_that_ours_replaces() -> None:
    prefects = flow_results._resolve_as_prefect_does
    assert prefects is futures.resolve_futures_to_states
    assert list(inspect.signature(prefects).parameters) == ["expr"]
    assert "resolve_futures_to_states(result)" in inspect.getsource(flow_engine)


def test_a_block_keeps_the_id_and_the_name_of_its_document_in_these_attributes() -> None:
    hints = get_type_hints(Block)
    assert (hints["_block_document_id"], hints["_block_document_name"]) == (UUID | None, str | None)
    block = LocalStorageProvider(root="/srv")
    assert (block._block_document_id, block._block_document_name) == (None, None)
    assert {"_block_document_id", "_block_document_name"} <= set(Block.__private_attributes__)


def test_prefect_answers_a_runs_executor_only_where_the_handler_of_term_is_the_one_of_this_name() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with engine.capture_sigterm():
        prefects = engine._prefect_sigterm_handler
        assert engine.can_ack_control_intent()
        with SignalRelay(Preemption(), set_handler=_set_handler) as relay:
            assert signal.getsignal(signal.SIGTERM) == relay._stop
            assert engine.can_ack_control_intent(), "a run that is scheduled again would be killed without notice"
        assert engine._prefect_sigterm_handler is prefects is signal.getsignal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_handler_of_term_outside_of_prefects_engine_is_left_to_its_owner() -> None:
    prefects = engine._prefect_sigterm_handler
    with SignalRelay(Preemption(), set_handler=_set_handler):
        assert engine._prefect_sigterm_handler is prefects
