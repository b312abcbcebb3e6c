from __future__ import annotations

import os
import pwd
import traceback
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flexai.checkpoints.errors import SettingsError
from flexai.checkpoints.settings import (
    RULES,
    database_url,
    home_path,
    load_settings,
    overriding,
    parse_duration,
    parse_size,
    read_raw_settings,
    write_duration,
)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder of the test's own; no setting is left over from the machine."""
    for variable in list(os.environ):
        if variable.startswith("FLEXAI_"):
            monkeypatch.delenv(variable)
    monkeypatch.setenv("FLEXAI_HOME", str(tmp_path))
    return tmp_path


def _write(home: Path, text: str) -> Path:
    path = home / "config.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_without_a_word_everything_lies_in_the_home_folder(home: Path) -> None:
    settings = load_settings()
    assert settings.home == home
    assert settings.effective_database_url == f"sqlite:///{home}/catalog.db"
    assert settings.effective_store == str(home / "store")
    assert settings.jobs_path == home / "jobs"
    assert settings.part_size == 64 * 1024**2
    assert settings.grace_period == timedelta(days=7)


def test_the_home_folder_is_below_the_user_s_by_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FLEXAI_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "user"))
    assert load_settings().home == tmp_path / "user" / ".flexai"


@pytest.mark.parametrize("written", ["~/here", "here", "./here"])
def test_a_home_folder_means_the_same_to_every_reader(
    written: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FLEXAI_HOME", written)
    (tmp_path / "here").mkdir()
    _write(tmp_path / "here", "concurrency = 3")
    settings = load_settings()
    assert settings.home == home_path() == tmp_path / "here"
    assert settings.concurrency == 3
    assert settings.effective_database_url == database_url()


def test_the_environment_wins_over_the_file_and_the_file_over_the_default(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert load_settings().concurrency == 32
    _write(home, "concurrency = 3\npack_threshold = '1KiB'")
    assert load_settings().concurrency == 3
    monkeypatch.setenv("FLEXAI_CONCURRENCY", "5")
    assert load_settings().concurrency == 5
    assert load_settings().pack_threshold == 1024
    assert load_settings(concurrency=7).concurrency == 7


def test_a_number_may_be_written_as_python_writes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLEXAI_BANDWIDTH_LIMIT", "400_000")
    monkeypatch.setenv("FLEXAI_CONCURRENCY", " 1_6 ")
    assert (load_settings().bandwidth_limit, load_settings().concurrency) == (400_000, 16)


def test_an_empty_variable_is_as_good_as_none(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _write(home, "concurrency = 3")
    monkeypatch.setenv("FLEXAI_CONCURRENCY", "")
    monkeypatch.setenv("FLEXAI_DATABASE_URL", "")
    assert load_settings().concurrency == 3
    assert load_settings().effective_database_url == database_url()


@pytest.mark.parametrize("text", ["database_url = ''", "", "database_url = 'sqlite:////srv/catalog.db'"])
def test_a_look_finds_the_catalog_that_the_settings_name(home: Path, text: str) -> None:
    _write(home, text)
    assert database_url() == load_settings().effective_database_url


def test_every_setting_can_be_set_in_the_file_and_in_the_environment(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = {
        "database_url": "postgresql://host/db",
        "store": "/srv/store",
        "store_mode": "group",
        "concurrency": "2",
        "bandwidth_limit": "100MiB",
        "part_size": "1MiB",
        "pack_threshold": "2MiB",
        "pack_size": "3MiB",
        "shard_size": "4GiB",
        "task_runner": "threads:3",
        "grace_period": "1d",
        "quiet_period": "2s",
        "grace": "2m",
        "patience": "3m",
        "owner": "00000000-0000-4000-8000-000000000001/00000000-0000-4000-8000-000000000002",
    }
    assert set(values) | {"home"} == set(RULES)
    _write(home, "\n".join(f"{name} = {value!r}" for name, value in values.items()))
    from_file = load_settings()
    _write(home, "")
    for name, value in values.items():
        monkeypatch.setenv(f"FLEXAI_{name.upper()}", value)
    assert load_settings() == from_file
    assert from_file.effective_database_url == "postgresql://host/db"
    assert from_file.effective_store == "/srv/store"
    assert (from_file.part_size, from_file.pack_threshold, from_file.pack_size) == (2**20, 2 * 2**20, 3 * 2**20)
    assert (from_file.grace_period, from_file.quiet_period) == (timedelta(days=1), timedelta(seconds=2))


_WRONG = [
    ("store_mode", "everyone"),
    ("concurrency", "0"),
    ("concurrency", "257"),
    ("concurrency", "many"),
    ("concurrency", "1.5"),
    ("part_size", "1"),
    ("part_size", "6GiB"),
    ("part_size", "64 apples"),
    ("part_size", "-1MiB"),
    ("part_size", "9" * 400),
    ("pack_threshold", "-1"),
    ("pack_threshold", "nan"),
    ("pack_size", "2GiB"),
    ("grace_period", "-1d"),
    ("grace_period", "soon"),
    ("grace_period", "9" * 30 + "w"),
    ("grace_period", "200000w"),
    ("quiet_period", "nan"),
]


@pytest.mark.parametrize(("name", "text"), _WRONG)
def test_a_wrong_value_in_the_environment_is_an_error_that_names_the_variable(
    monkeypatch: pytest.MonkeyPatch, name: str, text: str
) -> None:
    variable = f"FLEXAI_{name.upper()}"
    monkeypatch.setenv(variable, text)
    with pytest.raises(SettingsError) as caught:
        load_settings()
    assert repr(name) in caught.value.message
    assert f"environment {variable}" in caught.value.message
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("name", "text"),
    [
        *((name, repr(text)) for name, text in _WRONG),
        *((name, "true") for name in RULES if name != "home"),
        *((name, "[1]") for name in RULES if name != "home"),
        *((name, "{a = 1}") for name in RULES if name != "home"),
        ("database_url", "5"),
        ("part_size", "nan"),
        ("part_size", "1e400"),
        ("grace_period", "inf"),
        ("grace_period", "nan"),
        ("grace_period", "1e300"),
        ("grace_period", "9" * 400),
    ],
)
def test_a_wrong_value_in_the_file_is_an_error_that_names_the_file(home: Path, name: str, text: str) -> None:
    path = _write(home, f"{name} = {text}")
    with pytest.raises(SettingsError) as caught:
        load_settings()
    assert repr(name) in caught.value.message
    assert str(path) in caught.value.message


def test_a_wrong_value_of_the_caller_is_not_blamed_on_another_source(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLEXAI_CONCURRENCY", "5")
    with pytest.raises(SettingsError) as caught:
        load_settings(concurrency=0)
    assert "FLEXAI_CONCURRENCY" not in caught.value.message


@pytest.mark.parametrize(
    "text", ["concurency = 3", "[storage]\nkind = 's3'", "FLEXAI_CONCURRENCY = 3", "Concurrency = 3"]
)
def test_an_unknown_key_in_the_file_is_refused(home: Path, text: str) -> None:
    path = _write(home, text)
    with pytest.raises(SettingsError) as caught:
        load_settings()
    assert str(path) in caught.value.message


def test_the_file_cannot_move_the_folder_it_lies_in(home: Path) -> None:
    path = _write(home, "home = '/elsewhere'")
    with pytest.raises(SettingsError) as caught:
        load_settings()
    assert str(path) in caught.value.message
    assert "FLEXAI_HOME" in caught.value.message + caught.value.hint


def test_variables_of_others_under_our_prefix_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLEXAI_OUTPUT_CHECKPOINT_DIR", "/out")
    monkeypatch.setenv("FLEXAI_API_KEY", "secret")
    monkeypatch.setenv("FLEXAI_", "x")
    assert load_settings().concurrency == 32


@pytest.mark.parametrize("content", [b"concurrency = ", b"\xff\xfe", b"a = 1\na = 2", b"= 3"])
def test_a_file_that_is_not_toml_is_an_error_that_names_it(home: Path, content: bytes) -> None:
    path = home / "config.toml"
    path.write_bytes(content)
    with pytest.raises(SettingsError) as caught:
        load_settings()
    assert str(path) in caught.value.message
    assert str(path) in caught.value.hint


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("65536", 65536),
        ("64KiB", 65536),
        ("64kib", 65536),
        ("64 KiB", 65536),
        (" 64Ki ", 65536),
        ("64KB", 64_000),
        ("64K", 64_000),
        ("1.5MiB", 1_572_864),
        ("1GiB", 2**30),
        ("2TiB", 2**41),
        ("5B", 5),
    ],
)
def test_a_size_is_read_in_units_of_1024_and_of_1000(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0),
        ("90", 90),
        ("90s", 90),
        ("1.5s", 1.5),
        ("15m", 900),
        ("24h", 86400),
        ("7d", 604800),
        ("2W", 1209600),
        (" 3 h ", 10800),
    ],
)
def test_a_duration_is_read_with_its_unit(text: str, seconds: float) -> None:
    assert parse_duration(text) == timedelta(seconds=seconds)


@given(st.integers(0, 2**40), st.sampled_from([("", 1), ("KiB", 2**10), ("MiB", 2**20), ("kB", 10**3), ("MB", 10**6)]))
def test_a_whole_number_of_units_is_that_many_bytes(number: int, unit: tuple[str, int]) -> None:
    assert parse_size(f"{number}{unit[0]}") == number * unit[1]


@given(st.text(max_size=12))
def test_any_text_is_a_size_and_a_duration_or_left_to_be_refused(text: str) -> None:
    size, duration = parse_size(text), parse_duration(text)
    assert isinstance(size, int) or size == text
    assert isinstance(duration, timedelta) or duration == text


_SECRET_URL = "postgresql://someone:s3cr3t-word@db.example/catalog"


def test_the_database_s_password_is_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLEXAI_DATABASE_URL", _SECRET_URL)
    settings = load_settings()
    assert settings.effective_database_url == _SECRET_URL
    for shown in (repr(settings), str(settings)):
        assert "s3cr3t-word" not in shown


def test_an_error_about_another_setting_does_not_show_the_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLEXAI_DATABASE_URL", _SECRET_URL)
    monkeypatch.setenv("FLEXAI_CONCURRENCY", "many")
    with pytest.raises(SettingsError) as caught:
        load_settings()
    assert "s3cr3t-word" not in "".join(traceback.format_exception(caught.value))


def test_an_error_about_the_url_itself_does_not_show_it(home: Path) -> None:
    _write(home, "database_url = ['postgresql://someone:s3cr3t-word@db.example/catalog']")
    with pytest.raises(SettingsError) as caught:
        load_settings()
    assert "s3cr3t-word" not in "".join(traceback.format_exception(caught.value))


def test_every_setting_says_what_it_is_for() -> None:
    for name, rule in RULES.items():
        assert rule.description, name


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        load_settings().concurrency = 2  # type: ignore[misc]


def test_a_home_that_means_nothing_is_an_error_that_says_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLEXAI_HOME", "~nobody-of-this-name/flexai")
    for read in (load_settings, home_path, read_raw_settings):
        with pytest.raises(SettingsError) as caught:
            read()
        assert "FLEXAI_HOME" in caught.value.hint


def test_a_home_whose_path_is_no_utf_8_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLEXAI_HOME", os.fsdecode(os.fsencode(tmp_path) + b"/home\xff"))
    with pytest.raises(SettingsError, match="no UTF-8") as caught:
        load_settings()
    assert "FLEXAI_HOME" in caught.value.hint


def test_a_store_below_the_user_s_home_may_be_written_with_a_tilde(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    _write(home, "store = '~/checkpoints'")
    assert load_settings().effective_store == str(tmp_path / "checkpoints")


@pytest.mark.parametrize(
    ("time", "shown"),
    [
        (timedelta(days=7), "7d"),
        (timedelta(hours=36), "36h"),
        (timedelta(seconds=90), "90s"),
        (timedelta(0), "0s"),
    ],
)
def test_times_are_said_in_their_largest_whole_unit(time: timedelta, shown: str) -> None:
    assert write_duration(time) == shown


def test_what_a_command_was_told_wins_until_the_command_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLEXAI_BANDWIDTH_LIMIT", "1MiB")
    with overriding(bandwidth_limit="2MiB"):
        assert load_settings().bandwidth_limit == 2 * 1024**2
        with overriding(concurrency=3):
            assert (load_settings().bandwidth_limit, load_settings().concurrency) == (2 * 1024**2, 3)
        assert load_settings().concurrency == 32
    assert load_settings().bandwidth_limit == 1024**2


def test_an_override_that_cannot_be_is_refused_without_the_name_of_another_source(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FLEXAI_CONCURRENCY", "8")
    with (
        overriding(concurrency=0),
        pytest.raises(SettingsError, match=r"^setting 'concurrency': at least 1 is needed$"),
    ):
        load_settings()


def test_an_empty_home_counts_as_one_that_is_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FLEXAI_HOME")
    monkeypatch.setenv("HOME", "")
    assert home_path() == Path(pwd.getpwuid(os.getuid()).pw_dir) / ".flexai"
    monkeypatch.setenv("FLEXAI_STORE", "~/kept")
    assert load_settings().effective_store == str(Path(pwd.getpwuid(os.getuid()).pw_dir) / "kept")


@pytest.mark.parametrize("user_home", ["", None])
def test_a_user_whom_the_system_does_not_know_is_told_to_set_the_home_folder(
    user_home: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown(_: int) -> object:
        raise KeyError("getpwuid(): uid not found")

    monkeypatch.setattr("pwd.getpwuid", unknown)
    monkeypatch.delenv("FLEXAI_HOME")
    monkeypatch.delenv("HOME", raising=False)
    if user_home is not None:
        monkeypatch.setenv("HOME", user_home)
    with pytest.raises(SettingsError, match=r"home folder ~/\.flexai cannot be found") as caught:
        load_settings()
    assert "FLEXAI_HOME" in caught.value.hint


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_a_configuration_file_that_is_no_file_is_an_error_and_keeps_no_command_waiting(
    make: Callable[[Path], None], home: Path
) -> None:
    home.mkdir(parents=True, exist_ok=True)
    make(home / "config.toml")
    with pytest.raises(SettingsError, match=r"config\.toml is no file"):
        load_settings()
