"""The files for Docker and Kubernetes, as far as they can be checked without either."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import prefect
import pytest
from prefect.utilities.templating import find_placeholders

import flexai

ROOT = Path(__file__).resolve().parents[2]
DEPLOYMENTS = ROOT / "deployments"
DOCKERFILE = DEPLOYMENTS / "docker" / "Dockerfile"
IMAGE = f"flexai-checkpoints:{flexai.__version__}"


def _ours(kind: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((DEPLOYMENTS / kind / "base-job-template.json").read_text())
    return document


def _prefects(kind: str) -> dict[str, Any]:
    """The template that a Prefect server offers for a kind of work pool."""
    views = Path(prefect.__file__).parent / "server" / "api" / "collections_data" / "views"
    document = json.loads((views / "aggregate-worker-metadata.json").read_text())
    template: dict[str, Any] = document[f"prefect-{kind}"][kind]["default_base_job_configuration"]
    return template


def _without_defaults(template: dict[str, Any]) -> dict[str, Any]:
    return {
        name: {key: value for key, value in field.items() if key != "default"}
        for name, field in template["variables"]["properties"].items()
    }


def _is_within(part: Any, whole: Any) -> bool:
    """Whether a document holds all of another one, and perhaps more."""
    if isinstance(part, dict):
        return isinstance(whole, dict) and all(key in whole and _is_within(part[key], whole[key]) for key in part)
    if isinstance(part, list):
        return isinstance(whole, list) and len(part) == len(whole) and all(map(_is_within, part, whole))
    return bool(part == whole)


@pytest.mark.parametrize("kind", ["docker", "kubernetes"])
def test_a_job_template_has_all_that_prefects_own_has(kind: str) -> None:
    ours, prefects = _ours(kind), _prefects(kind)
    assert _is_within(prefects["job_configuration"], ours["job_configuration"])
    assert _without_defaults(ours) == _without_defaults(prefects)
    assert ours["variables"]["definitions"] == prefects["variables"]["definitions"]


@pytest.mark.parametrize("kind", ["docker", "kubernetes"])
def test_the_defaults_of_a_job_template_are_of_their_types_and_all_its_variables_are_used(kind: str) -> None:
    from jsonschema import Draft202012Validator  # type: ignore[import-untyped]

    ours = _ours(kind)
    properties = ours["variables"]["properties"]
    Draft202012Validator.check_schema(ours["variables"])
    for name, field in properties.items():
        if "default" in field:
            Draft202012Validator(field | {"definitions": ours["variables"]["definitions"]}).validate(field["default"])
        assert field.get("title"), name
    used = {placeholder.name for placeholder in find_placeholders(json.dumps(ours["job_configuration"]))}
    assert used == properties.keys()
    assert properties["image"]["default"] == IMAGE


def test_every_file_that_the_image_is_built_from_is_there_and_reaches_the_build() -> None:
    text = DOCKERFILE.read_text()
    sources = [source for line in re.findall(r"^COPY (?!--from)(.+)$", text, re.M) for source in line.split()[:-1]]
    assert {"src", "constraints.txt", "deployments"} <= set(sources)
    ignored = (DEPLOYMENTS / "docker" / "Dockerfile.dockerignore").read_text().splitlines()
    for source in sources:
        assert (ROOT / source).exists(), source
        assert f"!{source}" in ignored
    links = {path.name for path in (ROOT / "src" / "flexai").iterdir() if path.is_symlink()}
    assert links <= set(sources)


def test_the_image_runs_as_an_ordinary_user_with_pinned_packages_and_knows_its_own_version() -> None:
    text = DOCKERFILE.read_text()
    stages = text.split("\nFROM ")
    assert "\nUSER 10001:10001\n" in stages[-1]
    assert "--constraint" in stages[-1]
    assert f"--tag {IMAGE} " in text
    assert (
        _ours("kubernetes")["job_configuration"]["job_manifest"]["spec"]["template"]["spec"]["securityContext"][
            "runAsUser"
        ]
        == 10001
    )


def test_a_linter_has_nothing_to_say_about_the_image() -> None:
    done = subprocess.run(
        [Path(sys.executable).with_name("hadolint"), DOCKERFILE], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "")
