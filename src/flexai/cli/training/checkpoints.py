"""``flexai training checkpoints``."""

from __future__ import annotations

from collections.abc import Sequence

from flexai.checkpoints.documents import captured_list_document, short_size
from flexai.checkpoints.models import CheckpointStatus, ListedCheckpoint
from flexai.checkpoints.names import ROOT_TITLE, printable, some
from flexai.cli import terminal
from flexai.cli.commands import command
from flexai.cli.parameters import job_argument, json_option

_RESUMABLE = {True: "true", False: "false", None: "unknown"}


@command("checkpoints", usage="NAME|UUID [--json]")
@job_argument
@json_option
def checkpoints(reference: str, as_json: bool) -> None:
    """List the checkpoints that a job wrote.

    In the order of their capture, also while the job is running. Of several machines, NODE tells which have
    brought their parts; a checkpoint of which parts are missing is incomplete, and cannot be used. The one that
    the output directory itself is has the name "." here and "" in JSON. RESUMABLE is whether a training can go
    on from it, which cannot always be told; BEST is the one that is best by the metric that the trainer chooses
    by, else by its eval loss. A narrow terminal shows the most important columns; a file, a pipe and JSON have
    all: what the trainer has pointing at each (latest, last.ckpt), and every metric.

    \b
    flexai training checkpoints my-run
    flexai training checkpoints my-run --json
    """
    from flexai.checkpoints.service.inspect import captured_rows
    from flexai.cli.looking import look

    with look() as catalog:
        rows, failed = captured_rows(catalog, reference)
    if as_json:
        terminal.write_document(captured_list_document(rows), as_json=True)
    else:
        terminal.write(_table(rows))
    _warn_of(failed, "was not captured", reference)
    _warn_of([row for row in rows if row.status == CheckpointStatus.INCOMPLETE], "is incomplete", reference)


def _warn_of(rows: Sequence[ListedCheckpoint], outcome: str, job: str) -> None:
    if rows:
        # Of those that failed, this command's own document says nothing.
        elsewhere = f"which flexai checkpoint list --job {job} --status {rows[0].status} --json shows"
        sentences = [f"checkpoint {row.name or ROOT_TITLE!r} {outcome}: {row.reason}" for row in rows]
        terminal.say_each(sentences, terminal.warn, rest=elsewhere)


def _table(rows: Sequence[ListedCheckpoint]) -> str:
    from flexai.checkpoints.choosing import EVAL_LOSS, TRAIN_LOSS, Metric, best, metric_columns, metric_for, shown_as
    from flexai.cli.tables import ID_DIGITS, Column, number, table

    chosen = metric_for("", rows)
    usable = [row for row in rows if row.status == CheckpointStatus.AVAILABLE]
    best_one = best(usable, chosen, lambda row: row)

    def of(metric: Metric, title: str, rank: int) -> Column[ListedCheckpoint]:
        is_chosen = chosen is not None and metric.name == shown_as(chosen).name
        return Column(title, lambda row: number(metric.of(row)), rank=1 if is_chosen else rank, right=True)

    named = [Metric(name) for name in metric_columns(rows)]
    columns: list[Column[ListedCheckpoint]] = [
        Column("ID", lambda row: row.id, rank=4, short=lambda text: text[:ID_DIGITS]),
        Column("NAME", lambda row: row.name or ROOT_TITLE, is_name=True),
        Column("NODE", lambda row: row.node, rank=9 if all(row.node == "0" for row in rows) else 3),
        Column("STEP", lambda row: "-" if row.step is None else str(row.step), right=True),
        of(TRAIN_LOSS, "TRAIN LOSS", 7),
        of(EVAL_LOSS, "EVAL LOSS", 5),
        Column("MODEL", lambda row: row.model or "-", rank=8),
        Column("VERSION", lambda row: row.version or "-", rank=9),
        Column("INFERENCE READY", lambda row: "true" if row.inference_ready else "false", rank=6),
        Column("TIMESTAMP", lambda row: row.created_at.partition(".")[0] + "Z", rank=5),
        Column("RESUMABLE", lambda row: _RESUMABLE[row.resumable], rank=1),
        Column("BEST", lambda row: "best" if row is best_one else "", rank=1),
        Column("SIZE", lambda row: short_size(row.size), rank=1),
    ]
    # Where all are available and sound, as nearly always, there is nothing to tell.
    if any(row.standing != "available" for row in rows):
        columns.append(Column("STATUS", lambda row: row.standing, rank=1))
    if any(row.pointers for row in rows):
        columns.append(Column("POINTERS", lambda row: _pointers(row.pointers), rank=6))
    columns += [of(metric, printable(metric.name, keep=""), 10 + place) for place, metric in enumerate(named)]
    return table(rows, *columns)


def _pointers(pointers: Sequence[str]) -> str:
    return some([printable(one, keep="") for one in pointers]) or "-"
