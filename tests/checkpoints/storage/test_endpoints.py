from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flexai.checkpoints.errors import UsageError
from flexai.checkpoints.storage.endpoints import check_address, check_endpoint

USUAL = {
    "https://s3.eu-central-1.wasabisys.com": "https://s3.eu-central-1.wasabisys.com",
    "https://S3.Example.COM/": "https://s3.example.com",
    "HTTPS://s3.example.com:443": "https://s3.example.com",
    "http://minio:9000": "http://minio:9000",
    "http://minio.:9000/": "http://minio:9000",
    "http://localhost:80/": "http://localhost",
    "  http://127.0.0.1:9000\n": "http://127.0.0.1:9000",
    "http://10.1.2.3:9000": "http://10.1.2.3:9000",
    "http://192.168.1.1": "http://192.168.1.1",
    "http://[::1]:9000": "http://[::1]:9000",
    "http://[FD12:3456:0:0::1]": "http://[fd12:3456::1]",
    "https://xn--mnchen-3ya.example": "https://xn--mnchen-3ya.example",
    "https://under_score.example": "https://under_score.example",
}

NO_ADDRESS = [
    "",
    " ",
    "s3.example.com",
    "//s3.example.com",
    "s3.example.com:9000",
    "https:s3.example.com",
    "https:/s3.example.com",
    "https:///s3.example.com",
    "https://",
    "https://:9000",
    "file:///etc/passwd",
    "ftp://s3.example.com",
    "gopher://s3.example.com",
    "javascript:alert(1)",
    "s3://bucket",
    "http+unix://%2Fvar%2Frun%2Fdocker.sock",
    "https://s3.example.com:port",
    "https://s3.example.com:99999",
    "https://s3.example.com:-1",
    "https://s3.example.com:0",
    "https://s3.example.com:",
    "https://[::1",
    "https://[::1]evil.example",
    "https://[::1]evil.example:9000",
    "https://[::1].evil.example]",
    "https://evil.example[::1]",
    "https://[fe80::1%25eth0]",
    "https://[v1.fe80]",
    "https://s3..example.com",
    "https://.example.com",
    "https://-s3.example.com",
    "https://s3.example.com..",
    "https://s3 .example.com",
    "https://s3.example.com\t",
    "https://s3.exa\nmple.com",
    "https://s3.example.com\r\nHost: evil.example",
    "https://s3.example.com\0.evil.example",
    "https://s3.example.com\\@evil.example",
    "https:\\\\s3.example.com",
    "https://s3.example.com%2eevil.example",
    "https://%31%36%39.254.169.254",
    "https://ｅxample.com",
    "http://169。254。169。254",
    "http://①⑥⑨.254.169.254",
    "https://" + "a" * 64 + ".example",
    "https://" + "a." * 1500 + "example",
]

WITH_MORE = [
    "https://user@s3.example.com",
    "https://user:password@s3.example.com",
    "https://:@s3.example.com",
    "https://s3.example.com@evil.example",
    "https://s3.example.com:443@evil.example",
    "https://s3.example.com?query",
    "https://s3.example.com/?",
    "https://s3.example.com#",
    "https://s3.example.com#@evil.example",
    "https://s3.example.com/bucket",
    "https://s3.example.com//",
    "https://s3.example.com/..",
    "https://s3.example.com/;parameter",
]

UNUSUAL = [
    "http://2852039166",
    "http://0xa9fea9fe",
    "http://0xA9.0xFE.0xA9.0xFE",
    "http://0251.0376.0251.0376",
    "http://0251.254.169.254",
    "http://169.254.43518",
    "http://169.16689662",
    "http://2130706433",
    "http://127.1",
    "http://0x7f.1",
    "http://010.0.0.1",
    "http://1.2.3.4.5",
    "http://256.1.1.1",
    "http://4294967296",
    "http://0x",
]

CREDENTIALS = [
    "http://169.254.169.254",
    "http://169.254.169.254.",
    "https://169.254.169.254:443",
    "http://169.254.169.254:80/",
    "http://169.254.170.2",
    "http://169.254.170.23",
    "http://169.254.0.1",
    "http://[::ffff:169.254.169.254]",
    "http://[::FFFF:A9FE:A9FE]:80",
    "http://[0:0:0:0:0:ffff:a9fe:a9fe]",
    "http://[::169.254.169.254]",
    "http://[64:ff9b::a9fe:a9fe]",
    "http://[64:ff9b:1::a9fe:a9fe]",
    "http://[2002:a9fe:a9fe::1]",
    "http://[fe80::a9fe:a9fe]",
    "http://[febf::1]",
    "http://[fd00:ec2::254]",
    "http://[fd00:ec2::23]",
    "http://[fd20:ce::254]",
    "http://100.100.100.200",
    "http://192.0.0.192",
    "http://168.63.129.16",
]

OF_NO_MACHINE = [
    "http://0.0.0.0:9000",
    "http://[::]",
    "http://[::ffff:0.0.0.0]",
    "http://224.0.0.1",
    "http://[ff02::1]",
]

NAMES = [
    "http://metadata.google.internal",
    "http://METADATA.google.internal.",
    "http://metadata.goog",
    "http://metadata",
    "http://instance-data",
    "http://instance-data.ec2.internal:80",
]


@pytest.mark.parametrize(("text", "endpoint"), USUAL.items())
def test_an_endpoint_is_brought_to_its_usual_form(text: str, endpoint: str) -> None:
    assert check_endpoint(text) == endpoint


@pytest.mark.parametrize("text", [*NO_ADDRESS, *WITH_MORE, *UNUSUAL, *CREDENTIALS, *OF_NO_MACHINE])
def test_anything_else_is_refused_before_any_service_is_asked(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.getaddrinfo", _answer({}))
    if text.endswith("\t"):
        text += "x"
    with pytest.raises(UsageError, match=r"^the endpoint is refused: it") as refused:
        check_endpoint(text)
    assert refused.value.hint


@pytest.mark.parametrize("text", CREDENTIALS)
def test_an_address_of_credentials_is_called_one(text: str) -> None:
    with pytest.raises(UsageError, match="credentials"):
        check_endpoint(text)


@pytest.mark.parametrize("text", WITH_MORE[:5])
def test_a_password_in_an_endpoint_is_not_quoted(text: str) -> None:
    with pytest.raises(UsageError) as refused:
        check_endpoint(text)
    assert "password" not in refused.value.message.replace("a user name or password in it", "")
    assert "example" not in refused.value.message


@pytest.mark.parametrize("text", ["https://hub.example/api/hf", "https://hub.example/api/hf/"])
def test_a_path_is_kept_where_the_service_may_have_one(text: str) -> None:
    assert check_endpoint(text, allow_path=True) == "https://hub.example/api/hf"


@pytest.mark.parametrize(
    "path", ["a//b", "../b", "a/..", "a/./b", "%2e%2e", "a%2fb", "a;b", "a b", "ä", "a?b", "a#b", "a@b"]
)
def test_a_path_that_has_two_readings_is_refused(path: str) -> None:
    with pytest.raises(UsageError):
        check_endpoint(f"https://hub.example/{path}", allow_path=True)


@pytest.mark.parametrize("text", NAMES)
def test_a_name_of_a_metadata_service_is_refused_even_where_it_cannot_be_resolved(
    text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("socket.getaddrinfo", _answer({}))
    with pytest.raises(UsageError, match="credentials"):
        check_address(check_endpoint(text))


@pytest.mark.parametrize(
    "addresses",
    [
        ["169.254.169.254"],
        ["::ffff:169.254.169.254"],
        ["fe80::1"],
        ["93.184.216.34", "169.254.169.254"],
        ["100.100.100.200"],
    ],
)
def test_a_name_that_leads_to_credentials_is_refused_when_it_is_looked_up(
    addresses: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("socket.getaddrinfo", _answer({"innocent.example": addresses}))
    endpoint = check_endpoint("https://innocent.example")
    with pytest.raises(UsageError, match="credentials"):
        check_address(endpoint)


@pytest.mark.parametrize("addresses", [["10.0.0.1"], ["127.0.0.1"], ["fd12::1"], ["93.184.216.34"], []])
def test_a_name_that_leads_to_a_server_of_ones_own_is_not(
    addresses: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("socket.getaddrinfo", _answer({"innocent.example": addresses}))
    check_address(check_endpoint("https://innocent.example"))


@given(st.text(max_size=60))
def test_what_follows_the_scheme_is_a_host_or_refused(text: str) -> None:
    try:
        endpoint = check_endpoint(f"http://{text}")
    except UsageError:
        return
    assert check_endpoint(endpoint) == endpoint
    assert not set(endpoint.removeprefix("http://")) & set("/\\@?#% \t\r\n")


@given(st.ip_addresses(network="169.254.0.0/16"), st.integers(1, 65535))
def test_no_link_local_address_passes_in_any_form(address: Any, port: int) -> None:
    number = int(address)
    a, b, c, d = address.packed
    for host in (
        f"{address}",
        f"{number}",
        f"{number:#x}",
        f"{number:#o}".replace("0o", "0"),
        f"{a}.{b}.{c * 256 + d}",
        f"{a:#x}.{b}.{c:#o}.{d}".replace("0o", "0"),
        f"[::ffff:{address}]",
        f"[64:ff9b::{number >> 16:x}:{number & 0xFFFF:x}]",
        f"[2002:{number >> 16:x}:{number & 0xFFFF:x}::1]",
    ):
        with pytest.raises(UsageError):
            check_endpoint(f"http://{host}:{port}")


def _answer(known: dict[str, list[str]]) -> Callable[..., Any]:
    """A resolver that knows a few names; numbers are still read as the system reads them."""
    real = socket.getaddrinfo

    def getaddrinfo(host: str, port: object, *args: Any, **options: Any) -> Any:
        if host in known:
            return [(0, 0, 0, "", (address, 0)) for address in known[host]]
        return real(host, None, *args, **options | {"flags": socket.AI_NUMERICHOST})

    return getaddrinfo
