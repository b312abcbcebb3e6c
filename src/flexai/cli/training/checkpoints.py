"""``flexai training checkpoints``."""

from __future__ import annotations

from collections.abc import Sequence

from flexai.checkpoints.documents import captured_list_document
from flexai.checkpoints.models import ListedCheckpoint
from flexai.checkpoints.names import ROOT_TITLE
from flexai.cli import terminal
from flexai.cli.commands import command
from flexai.cli.parameters import job_argument, json_option

_TITLES = (
    "ID",
    "NAME",
    "NODE",
    "STEP",
    "TRAIN LOSS",
    "EVAL LOSS",
    "MODEL",
    "VERSION",
    "INFERENCE READY",
    "TIMESTAMP",
)
_RIGHT = frozenset({3, 4, 5})
_MOST_POINTERS = 3
_RESUMABLE = {True: "true", False: "false", None: "unknown"}


@command("checkpoints", usage="NAME|UUID [--json]")
@job_argument
@json_option
def checkpoints(reference: str, as_json: bool) -> None:
    """List the checkpoints that a job wrote.

    In the order of their capture, also while the job is running. Of several machines, NODE tells which have
    brought their parts; a checkpoint of which parts are missing is incomplete, and cannot be used. The one that
    the output directory itself is has the name "." here and "" in JSON. Where the terminal has room, it is
    followed by whether a training can go on from each, which cannot always be told, by what the trainer has
    pointing at it (latest, last.ckpt), and by their other metrics, first what the trainer chooses by; JSON has
    all of them.

    \b
    flexai training checkpoints my-run
    flexai training checkpoints my-run --json
    """
    from flexai.checkpoints.catalog.catalog import Catalog
    from flexai.checkpoints.service.inspect import captured_rows

    with Catalog.look() as catalog:
        rows, failed = captured_rows(catalog, reference)
    if as_json:
        terminal.write_document(captured_list_document(rows), as_json=True)
    else:
        terminal.write(_table(rows))
    for row in failed:
        terminal.warn(f"checkpoint {row.name or ROOT_TITLE!r} was not captured: {row.reason}")
    for row in rows:
        if row.status == "incomplete":
            terminal.warn(f"checkpoint {row.name or ROOT_TITLE!r} is incomplete: {row.reason}")


def _table(rows: Sequence[ListedCheckpoint]) -> str:
    from flexai.checkpoints.choosing import metric_columns
    from flexai.checkpoints.names import printable
    from flexai.cli.tables import box_table, with_room_for

    more = [["RESUMABLE", *(_RESUMABLE[row.resumable] for row in rows)]]
    if any(row.pointers for row in rows):
        more.append(["POINTERS", *(_pointers(row.pointers) for row in rows)])
    more += [
        [printable(name, keep=""), *(_loss(row.metrics.get(name)) for row in rows)] for name in metric_columns(rows)
    ]
    # Where all are available, as nearly always, there is nothing to tell.
    told = any(row.status != "available" for row in rows)
    titles, cells = with_room_for(
        (*_TITLES, *["STATUS"][:told]),
        [
            (
                row.id,
                row.name or ROOT_TITLE,
                row.node,
                "-" if row.step is None else str(row.step),
                _loss(row.train_loss),
                _loss(row.eval_loss),
                row.model or "-",
                row.version or "-",
                "true" if row.inference_ready else "false",
                row.created_at.partition(".")[0] + "Z",
                *[row.status][:told],
            )
            for row in rows
        ],
        more,
    )
    return box_table(titles, cells, right=_RIGHT | set(range(len(_TITLES) + told + 1, len(titles))))


def _pointers(pointers: Sequence[str]) -> str:
    from flexai.checkpoints.names import printable

    shown = ", ".join(printable(one, keep="") for one in pointers[:_MOST_POINTERS])
    return shown + (f" and {len(pointers) - _MOST_POINTERS} more" if len(pointers) > _MOST_POINTERS else "") or "-"


def _loss(loss: float | None) -> str:
    return "-" if loss is None else f"{loss:.4g}"
