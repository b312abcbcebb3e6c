from __future__ import annotations

import pytest

from flexai.checkpoints.storage.addresses import is_inside, why_refused

_METADATA = [
    "http://169.254.169.254/latest/meta-data/",
    "https://169.254.169.254/",
    "http://169.254.170.2/v2/credentials",
    "http://2852039166/",
    "http://0xa9fea9fe/",
    "http://0251.0376.0251.0376/",
    "http://169.254.43518/",
    "http://[::ffff:169.254.169.254]/",
    "http://[::ffff:a9fe:a9fe]/",
    "http://[64:ff9b::a9fe:a9fe]/",
    "http://[64:ff9b:1::a9fe:a9fe]/",
    "http://[::169.254.169.254]/",
    "http://[2002:a9fe:a9fe::]/",
    "http://[2001:0:808:808::5601:5601]/",
    "http://[fe80::1]/",
    "http://[fd00:ec2::254]/",
    "http://[fd20:ce::254]/",
    "http://100.100.100.200/",
    "http://192.0.0.192/opc/v2/",
    "http://168.63.129.16/",
    "http://metadata.google.internal/computeMetadata/v1/",
    "http://METADATA.google.internal./",
    "http://instance-data/",
]

TWO_READINGS = [
    "http://%31%36%39.254.169.254/",
    "http://169%2e254.169.254/",
    "http://metadata%2egoogle.internal/",
    "http://169.254.169.254\\.example.com/",
    "http://example.com\\@169.254.169.254/",
    "http://169.254.169.254\\@example.com/",
    "http:\\\\169.254.169.254/",
    "http://example.com@169.254.169.254/",
    "http://169。254。169。254/",
    "http://①⑥⑨.254.169.254/",
    "http://１６９.254.169.254/",
    "http://metadata.google.ınternal/",
    "http://exam ple.com/",
    "http://example.com%20/",
    "http://example.com:８０/",
]
"""Clients make different hosts of these."""


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("url", _METADATA)
def test_a_machines_own_credentials_are_never_asked_for(url: str, inside: bool) -> None:
    assert "credentials" in why_refused(url, inside=inside, encrypted=False)


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd",
        "ftp://8.8.8.8/",
        "gopher://8.8.8.8/",
        "//8.8.8.8/",
        "8.8.8.8",
        "",
        "http://",
        "http:///path",
        "http://[::1",
        "http://8.8.8.8:99999/",
        "http://8.8.8.8:port/",
        "http://user:password@8.8.8.8/",
        "http://user@8.8.8.8/",
        "http://0.0.0.0/",
        "http://0/",
        "http://[::]/",
        "http://224.0.0.1/",
        "http://[fe80::1%25lo]/",
        *TWO_READINGS,
    ],
)
def test_what_is_no_machines_web_address_is_refused(url: str) -> None:
    assert why_refused(url, inside=True, encrypted=False)


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1/",
        "http://127.1/",
        "http://localhost/",
        "http://[::1]/",
        "http://10.0.0.1/",
        "http://172.16.0.1/",
        "http://192.168.1.1/",
        "http://[fd12:3456::1]/",
        "http://[::ffff:127.0.0.1]/",
    ],
)
def test_a_private_network_is_only_asked_by_who_is_in_it(url: str) -> None:
    assert "private" in why_refused(url, inside=False, encrypted=False)
    assert why_refused(url, inside=True, encrypted=False) == ""
    assert is_inside(url)


@pytest.mark.parametrize("url", ["https://8.8.8.8/", "http://8.8.8.8:8080/x?y=z", "https://[2606:4700::1111]/"])
def test_a_public_address_is_asked(url: str) -> None:
    assert why_refused(url, inside=False, encrypted=False) == ""
    assert not is_inside(url)


def test_an_encrypted_hub_leads_to_nothing_unencrypted() -> None:
    assert "not encrypted" in why_refused("http://8.8.8.8/", inside=False, encrypted=True)
    assert why_refused("https://8.8.8.8/", inside=False, encrypted=True) == ""


def test_a_name_that_only_a_proxy_may_know_is_let_pass() -> None:
    never_resolved = "x" * 64  # a label may have 63 characters
    assert why_refused(f"https://{never_resolved}.example/", inside=False, encrypted=True) == ""
