"""The API that is found without Prefect is the one that Prefect itself finds."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from flexai.prefect_server.finding import PrefectAPI, configured_api, find_api, started_api
from flexai.prefect_server.processes import start, stop
from tests.cli.program import Program

PROFILES = """
active = "one"
[profiles.one]
PREFECT_API_URL = "http://one/api"
[profiles.two]
PREFECT_API_URL = "http://two/api"
[profiles.none]
"""

# Environment, then files; paths are relative to the working directory, which lies beside `prefect` (PREFECT_HOME).
CASES: list[tuple[dict[str, str], dict[str, str]]] = [
    ({}, {}),
    ({"PREFECT_API_URL": "http://environment/api"}, {".env": "PREFECT_API_URL=http://dotenv/api"}),
    ({"PREFECT_API_URL": ""}, {"../prefect/profiles.toml": PROFILES}),
    ({"prefect_api_url": "http://small/api"}, {}),
    ({}, {".env": "PREFECT_API_URL='http://dotenv/api'", "prefect.toml": '[api]\nurl = "http://toml/api"'}),
    ({}, {".env": "PREFECT_API_URL=", "../prefect/profiles.toml": PROFILES}),
    (
        {},
        {
            "prefect.toml": '[api]\nurl = "http://toml/api"',
            "pyproject.toml": '[tool.prefect.api]\nurl = "http://pyproject/api"',
        },
    ),
    (
        {},
        {
            "pyproject.toml": '[tool.prefect.api]\nurl = "http://pyproject/api"',
            "../prefect/profiles.toml": PROFILES,
        },
    ),
    ({}, {"pyproject.toml": "[project]\nname = 'x'", "../prefect/profiles.toml": PROFILES}),
    ({"PREFECT_PROFILE": "two"}, {"../prefect/profiles.toml": PROFILES}),
    ({"PREFECT_PROFILE": "none"}, {"../prefect/profiles.toml": PROFILES}),
    ({"PREFECT_PROFILE": "unknown"}, {"../prefect/profiles.toml": PROFILES}),
    ({"PREFECT_PROFILES_PATH": "other.toml"}, {"other.toml": PROFILES}),
    ({}, {".env": "PREFECT_PROFILES_PATH=other.toml", "other.toml": PROFILES}),
    ({}, {"prefect.toml": 'profiles_path = "other.toml"', "other.toml": PROFILES}),
    ({}, {"pyproject.toml": '[tool.prefect]\nprofiles_path = "other.toml"', "other.toml": PROFILES}),
    ({"PREFECT_TEST_MODE": "1"}, {"../prefect/profiles.toml": PROFILES}),
]

_ASK_PREFECT = """
import json, os, sys
from prefect.settings import Settings
from flexai.prefect_server.finding import find_api
answers = []
untouched = dict(os.environ)
for folder, environment in json.loads({cases!r}):
    os.environ.clear()
    os.environ.update(untouched | environment | {{"PREFECT_HOME": os.path.join(folder, "../prefect")}})
    os.chdir(folder)
    api = find_api()
    answers.append([Settings().api.url or None, api.url if api else None])
print("ANSWERS", json.dumps(answers))
"""


def test_it_is_the_one_that_prefect_finds(program: Program, tmp_path: Path) -> None:
    cases = []
    for number, (environment, files) in enumerate(CASES):
        folder = tmp_path / str(number) / "cwd"
        folder.mkdir(parents=True)
        (folder.parent / "prefect").mkdir()
        for name, text in files.items():
            (folder / name).write_text(text)
        cases.append([str(folder), environment])
    printed = program.python(_ASK_PREFECT.format(cases=json.dumps(cases)))
    answers = json.loads(printed.rpartition("ANSWERS ")[2])
    for case, (prefects, ours) in zip(CASES, answers, strict=True):
        assert ours == prefects, case
    assert {ours for _, ours in answers} >= {
        None,
        "http://environment/api",
        "http://dotenv/api",
        "http://toml/api",
        "http://pyproject/api",
        "http://one/api",
        "http://two/api",
    }


def test_the_server_of_flexai_up_is_found_where_nothing_else_is_said(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    quiet = {"FLEXAI_HOME": str(tmp_path), "PREFECT_HOME": str(tmp_path)}
    assert find_api(quiet) is None
    command = ["sleep", "600"]
    server = start(tmp_path, "server", command, environment=os.environ, cwd=tmp_path, url="http://up/api")
    try:
        assert find_api(quiet) == started_api(quiet) == PrefectAPI("http://up/api", origin="flexai up")
        assert configured_api(quiet) is None
        # What is configured wins, and so does a word that there is to be none.
        assert find_api(quiet | {"PREFECT_API_URL": "http://here/api"}) == configured_api(
            quiet | {"PREFECT_API_URL": "http://here/api"}
        )
        assert find_api(quiet | {"PREFECT_API_URL": ""}) is None
        assert find_api(quiet | {"FLEXAI_HOME": str(tmp_path / "another")}) is None
    finally:
        stop(server, grace=30)
    assert find_api(quiet) is None


def test_it_says_where_it_was_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "profiles.toml").write_text(PROFILES)
    assert find_api({"PREFECT_HOME": str(tmp_path)}) == PrefectAPI(
        "http://one/api", origin=str(tmp_path / "profiles.toml")
    )
    found = find_api({"PREFECT_API_URL": "http://here/api", "PREFECT_HOME": str(tmp_path)})
    assert found == PrefectAPI("http://here/api", origin="environment PREFECT_API_URL")


@pytest.mark.parametrize("content", [b"not toml [", b"\xff\xfe", b"api = 3", b"[api]\nurl = 3", None])
def test_a_file_that_prefect_could_not_read_either_is_no_api(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: bytes | None
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("prefect.toml", "pyproject.toml", "profiles.toml"):
        if content is None:
            os.mkfifo(tmp_path / name)
        else:
            (tmp_path / name).write_bytes(content)
    assert find_api({"PREFECT_HOME": str(tmp_path), "FLEXAI_HOME": str(tmp_path)}) is None
