"""Words of people, and of whom they name: places, names, settings, and what a terminal shows."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from unittest import mock

from tests.fuzz.answers import look_up_no_names
from tests.fuzz.parsers.table import Reading, Table
from tests.hostile.paths import GOOD_PATHS, HOSTILE_PATHS
from tests.hostile.texts import HOSTILE_TEXTS, assert_harmless

PARSERS = Table()


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


def _texts(*texts: str) -> Callable[[], list[bytes]]:
    return lambda: [text.encode("utf-8", "surrogatepass") for text in texts]


_ENDPOINTS = (
    "https://s3.example.com",
    "http://127.0.0.1:9000/",
    "http://[::1]:80/path",
    "https://xn--bcher-kva.example.",
    "http://0x7f.1",
    "http://2852039166",
    "http://169.254.169.254",
    "https://user:pass@host",
    "http://a\\b",
    "http://%31.2",
)


@PARSERS.add("endpoint", _texts(*_ENDPOINTS), b"%2e", b"\\", b"@", b"[", b"]", b"::ffff:", b"0x", b"#", b"?", b"xn--")
def _(data: bytes) -> object:
    from flexai.checkpoints.storage.addresses import why_refused
    from flexai.checkpoints.storage.endpoints import check_endpoint

    look_up_no_names()
    text = _text(data)
    why_refused(text, inside=False, encrypted=False)
    checked = check_endpoint(text, allow_path=True)
    assert check_endpoint(checked, allow_path=True) == checked
    return checked


_PLACES_OF_USERS = (
    "org/repo",
    "gpt2@main/onnx",
    "org/repo@refs/pr/1/a/b",
    "bucket/a/b",
    "s3://bucket/prefix",
    "share:bucket/p",
    "gs://b/",
    "/home/x",
    "./a",
)


@PARSERS.add_several("place", _texts(*_PLACES_OF_USERS), b"@", b"refs/", b"%2F", b"..", b"://", b":")
def _(data: bytes) -> Sequence[Reading]:
    from flexai.checkpoints.service.system import store_connection, store_opener
    from flexai.checkpoints.storage.connection import check_bucket, split_bucket
    from flexai.checkpoints.storage.hub.repo_paths import parse_hub_path

    text = _text(data)
    return [
        lambda: parse_hub_path(text),
        lambda: check_bucket(split_bucket(text)[0]),
        lambda: store_opener(text),
        lambda: store_connection(text),
    ]


@PARSERS.add(
    "path",
    _texts(*GOOD_PATHS, *(text for text, _ in HOSTILE_PATHS)),
    b"../",
    b"\\",
    b"%2e",
    b"con",
    b"\0",
    b"\xef\xbc\x8e",
)
def _(data: bytes) -> object:
    from flexai.checkpoints.paths import check_path_set, parse_path

    texts = _text(data).split("\n")[:20]
    paths = [parse_path(text) for text in texts]
    for path in paths:
        assert not path.startswith("/") and ".." not in path.split("/") and "\0" not in path and "\\" not in path
    check_path_set(paths)
    return paths


_PATTERNS = "# not these\n*.tmp\n/logs/\n!keep.tmp  \n**/runs/**\n[a-f[:digit:]]?.bin\r\na/**/b\\ \n"


@PARSERS.add(
    "ignore-file",
    _texts(_PATTERNS, "x/*/[!y]\n", "\ufeff!**\n"),
    b"**/",
    b"[[:alpha:]",
    b"[^]-",
    b"\\",
    b"*",
    b"/",
    b"!",
    b"\n",
    b"(?",
    allowed=(),
)
def _(data: bytes) -> object:
    from flexai.checkpoints.patterns import of_folder

    patterns = of_folder(data)
    paths = ("logs/a", "a/x/y/b ", "runs/1/c0.bin", "keep.tmp", "x/runs", "-/]/[/\\", "ä\n")
    return [patterns.name(path, is_folder=is_folder) for path in paths for is_folder in (True, False)]


@PARSERS.add_several(
    "name",
    _texts("llama-3", "latest", "best", "0f0e0d0c-0b0a-0908-0706-050403020100", "a_b"),
    b"-",
    b"\n",
    "İ".encode(),
)
def _(data: bytes) -> Sequence[Reading]:
    from flexai.checkpoints.names import parse_name, parse_reference

    text = _text(data)
    return [lambda: parse_name(text), lambda: parse_reference(text)]


@PARSERS.add(
    "setting",
    _texts("64MiB", "1.5gb", "7d", "90s", "400_000", "2w", "sqlite:///a"),
    b".",
    b"_",
    b"e9",
    b"\n",
    allowed=(ValueError,),
)
def _(data: bytes) -> object:
    from flexai.checkpoints.settings import RULES

    found = []
    for rule in RULES.values():
        try:
            value = rule.read(_text(data))
            assert rule.write(value) == rule.write(rule.read(rule.write(value)))
            found.append(value)
        except ValueError as error:
            found.append(error)
    return found


@functools.cache
def _home() -> Path:
    return Path(tempfile.mkdtemp(prefix="flexai-fuzz-"))


@PARSERS.add(
    "config-file",
    _texts('part_size = "64MiB"\nconcurrency = 8\n', "[a]\nb = [1, 2.0]\n"),
    b'"""',
    b"[[",
    b"= 1979-05-27",
    b"inf",
)
def _(data: bytes) -> object:
    from flexai.checkpoints.settings import CONFIG_FILE, load_settings

    (_home() / CONFIG_FILE).write_bytes(data)
    with mock.patch.dict("os.environ", {"FLEXAI_HOME": str(_home())}):
        return load_settings()


@PARSERS.add(
    "template",
    _texts("{job}-{step}", "{step:06d}", "a{{b}}{step:>10}"),
    b"{",
    b"}",
    b":",
    b"!r",
    b"{step.real}",
    b"{0}",
)
def _(data: bytes) -> object:
    from flexai.flows.templates import check_template, render

    text = _text(data)
    fields = frozenset({"job", "step"})
    try:
        check_template(text, fields)
    except ValueError as error:
        return error
    rendered = render(text, {"job": "digits", "step": 500})
    assert len(rendered) <= 100 * len(text)
    return rendered


@PARSERS.add(
    "shown-text", _texts(*HOSTILE_TEXTS.values()), b"\x1b[", b"\xc2\x9b", b"\r", b"\xe2\x80\xae", b"\x07", allowed=()
)
def _(data: bytes) -> object:
    from flexai.checkpoints.names import printable
    from flexai.cli.training.logs import readable

    text = _text(data)
    shown = [printable(text), *(printable(line) for line in readable([text[:9], text[9:]]))]
    for one in shown:
        assert_harmless(one.replace("\t", ""))
    return shown


_URLS = (
    "postgresql://u:canary@host/db?sslpassword=canary&a=b",
    "sqlite:///a?token=canary",
    "http://u:canary@[::1]:1/?x",
)


@PARSERS.add("hidden-secret", _texts(*_URLS), b"@", b"://", b"%3D", b"&password=", b"?", b":", allowed=())
def _(data: bytes) -> object:
    from flexai.checkpoints.settings import hide_secrets

    return hide_secrets(_text(data))
