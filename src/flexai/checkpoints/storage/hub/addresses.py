"""Where a redirect may lead: a server that is tricked, or lies, must not make this machine ask its own neighbours.

Clouds answer at link-local and a few well-known addresses with the credentials of the machine that asks.
"""

from __future__ import annotations

import ipaddress
import socket
from typing import TypeAlias
from urllib.parse import urlsplit

_Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address

_METADATA_NAMES = frozenset(
    {
        "instance-data",
        "instance-data.ec2.internal",
        "metadata",
        "metadata.goog",
        "metadata.google.internal",
        "metadata.tencentyun.com",
    }
)
# Amazon's (two), Google's, Oracle's and Scaleway's over IPv6, Alibaba's, Oracle's and Azure's; all others are
# link-local.
_METADATA_ADDRESSES = frozenset(
    ipaddress.ip_address(text)
    for text in (
        "fd00:ec2::254",
        "fd00:ec2::23",
        "fd20:ce::254",
        "fd00:c1::a9fe:a9fe",
        "fd00:42::42",
        "100.100.100.200",
        "192.0.0.192",
        "168.63.129.16",
    )
)
# NAT64, a network's own NAT64, and what IPv6 once had for IPv4: the last 32 bits are an IPv4 address.
_TRANSLATED = tuple(ipaddress.IPv6Network(text) for text in ("64:ff9b::/96", "64:ff9b:1::/48", "::/96"))
_LITERAL = (ipaddress.IPv6Address("::"), ipaddress.IPv6Address("::1"))


def origin_of(url: str) -> tuple[str, str, int]:
    """Scheme, host and port of an address; ValueError where it has no valid ones."""
    parts = urlsplit(url)
    host = (parts.hostname or "").rstrip(".")
    return parts.scheme, host, parts.port or (443 if parts.scheme == "https" else 80)


def is_inside(url: str) -> bool:
    """Whether an address leads to this machine or a private network."""
    return any(not address.is_global for address in _resolve(origin_of(url)[1]))


def why_refused(url: str, *, inside: bool, encrypted: bool) -> str:
    """Why an address must not be asked; empty where it may.

    ``inside`` allows this machine and private networks, for a hub that is in there itself; ``encrypted`` asks for
    https. A name that cannot be resolved is let pass: either it cannot be reached, or a proxy resolves it.
    """
    try:
        scheme, host, _ = origin_of(url)
        if scheme not in {"http", "https"} or not host:
            return "it is no http(s) address"
        if encrypted and scheme != "https":
            return "it is not encrypted"
        if "@" in urlsplit(url).netloc:
            return "it has a user name in it"
    except ValueError:
        return "it is malformed"
    addresses = [] if host in _METADATA_NAMES else _resolve(host)
    if host in _METADATA_NAMES or any(_is_metadata(address) for address in addresses):
        return "it is the address of a machine's own credentials or neighbours"
    if any(address.is_unspecified or address.is_multicast for address in addresses):
        return "it is the address of no machine"
    if not inside and any(not address.is_global for address in addresses):
        return "it leads into a private network"
    return ""


def _is_metadata(address: _Address) -> bool:
    return address.is_link_local or address in _METADATA_ADDRESSES


def _resolve(host: str) -> list[_Address]:
    try:
        # Also reads the odd forms (2852039166, 0xa9fea9fe, 169.254.43518) as connecting does.
        found = socket.getaddrinfo(host.partition("%")[0], None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return []
    return [_embedded(ipaddress.ip_address(str(entry[4][0]).partition("%")[0])) for entry in found]


def _embedded(address: _Address) -> _Address:
    """The IPv4 address that an IPv6 one stands for, if it does."""
    if isinstance(address, ipaddress.IPv6Address):
        if address not in _LITERAL and any(address in network for network in _TRANSLATED):
            return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        return address.ipv4_mapped or address.sixtofour or (address.teredo or (None, None))[1] or address
    return address
