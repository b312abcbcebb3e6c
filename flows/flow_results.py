"""What a flow of this package returns, which Prefect does not look through.

Prefect looks for futures in what a flow returns, in each key and value of each dictionary of each list. A checkpoint's
document has some 13 of these for each file, and no future: the look takes as long as storing the files.
"""

from __future__ import annotations

from typing import Any

from prefect import flow_engine
from prefect.context import FlowRunContext

_resolve_as_prefect_does = getattr(flow_engine, "resolve_futures_to_states", None)


def take_as_they_are() -> None:
    """Have results of this package's flows taken as they are in this process, from now on."""
    # Another version of Prefect may look elsewhere; that takes its time.
    if _resolve_as_prefect_does is not None:
        vars(flow_engine)["resolve_futures_to_states"] = _resolve


def _resolve(returned: Any) -> Any:
    context = FlowRunContext.get()
    is_own = context is not None and context.flow is not None and context.flow.fn.__module__.startswith("flexai.")
    return returned if is_own or _resolve_as_prefect_does is None else _resolve_as_prefect_does(returned)
