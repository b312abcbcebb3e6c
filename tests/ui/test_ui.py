"""What a person does in Prefect's UI, in a real browser, with what ``flexai up`` has brought up."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect

from flexai.blocks import PROVIDERS
from tests.blocks.samples import least_fields
from tests.cli.program import Program
from tests.servers.tokens import service_account_key
from tests.support.waiting import until
from tests.ui.browser import UI

# One server, one worker and one browser serve all of them.
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("ui")]

GCS_KEY = json.dumps(service_account_key("https://oauth2.googleapis.com/token"))
"""The content of a service account's key file."""

FORMS: dict[str, tuple[dict[str, str], dict[str, str], dict[str, Any]]] = {
    "local": ({"Root directory": "/srv/models"}, {}, {"root": "/srv/models", "create_buckets": True}),
    "s3": (
        {
            "Region": "eu-west-1",
            "Endpoint": "http://127.0.0.1:9000/",
            "Access key ID": " AKIAEXAMPLE ",
            "Secret access key": "first+secret/1",
        },
        {"Addressing style": "path"},
        {
            "region": "eu-west-1",
            "endpoint_url": "http://127.0.0.1:9000",
            "access_key_id": "AKIAEXAMPLE",
            "secret_access_key": "first+secret/1",
            "addressing_style": "path",
        },
    ),
    "r2": (
        {"Account ID": "0123456789abcdef" * 2, "Access key ID": "r2key", "Secret access key": "second secret"},
        {"Jurisdiction": "eu"},
        {"account_id": "0123456789abcdef" * 2, "jurisdiction": "eu", "secret_access_key": "second secret"},
    ),
    "minio": (
        {"Endpoint": "http://127.0.0.1:9001", "Access key ID": "minio", "Secret access key": "third secret"},
        {},
        {"endpoint_url": "http://127.0.0.1:9001", "access_key_id": "minio", "secret_access_key": "third secret"},
    ),
    "gcs": (
        {"Project": "my-project", "Service account key": GCS_KEY},
        {},
        {"project": "my-project", "service_account_info": GCS_KEY, "anonymous": False},
    ),
    "hugging-face": (
        {"Token": "hf_fourthsecret"},
        {"Type of repositories": "dataset"},
        {"token": "hf_fourthsecret", "repo_type": "dataset", "endpoint_url": "https://huggingface.co"},
    ),
}


def _least_forms() -> dict[str, tuple[dict[str, str], dict[str, str], dict[str, Any]]]:
    """For the kinds that are not among those above, a form with what a connection cannot do without."""
    found: dict[str, tuple[dict[str, str], dict[str, str], dict[str, Any]]] = {}
    for provider, block in PROVIDERS.items():
        kind = block.get_block_type_slug().removeprefix("flexai-").removesuffix("-storage-provider")
        fields = least_fields(provider)
        texts = {block.model_fields[name].title or name: value for name, value in fields.items()}
        if kind not in FORMS:
            found[kind] = (texts, {}, fields)
    return found


FORMS |= _least_forms()

SECRETS = {"Secret access key", "Service account key", "Token"}

LOAD = """
import json
from pydantic import SecretStr
from flexai.blocks import list_connections, load_connection
print(json.dumps({
    saved.name: load_connection(saved.name).model_dump()
    for saved in list_connections()
}, default=lambda value: value.get_secret_value() if isinstance(value, SecretStr) else str(value)))
"""


def trainings_at(folder: Path) -> list[int]:
    """The processes that train in a folder or below."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes().split(b"\0")
            if b"examples/train_digits.py" in command and Path(os.readlink(process / "cwd")).is_relative_to(folder):
                found.append(int(process.name))
        except OSError:
            continue
    return found


def test_a_connection_of_each_kind_is_made_in_its_form_and_is_what_was_filled_in(ui: UI) -> None:
    for kind, (texts, choices, _) in FORMS.items():
        ui.save_block(kind, f"from-form-{kind}", texts, choices)
        page = ui.page.get_by_role("main").inner_text()
        assert not [secret for label, secret in texts.items() if label in SECRETS and secret in page]
    key = {"PREFECT_API_AUTH_STRING": ui.program.credential}
    loaded = json.loads(ui.program.python(LOAD, key))
    for kind, (_, _, wanted) in FORMS.items():
        connection = loaded[f"from-form-{kind}"]
        assert {name: connection[name] for name in wanted} == wanted, kind
    shown = ui.program.run("storage", "inspect", "from-form-s3", "--json")
    assert shown.code == 0, shown.err
    spec = shown.json()["spec"]
    assert (spec["provider"], spec["location"]) == ("s3", "http://127.0.0.1:9000")
    assert not [name for name in spec if name.startswith("_")]
    assert "first+secret/1" not in shown.out


def test_a_training_on_a_schedule_is_approved_and_exported_and_the_next_run_of_the_schedule_moves_nothing(
    ui: UI, program: Program, tmp_path: Path
) -> None:
    share = tmp_path / "share"
    share.mkdir()
    ui.save_block("local", "team-share", {"Root directory": str(share)}, {})
    _the_nightly_schedule_is_switched_on_and_off(ui)
    _a_schedule_of_ones_own_is_added(ui)

    until(lambda: _scheduled(ui, after=""), "a run by the schedule")
    run = _scheduled(ui, after="")[0]["id"]
    ui.open_run(run)
    expect(ui.page.get_by_text("captured checkpoint 'checkpoint-180'").first).to_be_visible()
    ui.expect_state("Suspended")
    ui.screenshot("run")
    assert list(share.iterdir()) == []

    ui.choose_from_menu("Resume")
    dialog = ui.page.get_by_role("dialog")
    expect(dialog).to_contain_text("Export this?")
    expect(dialog).to_contain_text("team-share:models/by-schedule-")
    ui.choose(dialog.get_by_label("Decision"), "approve")
    dialog.get_by_label("Note").fill("the losses look good")
    ui.screenshot("approval")
    dialog.get_by_role("button", name="Resume").click()
    expect(dialog).not_to_be_visible()
    _progress_is_watched(ui, run)

    (exported,) = (share / "models").iterdir()
    assert {"model.safetensors", "config.json"} <= {path.name for path in exported.iterdir()}
    main = ui.page.get_by_role("main")
    ui.open_artifact("train-push-export-by-schedule")
    expect(main).to_contain_text("The export was approved: the losses look good")
    expect(main.get_by_role("table").first).to_contain_text(f"team-share:models/{exported.name}")

    ui.open_artifact(f"checkpoint-{exported.name}")
    expect(main.get_by_role("heading", name="Files")).to_be_visible()
    expect(main).to_contain_text("model.safetensors")
    expect(main).to_contain_text(f"team-share:models/{exported.name}")
    ui.screenshot("checkpoint")

    ui.open_artifact("training-by-schedule")
    chart = main.locator("img").first
    expect(chart).to_be_visible()
    until(lambda: chart.evaluate("image => image.complete && image.naturalWidth"), "the chart")
    ui.screenshot("losses")

    there = _files(share) | _files(program.home / "store")
    ended = ui.ask(f"/flow_runs/{run}")["end_time"]
    until(lambda: _scheduled(ui, after=ended), "the next run by the schedule")
    ui.open_run(_scheduled(ui, after=ended)[0]["id"])
    ui.expect_state("Completed")
    # A page shows no more lines of a log than fit.
    ui.choose(ui.page.get_by_role("combobox", name="log sort order"), "Newest to oldest")
    kept = len(list(exported.iterdir())) - 1  # all but the export's own manifest
    expect(main).to_contain_text(f"team-share:models/{exported.name}: 0 files, {kept} there already")
    assert _files(share) | _files(program.home / "store") == there

    ui.open(f"/deployments/deployment/{ui.deployment('train-push-export/Train the digits example')}")
    ui.page.get_by_role("switch").nth(1).click()
    until(lambda: not _schedules(ui)[1]["active"], "the switch")


def _scheduled(ui: UI, *, after: str) -> list[dict[str, Any]]:
    """The runs that a schedule made and that began after a moment, the oldest first."""
    wanted = {"flow_runs": {"deployment_id": {"any_": [ui.deployment("train-push-export/Train the digits example")]}}}
    runs: list[dict[str, Any]] = ui.ask("/flow_runs/filter", wanted | {"sort": "START_TIME_ASC"})
    return [run for run in runs if run["auto_scheduled"] and (run["start_time"] or "") > after]


def _files(folder: Path) -> dict[Path, tuple[int, int]]:
    """Size and time of writing of all that is below a folder, but for records: an export again is an event."""
    files = (path for path in folder.rglob("*") if path.is_file() and "records" not in path.parts)
    return {path: (path.stat().st_size, path.stat().st_mtime_ns) for path in files}


def _progress_is_watched(ui: UI, run: str) -> None:
    """See how far a transfer is while it runs, and its end."""
    wanted = {"flow_run_id": {"any_": [run]}, "type": {"any_": ["progress"]}}
    until(lambda: ui.artifact(wanted), "the progress")
    artifact = ui.artifact(wanted)
    assert artifact is not None and float(artifact["data"]) < 100
    ui.open(f"/artifacts/artifact/{artifact['id']}")
    expect(ui.page.get_by_role("main").get_by_text(re.compile(r"^Progress: \d+(\.\d+)?%$"))).to_be_visible()
    ui.screenshot("progress")
    ui.open_run(run)
    ui.expect_state("Completed")
    ended = ui.artifact(wanted)
    assert ended is not None and float(ended["data"]) == 100
    ui.open(f"/artifacts/artifact/{artifact['id']}")
    expect(ui.page.get_by_role("main")).to_contain_text("Progress: 100%")


def _the_nightly_schedule_is_switched_on_and_off(ui: UI) -> None:
    ui.open(f"/deployments/deployment/{ui.deployment('train-push-export/Train the digits example')}")
    toggle = ui.page.get_by_role("switch").first
    expect(toggle).not_to_be_checked()
    for on in (True, False):
        toggle.click()
        expect(toggle).to_be_checked(checked=on)
        until(lambda on=on: _schedules(ui)[0]["active"] is on, "the switch")  # type: ignore[misc]


def _a_schedule_of_ones_own_is_added(ui: UI) -> None:
    ui.page.get_by_role("button", name="Schedule", exact=True).click()
    dialog = ui.page.get_by_role("dialog")
    # Long enough for a run to end before the next one is due: those that wait for its place keep the server busy.
    dialog.get_by_label("Value").fill("40")
    ui.choose(dialog.get_by_role("combobox", name="Interval"), "Seconds")
    # The form of a schedule is a run's, and empty whatever the deployment's own parameters are.
    dialog.get_by_label("Job name").fill("by-schedule")
    # Large enough for its transfers to be seen.
    size = ["--hidden", "6000", "--epochs", "1", "--save-steps", "180"]
    ui.fill_list(["python", "examples/train_digits.py", *size])
    ui.screenshot("schedule-form")
    _fill_in_export(ui, "team-share")
    dialog.get_by_role("button", name="Save").click()
    expect(dialog).not_to_be_visible()
    until(lambda: len(_schedules(ui)) == 2, "the new schedule")
    added = _schedules(ui)[1]
    assert (added["schedule"]["interval"], added["active"]) == (40, True)
    assert added["parameters"]["training"]["name"] == "by-schedule"


def _fill_in_export(ui: UI, connection: str) -> None:
    """Fill in where to export to, and that a person is asked before."""
    ui.page.get_by_role("tab", name="Export", exact=True).click()
    ui.page.get_by_role("tab", name="Directory", exact=True).click()
    ui.choose(ui.page.get_by_label("Select a block"), connection)
    ui.page.get_by_label("Path").fill("models/{name}")
    ui.page.get_by_role("tab", name="Approval", exact=True).click()
    ui.page.get_by_label("Timeout").fill("1")


def _schedules(ui: UI) -> list[dict[str, Any]]:
    schedules: list[dict[str, Any]] = ui.ask(
        f"/deployments/{ui.deployment('train-push-export/Train the digits example')}"
    )["schedules"]
    return sorted(schedules, key=lambda schedule: str(schedule["created"]))


def test_the_form_of_each_deployment_shows_all_its_fields_in_their_order(ui: UI) -> None:
    deployments = ui.ask("/deployments/filter", {})
    assert len(deployments) > 10
    for deployment in deployments:
        ui.open(f"/deployments/deployment/{deployment['id']}/run")
        titles = _titles(deployment["parameter_openapi_schema"])
        form = ui.page.get_by_role("main")
        for title in titles:
            expect(form.get_by_text(re.compile(f"^{re.escape(title)}( \\(Optional\\))?$")).first).to_be_visible()
        lines = [line.removesuffix(" (Optional)") for line in form.inner_text().splitlines()]
        places = [lines.index(title) for title in titles]
        assert places == sorted(places), deployment["name"]
        ui.screenshot(f"form-{deployment['name'].replace(' ', '-').lower()}")


def _titles(schema: Mapping[str, Any]) -> list[str]:
    """What a form calls its fields, from the top; of those that are forms themselves what these call theirs."""
    found: list[str] = []
    for field in sorted(schema["properties"].values(), key=lambda field: field["position"]):
        reference = field.get("$ref") or next((one["$ref"] for one in field.get("allOf", ()) if "$ref" in one), "")
        inner = schema.get("definitions", {}).get(reference.rpartition("/")[2], {})
        if "properties" in inner:
            inside = sorted(inner["properties"].values(), key=lambda field: field["position"])
            found += [one["title"] for one in inside]
        else:
            found.append(field["title"])
    return found


def test_a_push_shows_how_far_it_is_and_the_catalog_shows_what_it_made(ui: UI, program: Program) -> None:
    weights = program.file("pushed/model.safetensors", os.urandom(4 << 20))
    ui.open_form("push-checkpoint/Push a checkpoint")
    ui.page.get_by_label("Name", exact=True).last.fill("from-form-push")
    ui.fill_list([str(weights)])
    run = ui.submit()
    ui.open_run(run)

    _progress_is_watched(ui, run)

    ui.open_form("report-catalog/Report the catalog")
    report = ui.submit()
    ui.open_run(report)
    ui.expect_state("Completed")
    ui.open_artifact("catalog-table")
    table = ui.page.get_by_role("main").get_by_role("table").first
    expect(table).to_contain_text("from-form-push")
    ui.screenshot("catalog")


def test_a_run_that_is_cancelled_in_the_ui_stops_its_training_and_leaves_nothing_torn(ui: UI, program: Program) -> None:
    share = program.run("storage", "create", "cancelled-share", "--provider", "local", "--root", str(program.cwd))
    assert share.code == 0, share.err
    ui.open_form("train-push-export/Train, push, export")
    ui.page.get_by_label("Job name").fill("to-be-cancelled")
    command = ["python", "examples/train_digits.py", "--epochs", "100", "--save-steps", "20", "--step-delay", "0.05"]
    ui.fill_list(command)
    _fill_in_export(ui, "cancelled-share")
    ui.screenshot("train-push-export-form", whole=True)
    run = ui.submit()
    ui.open_run(run)
    expect(ui.page.get_by_text("captured checkpoint 'checkpoint-40'").first).to_be_visible()
    assert trainings_at(program.cwd)

    ui.choose_from_menu("Cancel")
    ui.page.get_by_role("dialog").or_(ui.page.get_by_role("alertdialog")).get_by_role(
        "button", name="Cancel"
    ).last.click()
    # Its process calls the run crashed, at which a page stops to ask; the worker knows better and has the last word.
    until(lambda: ui.ask(f"/flow_runs/{run}")["state"]["name"] == "Cancelled", "the cancellation")
    ui.open_run(run)
    ui.expect_state("Cancelled")
    assert trainings_at(program.cwd) == []
    job = program.run("training", "inspect", "to-be-cancelled", "--json").json()
    assert job["runtime"]["status"] == "stopped"
    verified = program.run("checkpoint", "verify")
    assert verified.code == 0, verified.err
