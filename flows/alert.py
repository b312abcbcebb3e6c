"""An alert, as a flow: what an automation runs when something is wrong that a person must look at."""

from __future__ import annotations

import json
from typing import Annotated, Any

from prefect import flow
from prefect.blocks.abstract import NotificationBlock
from prefect.blocks.core import Block
from prefect.client.schemas.objects import State
from prefect.states import Failed
from prefect.utilities.asyncutils import run_coro_as_sync
from pydantic import Field

from flexai.checkpoints.errors import UsageError
from flexai.flows.flow_options import OPTIONS
from flexai.tasks import artifacts
from flexai.tasks.options import run_logger

Title = Annotated[str, Field(title="Title", description="What is wrong, in a line.", min_length=1, max_length=500)]
Details = Annotated[dict[str, Any], Field(title="Details", description="All that is known of it.")]
Notify = Annotated[
    str,
    Field(
        title="Notification block",
        description="TYPE/NAME of a saved notification block that is told as well, such as slack-webhook/team.",
        examples=["slack-webhook/team"],
        pattern="^$|^[a-z0-9-]+/[a-z0-9-]+$",
    ),
]


@flow(
    name="alert",
    description="Fail on purpose, with a page that says what is wrong: seen wherever failed runs are seen.",
    flow_run_name="alert: {title}",
    **OPTIONS,
)
def alert(title: Title, details: Details | None = None, notify: Notify = "") -> State[None]:
    """Raise an alert.

    Args:
        title: What is wrong.
        details: All that is known of it; the payload of the event.
        notify: TYPE/NAME of a notification block to tell as well.

    Returns:
        A failed state: the run is to be seen.

    Raises:
        UsageError: The block is none that notifies.
        ValueError: There is no such block.
    """
    text = json.dumps(details or {}, indent=2, ensure_ascii=False)
    logger = run_logger()
    logger.error("%s\n%s", title, text)
    artifacts.create_markdown(
        "alert", f"# {artifacts.plain(title)}\n\n{artifacts.block(text)}\n", description=title, logger=logger
    )
    if notify:
        # Not `load`: that returns a coroutine where an asynchronous flow runs this one.
        found = run_coro_as_sync(Block.aload(notify))
        if not isinstance(found, NotificationBlock):
            raise UsageError(f"the block {notify!r} sends no notifications", hint="slack-webhook/team")
        run_coro_as_sync(_send(found, f"{title}\n\n{text}", title))
    return Failed(message=title)


async def _send(block: NotificationBlock, body: str, subject: str) -> None:
    sent: Any = block.notify(body, subject)
    if sent is not None:  # Prefect's own blocks notify asynchronously where there is a loop.
        await sent
