"""Where requests may lead: a server that is tricked, or lies, must not make this machine ask its own neighbours.

Clouds answer at link-local and a few well-known addresses with the credentials of the machine that asks. A URL is
judged before it is asked, and the address of each connection once it is made (``wire.py``): in between, a name can come
to mean another machine.
"""

from __future__ import annotations

import ipaddress
import re
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
# Clients differ in what they make of anything else: "\\", "%", white space, digits and dots that are not ASCII.
_AUTHORITY = re.compile(r"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::[0-9]{1,5})?")
_LITERAL = (ipaddress.IPv6Address("::"), ipaddress.IPv6Address("::1"))

_CREDENTIALS = "it is the address of a machine's own credentials or neighbours"


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
        if not _AUTHORITY.fullmatch(urlsplit(url).netloc):
            return "its host can be read in several ways"
    except ValueError:
        return "it is malformed"
    if host in _METADATA_NAMES:
        return _CREDENTIALS
    return next(filter(None, (_why_refused(address, inside=inside) for address in _resolve(host))), "")


def why_peer_refused(address: str, *, inside: bool) -> str:
    """Why a connection to an IP address must not be used; empty where it may. ``inside`` as for ``why_refused``."""
    return _why_refused(_meant(address), inside=inside)


def is_public(address: str) -> bool:
    """Whether an IP address is neither this machine's nor one of a private network."""
    return _meant(address).is_global


def _why_refused(address: _Address, *, inside: bool) -> str:
    if address.is_link_local or address in _METADATA_ADDRESSES:
        return _CREDENTIALS
    if address.is_unspecified or address.is_multicast:
        return "it is the address of no machine"
    return "" if inside or address.is_global else "it leads into a private network"


def _resolve(host: str) -> list[_Address]:
    try:
        # Also reads the odd forms (2852039166, 0xa9fea9fe, 169.254.43518) as connecting does.
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return []
    return [_meant(str(entry[4][0])) for entry in found]


def _meant(text: str) -> _Address:
    """The address without its zone; of an IPv6 one that stands for an IPv4 address, that one."""
    address = ipaddress.ip_address(text.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address):
        if address not in _LITERAL and any(address in network for network in _TRANSLATED):
            return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        return address.ipv4_mapped or address.sixtofour or (address.teredo or (None, None))[1] or address
    return address
