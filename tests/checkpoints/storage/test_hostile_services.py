"""Services that would have their clients' memory, time or credentials: over S3, GCS and the Hub."""

from __future__ import annotations

import ipaddress
import itertools
import json
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from requests.utils import get_environ_proxies

from flexai.checkpoints.errors import StorageError, StorageUnavailableError
from flexai.checkpoints.storage import addresses
from flexai.checkpoints.storage.endpoints import check_address
from flexai.checkpoints.storage.gcs.session import GCSService, guarded_request
from flexai.checkpoints.storage.http import parse_size, read_lengths
from flexai.checkpoints.storage.hub import client as hub_client
from flexai.checkpoints.storage.s3.client import S3Credentials, S3Service
from tests.hostile.services import ATTEMPTS, KINDS, SIZE, document, hub_of_one_file, open_storage, page, serve

MOST_MEMORY = 300
"""MiB that a client takes in all, whatever is sent."""
HARMLESS = {
    # What has no objects is an empty listing.
    ("s3", "xml, names"): "SourceError",
    ("s3", "nonsense 0"): "SourceError",
    # The Hub has said the size before.
    ("hub", "no length of content"): "",
    ("hub", "no length of a whole"): "",
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_no_service_has_more_memory_or_tries_than_is_meant_for_it(kind: str) -> None:
    run = [sys.executable, "-m", "tests.hostile.services", kind]
    found = subprocess.run(run, capture_output=True, text=True, timeout=1800, check=False)
    assert found.returncode == 0, found.stderr
    results = [json.loads(line) for line in found.stdout.splitlines()]
    print(f"{'MiB':>5} {'s':>5}  {kind}")
    for one in results:
        print(f"{one['peak']:5} {one['seconds']:5}  {one['attack']}: {one['error']}: {one['message']}")
    assert [one for one in results if one["peak"] > MOST_MEMORY] == []
    silent = [one for one in results if not (one["message"] and one["hint"]) and one["read"] not in {SIZE, SIZE - 100}]
    assert silent == []
    assert {one["attack"]: one["error"] for one in results if (kind, one["attack"]) in HARMLESS} == {
        attack: error for (of, attack), error in HARMLESS.items() if of == kind
    }
    # A drip is a stall, and tried again; what would take memory is asked for once.
    drips = {one["attack"]: one for one in results if "dripping" in one["attack"] and not one["read"]}
    assert drips["dripping headers"]["asked"] == drips["dripping chunks"]["asked"] == ATTEMPTS
    assert drips["dripping headers"]["error"] == "StorageUnavailableError"


@pytest.mark.parametrize("kind", KINDS)
def test_content_that_comes_a_byte_at_a_time_is_not_asked_for_without_an_end(kind: str) -> None:
    count = itertools.count()

    def answer(_: str, path: str) -> Iterator[bytes]:
        if kind == "hub" and (honest := hub_of_one_file(path)):
            return honest
        at = next(count)
        lines = (
            "HTTP/1.1 206 Partial Content",
            'ETag: "e"',
            "X-Goog-Generation: 1",
            f"Content-Range: bytes {at}-{SIZE - 1}/{SIZE}",
            f"Content-Length: {SIZE - at}",
            "Connection: close",
        )
        return iter(["\r\n".join(lines).encode() + b"\r\n\r\na"])

    with serve(answer) as server, pytest.raises(StorageUnavailableError):
        list(open_storage(kind, server.url).get("file"))
    assert next(count) == ATTEMPTS


# Whom a connection leads to.


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> dict[str, tuple[str, str]]:
    """What names mean: the address when one is looked up to be judged, and the one when it is connected to."""
    known: dict[str, tuple[str, str]] = {}
    real = socket.getaddrinfo

    def getaddrinfo(host: Any, port: Any, *arguments: Any, **options: Any) -> Any:
        if host in known:
            host = known[host][port is not None]
        return real(host, port, *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    for variable in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    return known


@pytest.fixture
def _loopback_has_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    """For this test, this machine's own address is one where clouds hand out credentials."""
    monkeypatch.setattr(addresses, "_METADATA_ADDRESSES", frozenset({ipaddress.ip_address("127.0.0.1")}))


def _one_file(kind: str, path: str) -> Iterator[bytes]:
    if "/revision/" in path:
        return document(b'{"id":"org/model","sha":"%s"}' % (b"c" * 40))
    return page(kind, ["file"])


@pytest.mark.usefixtures("_loopback_has_credentials")
@pytest.mark.parametrize("kind", KINDS)
def test_a_name_that_has_come_to_mean_a_metadata_service_is_asked_nothing(
    kind: str, names: dict[str, tuple[str, str]]
) -> None:
    names["rebound.example"] = ("93.184.216.34", "127.0.0.1")
    with serve(lambda _, path: _one_file(kind, path)) as server:
        endpoint = server.url.replace("127.0.0.1", "rebound.example")
        check_address(endpoint)
        with pytest.raises(StorageError, match=r"leads to an address that is refused: .*credentials"):
            list(open_storage(kind, endpoint).list(""))
        assert server.asked == []


@pytest.mark.usefixtures("_loopback_has_credentials")
@pytest.mark.parametrize("kind", KINDS)
def test_a_proxy_may_be_anywhere(kind: str, names: dict[str, tuple[str, str]], monkeypatch: pytest.MonkeyPatch) -> None:
    with serve(lambda _, path: _one_file(kind, path)) as proxy:
        monkeypatch.setenv("http_proxy", proxy.url)
        found = list(open_storage(kind, "http://store.example").list(""))
        assert [info.key for info in found] == ["file"]
        assert all("http://store.example" in one for one in proxy.asked)


def test_which_proxy_leads_to_a_server_is_settled_for_each_once(
    names: dict[str, tuple[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the hub itself, which no proxy leads to, and of where it redirects to."""
    names["content.example"] = ("93.184.216.34", "93.184.216.34")
    settled: list[str] = []

    def looked_up(url: str, no_proxy: str | None = None) -> dict[str, str]:
        settled.append(url)
        return get_environ_proxies(url, no_proxy)

    monkeypatch.setattr("requests.utils.get_environ_proxies", looked_up)

    def answer(_: str, path: str) -> Iterator[bytes]:
        if path.startswith("http://content.example"):
            return document(bytes(SIZE))
        redirect = ("Location: http://content.example/signed",)
        return hub_of_one_file(path) or document(b"", *redirect, status="302 Found")

    with serve(answer) as server:
        monkeypatch.setenv("http_proxy", server.url)
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        hub = open_storage("hub", server.url)
        for _ in range(2):
            assert b"".join(map(bytes, hub.get("file"))) == bytes(SIZE)
        host = server.url.removeprefix("http://")
        assert settled == [server.url, "http://content.example"]
        assert [one for one in server.asked if host in one] == []
        assert server.asked.count("GET http://content.example/signed") == 2


@pytest.mark.usefixtures("_loopback_has_credentials")
@pytest.mark.parametrize("kind", ["s3", "gcs"])
def test_clients_for_flows_of_ones_own_are_guarded_as_well(kind: str, names: dict[str, tuple[str, str]]) -> None:
    names["rebound.example"] = ("93.184.216.34", "127.0.0.1")
    with serve(lambda _, path: _one_file(kind, path)) as server:
        endpoint = server.url.replace("127.0.0.1", "rebound.example")
        with pytest.raises(Exception, match="leads to an address that is refused"):
            if kind == "s3":
                S3Service(endpoint_url=endpoint, credentials=S3Credentials("a", "b")).new_client().list_buckets()
            else:
                list(GCSService(endpoint_url=endpoint, anonymous=True).new_client("project").list_buckets(retry=None))
        assert server.asked == []


@pytest.mark.usefixtures("_loopback_has_credentials")
def test_the_address_that_a_key_names_for_its_tokens_is_judged_by_its_connection(
    names: dict[str, tuple[str, str]],
) -> None:
    names["rebound.example"] = ("93.184.216.34", "127.0.0.1")
    with (
        serve(lambda *_: document(b"{}")) as server,
        pytest.raises(StorageError, match="leads to an address that is refused"),
    ):
        guarded_request()(server.url.replace("127.0.0.1", "rebound.example"), method="POST")
    assert server.asked == []


def test_the_address_that_a_key_names_for_its_tokens_redirects_nowhere() -> None:
    with (
        serve(lambda *_: document(b"{}")) as target,
        serve(lambda *_: document(b"", f"Location: {target.url}", status="302 Found")) as server,
    ):
        assert guarded_request()(server.url, method="POST").status == 302
    assert target.asked == []


def _redirecting(target: str) -> Callable[[str, str], Iterator[bytes]]:
    def answer(method: str, path: str) -> Iterator[bytes]:
        if "/resolve/" in path:
            return document(b"", f"Location: {target}", status="302 Found")
        if "/tree/" in path:
            return document(b'[{"type":"file","path":"file","oid":"b","size":4}]')
        return _one_file("hub", path)

    return answer


def _is_public_but_the_second(address: str) -> bool:
    return address != "127.0.0.2"


@pytest.mark.parametrize("is_rebound", [False, True])
def test_a_hub_in_the_internet_redirects_into_no_private_network(
    is_rebound: bool, names: dict[str, tuple[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    # The hub's own address stands for one in the internet, 127.0.0.2 for one in a private network.
    monkeypatch.setattr(hub_client, "is_public", _is_public_but_the_second)
    names["cdn.example"] = ("93.184.216.34" if is_rebound else "127.0.0.2", "127.0.0.2")
    with (
        serve(lambda *_: document(b"1234"), host="127.0.0.2") as inside,
        serve(_redirecting(inside.url.replace("127.0.0.2", "cdn.example"))) as hub,
        pytest.raises(StorageError, match="address that is refused: it leads into a private network"),
    ):
        list(open_storage("hub", hub.url).get("file"))
    assert inside.asked == []


def test_a_hub_that_was_in_the_internet_is_not_in_a_private_network_a_moment_later(
    names: dict[str, tuple[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub_client, "is_public", _is_public_but_the_second)
    names["hub.example"] = ("93.184.216.34", "127.0.0.1")
    with serve(_redirecting("/elsewhere"), host="0.0.0.0") as hub:
        storage = open_storage("hub", hub.url.replace("0.0.0.0", "hub.example"))
        list(storage.list(""))
        asked = len(hub.asked)
        names["hub.example"] = ("93.184.216.34", "127.0.0.2")
        with pytest.raises(StorageError, match="leads to an address that is refused: it leads into a private network"):
            list(storage.get("file"))
        assert len(hub.asked) == asked


@pytest.mark.parametrize("cdn_is_inside", [False, True])
def test_a_server_in_the_internet_names_none_in_a_private_network_though_the_hub_is_in_one(
    cdn_is_inside: bool, names: dict[str, tuple[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    if not cdn_is_inside:
        monkeypatch.setattr(hub_client, "is_public", lambda address: address == "127.0.0.3")
    with (
        serve(lambda *_: document(b"1234"), host="127.0.0.2") as inside,
        serve(lambda *_: document(b"", f"Location: {inside.url}", status="302 Found"), host="127.0.0.3") as cdn,
        serve(_redirecting(cdn.url)) as hub,
    ):
        storage = open_storage("hub", hub.url)
        if cdn_is_inside:
            assert b"".join(bytes(block) for block in storage.get("file")) == b"1234"
        else:
            with pytest.raises(StorageError, match="address that is refused: it leads into a private network"):
                list(storage.get("file"))
            assert inside.asked == []


# Sizes and listings.


@pytest.mark.parametrize(
    "value", ["NaN", "", "-1", "+1", "1.0", "1e3", "1_000", " 1", "１２", "²", "9" * 30, 2**63, None, True, -1]
)
def test_a_size_is_written_in_plain_digits(value: object) -> None:
    with pytest.raises(ValueError, match="is no size"):
        parse_size(value)


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"content-length": "NaN"},
        {"content-length": "-1"},
        {"content-length": "5, 5"},
        {"content-range": "bytes 0-4/10", "content-length": "6"},
        {"content-range": "bytes 0-4/10", "content-length": "-1"},
        {"content-range": "bytes 4-0/10"},
        {"content-range": "bytes 0-10/10"},
        {"content-range": "bytes 0-4/*", "content-length": "5"},
        {"content-range": "bytes 0-" + "9" * 5000 + "/10"},
        {"content-range": "bytes ０-４/10"},
    ],
)
def test_an_answer_that_does_not_say_how_much_it_sends_is_refused(headers: dict[str, str]) -> None:
    with pytest.raises(StorageError, match="not said how many bytes of file"):
        read_lengths(headers, "file")
