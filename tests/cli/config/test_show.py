from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flexai.checkpoints.owner import login
from flexai.checkpoints.settings import RULES, hide_secrets
from tests.cli.conftest import Run
from tests.cli.program import Program


def test_every_setting_is_shown_with_its_origin(flexai: Run, program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    program.home.mkdir()
    (program.home / "config.toml").write_text('concurrency = 3\ngrace_period = "36h"\n')
    monkeypatch.setenv("FLEXAI_PART_SIZE", "32MiB")
    done = flexai("config", "show", "--json")
    settings = done.json()["settings"]
    assert set(settings) == set(RULES)
    config = str(program.home / "config.toml")
    assert settings["home"] == {"value": str(program.home), "origin": "environment FLEXAI_HOME"}
    assert settings["concurrency"] == {"value": 3, "origin": config}
    assert settings["grace_period"] == {"value": "36h", "origin": config}
    assert settings["part_size"] == {"value": 32 * 1024**2, "origin": "environment FLEXAI_PART_SIZE"}
    assert settings["database_url"] == {"value": f"sqlite:///{program.home}/catalog.db", "origin": "default"}
    assert settings["store"] == {"value": str(program.home / "store"), "origin": "default"}
    assert done.json()["prefectAPI"] is None


def test_the_table_shows_values_as_they_are_written(flexai: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLEXAI_PART_SIZE", str(32 * 1024**2))
    rows = [[cell.strip() for cell in line.split("|")] for line in flexai("config", "show").out.splitlines()]
    assert ["part_size", "32MiB", "environment FLEXAI_PART_SIZE"] in rows
    assert ["grace_period", "7d", "default"] in rows
    assert rows[-1] == ["Prefect API", "none", "not configured"]


def test_the_user_is_shown_by_name(flexai: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    assert flexai("config", "show", "--json").json()["user"] == login()
    monkeypatch.setenv("FLEXAI_OWNER", "alice@lab")
    assert flexai("config", "show", "--json").json()["user"] == "alice@lab"
    rows = [[cell.strip() for cell in line.split("|")] for line in flexai("config", "show").out.splitlines()]
    assert ["user", "alice@lab", "the setting owner"] in rows


def test_the_prefect_api_is_shown_with_its_origin(flexai: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "http://me:5ecret@server:4200/api")
    done = flexai("config", "show", "--json")
    assert done.json()["prefectAPI"] == {
        "url": "http://me:***@server:4200/api",
        "origin": "environment PREFECT_API_URL",
    }
    assert "5ecret" not in done.out + flexai("config", "show").out


def test_a_password_is_never_shown(flexai: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    for url in (
        "postgresql://me:5ecret@server/db",
        "postgresql://me:5ecret:5ec@ret@server/db",
        "postgresql://server/db?user=me&password=5ecret",
        "postgresql://server/db?sslmode=require&sslPassword=5ecret&sslkey=/5ecret",
        "postgresql://server/db?user=me&sslp%61ssword=5ecret",
        "postgresql://server/db?options=-c%20app.token%3D5ecret",
        "server/db?api_key=5ecret",
        "https://me:5ec\nret@server",
    ):
        monkeypatch.setenv("FLEXAI_DATABASE_URL", url)
        for flags in ([], ["--json"]):
            done = flexai("config", "show", *flags)
            assert done.code == 0
            assert "5ec" not in done.out + done.err
            assert "server" in done.out
        for command in ("checkpoint list", "--debug checkpoint list"):
            done = flexai(*command.split())
            assert done.code != 0
            assert "5ec" not in done.out + done.err


def test_a_setting_that_cannot_be_used_is_shown_all_the_same(flexai: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLEXAI_CONCURRENCY", "many")
    monkeypatch.setenv("FLEXAI_DATABASE_URL", "postgresql://me:5ecret@server/db")
    done = flexai("config", "show")
    assert done.code == 2
    assert "FLEXAI_CONCURRENCY" in done.error
    rows = [[cell.strip() for cell in line.split("|")] for line in done.out.splitlines()]
    assert ["concurrency", "many", "environment FLEXAI_CONCURRENCY"] in rows
    assert "5ecret" not in done.out + done.err


@pytest.mark.parametrize(
    "store", ["s3://key:5ecret@bucket/x", "gs://bucket?token=5ecret", "https://me:5ecret@host/x", "lab:5ecret@bucket"]
)
def test_a_store_that_cannot_be_is_refused_without_its_secrets(
    flexai: Run, monkeypatch: pytest.MonkeyPatch, store: str
) -> None:
    monkeypatch.setenv("FLEXAI_STORE", store)
    for command in ("config show", "checkpoint gc --dry-run", "--debug checkpoint verify"):
        done = flexai(*command.split())
        assert "5ecret" not in done.out + done.err


@given(st.text(st.characters(categories=["L", "N", "P", "S"]), min_size=4), st.booleans())
def test_whatever_the_password_it_is_hidden(password: str, has_name: bool) -> None:
    url = f"postgresql://{'me' if has_name else ''}:{password}@server/db"
    assert hide_secrets(url) == f"postgresql://{'me' if has_name else ''}:***@server/db"


def test_the_owner_is_shown_so_that_another_machine_can_be_told_it(program: Program) -> None:
    def shown() -> str:
        return str(program.run("config", "show", "--json").json()["settings"]["owner"]["value"])

    assert shown() == ""
    program.run("training", "run", "my-run", "--", "sh", "-c", "exit 1")
    owner = shown()
    elsewhere = {
        "FLEXAI_HOME": str(program.home.with_name("another-home")),
        "FLEXAI_DATABASE_URL": f"sqlite:///{program.home}/catalog.db",
        "FLEXAI_STORE": str(program.home / "store"),
    }
    refused = program.run("training", "run", "my-run", "--", "true", env=elsewhere)
    assert refused.code == 4
    assert "FLEXAI_OWNER" in refused.hint
    done = program.run("training", "run", "my-run", "--", "true", env=elsewhere | {"FLEXAI_OWNER": owner})
    assert done.code == 0, done.err


def test_a_setting_that_there_is_not_is_shown_and_named(flexai: Run, program: Program) -> None:
    program.home.mkdir(mode=0o700)
    (program.home / "config.toml").write_text("unknown = 1\n")
    done = flexai("config", "show")
    assert done.code == 2
    assert "unknown" in done.error
    assert "unknown" in done.out
