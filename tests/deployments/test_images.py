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
from prefect.utilities.templating import apply_values, find_placeholders

import flexai
from flexai.cli.parameters import read_duration

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
    if kind == "kubernetes":
        # A list of ours, before which Prefect's worker puts what a run has in its environment.
        (container,) = prefects["job_configuration"]["job_manifest"]["spec"]["template"]["spec"]["containers"]
        assert container.pop("env") == "{{ env }}"
    assert _is_within(prefects["job_configuration"], ours["job_configuration"])
    variables = _without_defaults(ours)
    added = {"kubernetes": {"termination_grace_period_seconds", "grace"}}.get(kind, set())
    assert {name: field for name, field in variables.items() if name not in added} == _without_defaults(prefects)
    assert added <= variables.keys()
    assert ours["variables"]["definitions"] == prefects["variables"]["definitions"]


@pytest.mark.parametrize("kind", ["docker", "kubernetes"])
def test_the_defaults_of_a_job_template_are_of_their_types_and_all_its_variables_are_used(kind: str) -> None:
    from jsonschema import Draft202012Validator

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
    assert {"src", "deployments"} <= set(sources)
    ignored = (DEPLOYMENTS / "docker" / "Dockerfile.dockerignore").read_text().splitlines()
    for source in sources:
        assert (ROOT / source).exists(), source
        assert {f"!{source}", *(f"!{folder}" for folder in Path(source).parents)} & set(ignored), source
    links = {path.name for path in (ROOT / "src" / "flexai").iterdir() if path.is_symlink()}
    assert links <= set(sources)


def test_the_image_runs_as_an_ordinary_user_with_pinned_packages_and_knows_its_own_version() -> None:
    text = DOCKERFILE.read_text()
    stages = text.split("\nFROM ")
    assert "\nUSER 10001:10001\n" in stages[-1]
    assert f"--tag {IMAGE} " in text


def test_the_image_takes_its_base_by_its_digest_and_every_package_by_its_hashes() -> None:
    text = DOCKERFILE.read_text()
    assert re.search(r"^ARG BASE=python:[\w.-]+@sha256:[0-9a-f]{64}$", text, re.M)
    assert re.findall(r"^FROM (\S+)", text, re.M) == ["${BASE}", "${BASE}"]
    # What pip is given is held to hashes, or built from the source here without anything else.
    for line in re.findall(r"pip (?:install|wheel) .*", text):
        assert "--require-hashes --requirement" in line or "--no-deps" in line, line


@pytest.mark.parametrize(("file", "holds"), [("requirements.txt", "prefect"), ("build-requirements.txt", "hatchling")])
def test_the_hashes_of_the_image_are_of_the_pins_that_are_tested(file: str, holds: str) -> None:
    """`make constraints` writes both."""
    text = (DEPLOYMENTS / "docker" / file).read_text()
    assert "://" not in text, "where packages come from is each machine's affair"
    entries = re.sub(r"^#.*\n|\\\n", "", text, flags=re.M).splitlines()
    pinned = {}
    for entry in entries:
        requirement, *hashes = re.split(r"\s+--hash=", entry.strip())
        assert hashes, entry
        assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", one) for one in hashes), entry
        name, _, version = requirement.partition(";")[0].strip().partition("==")
        pinned[name] = version
    assert holds in pinned
    constraints = (ROOT / "constraints.txt").read_text().splitlines()
    tested = dict(line.partition(" ;")[0].split("==") for line in constraints if not line.startswith("#"))
    assert {name: tested[name] for name in pinned if name in tested} == {
        name: version for name, version in pinned.items() if name in tested
    }
    assert file == "build-requirements.txt" or pinned.keys() <= tested.keys()


def test_a_job_in_kubernetes_may_do_nothing_that_a_transfer_does_not_need() -> None:
    template = _ours("kubernetes")
    fields = template["variables"]["properties"]
    defaults = {name: field["default"] for name, field in fields.items() if "default" in field}
    # As Prefect's worker fills it in: what has no value is left out.
    job = apply_values(template["job_configuration"], defaults)["job_manifest"]
    pod = job["spec"]["template"]["spec"]
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"] == {
        "seccompProfile": {"type": "RuntimeDefault"},
        "runAsNonRoot": True,
        "runAsUser": 10001,
        "runAsGroup": 10001,
        "fsGroup": 10001,
    }
    (container,) = pod["containers"]
    (variable,) = container["env"]
    assert variable["name"] == "FLEXAI_GRACE"
    grace = read_duration("FLEXAI_GRACE", variable["value"]).total_seconds()
    assert grace + 15 <= pod["terminationGracePeriodSeconds"], "the end of a job is to be recorded as well"
    assert container["image"] == IMAGE
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    # Everything that the image's user writes lies in one of these.
    mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
    assert mounts.keys() == {"/home/flexai", "/tmp"}
    assert {volume["name"]: volume["emptyDir"] for volume in pod["volumes"]} == {name: {} for name in mounts.values()}


def test_a_linter_has_nothing_to_say_about_the_image() -> None:
    done = subprocess.run(
        [Path(sys.executable).with_name("hadolint"), DOCKERFILE], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "")
