"""The best checkpoint of a job is the same for commands, retention, flows and charts."""

from __future__ import annotations

from typing import Any

import pytest

from flexai.checkpoints.documents import captured_list_document
from flexai.checkpoints.models import Checkpoint, TrainingJob
from flexai.checkpoints.service.prune import PruneRequest, PruneScope, prune
from flexai.checkpoints.service.support.retention import RetentionPolicy, Rule
from flexai.checkpoints.service.training import inspect_job, run_training
from flexai.checkpoints.service.training_requests import TrainingRequest
from flexai.flows.selection import select_checkpoints
from flexai.flows.training_forms import PushSpec
from flexai.tasks.charts import best_of
from flexai.tasks.pages import points_of
from tests.checkpoints.training.trainers import program
from tests.support.fixtures import fast_path, home_template, machine, new_machine, no_settings_of_this_machine
from tests.support.machine import Machine

__all__ = ["fast_path", "home_template", "machine", "new_machine", "no_settings_of_this_machine"]


def run(machine: Machine, text: str, **options: Any) -> TrainingJob:
    request = TrainingRequest("run", program(text), **options)
    return run_training(machine.system, request, on_output=lambda _stream, _data: None)


def captured(machine: Machine) -> list[Checkpoint]:
    return machine.system.catalog.checkpoints.of_job(inspect_job(machine.system, "run").id)


EVALUATED = """
for step in range(50, 301, 50):
    log = [{"step": done, "loss": 10 / done} for done in range(50, step + 1, 50)]
    for done, loss in {100: 0.40, 200: 0.70, 300: 0.80}.items():
        if done <= step:
            log.append({"step": done, "eval_loss": loss, "eval_accuracy": 1 - abs(loss - 0.7)})
    files = trainer_files(step)
    files["trainer_state.json"] = json.dumps({"global_step": step, "log_history": log}).encode()
    save(output() / f"checkpoint-{step}", files)
exit(1)
"""


@pytest.mark.parametrize(
    ("metric", "name"),
    [
        ("", "checkpoint-100"),
        ("eval-loss", "checkpoint-100"),
        ("eval_loss:max", "checkpoint-300"),
        ("eval_accuracy", "checkpoint-200"),
        ("accuracy:min", "checkpoint-100"),
        ("loss", "checkpoint-300"),
    ],
)
def test_commands_retention_flows_and_charts_agree_on_the_best(machine: Machine, metric: str, name: str) -> None:
    run(machine, EVALUATED)
    losses = [(one.facts.step, one.facts.eval_loss) for one in captured(machine)]
    assert losses == [(50, None), (100, 0.40), (150, None), (200, 0.70), (250, None), (300, 0.80)]
    by_name = {one.name: one.id for one in captured(machine)}
    listed = machine.system.catalog.checkpoints.list_captured(inspect_job(machine.system, "run").id)

    wanted = f"best:{metric}" if metric else "best"
    assert run(machine, "exit(1)", checkpoint=wanted).input_checkpoint_id == by_name[name]
    plan = prune(machine.system, PruneRequest(RetentionPolicy(keep_best=1, metric=metric), PruneScope(("run",)))).plan
    assert [one.row.id for one in plan.kept if any(why.rule is Rule.BEST_N for why in one.reasons)] == [by_name[name]]
    spec = PushSpec(metric=metric, name_template="{job}-{step}")
    assert [row["name"] for row in select_checkpoints(captured_list_document(listed), spec, job="run")] == [name]
    if not metric:
        point = best_of(points_of(listed))
        assert point is not None and f"checkpoint-{point.step}" == name


def test_the_best_is_by_what_the_trainer_says(machine: Machine) -> None:
    said = 'files["trainer_state.json"] = json.dumps({"metric_for_best_model": "accuracy", "greater_is_better": True, '
    run(machine, EVALUATED.replace('files["trainer_state.json"] = json.dumps({', said))
    chosen = run(machine, "exit(1)", checkpoint="best").input_checkpoint_name
    assert chosen == "checkpoint-200"
