"""The endpoint of a storage provider, checked before any request, and with it any secret, goes there.

People paste endpoints from dashboards, and a user who may save a connection could point one at the machine's own
neighbours: clouds hand out the credentials of the machine that asks at link-local and a few well-known addresses. So an
endpoint is an http(s) address of a host and a port and nothing else, and it leads to none of those addresses, however
they are written.

No client of ours follows a redirect by itself: those of S3 and GCS take it for an answer, and the Hub's looks at each.
"""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import urlsplit

from flexai.checkpoints.errors import UsageError
from flexai.checkpoints.storage.addresses import why_refused

HINT = "write it as https://HOST or https://HOST:PORT"

_MAX_LENGTH = 2000
_SAYABLE = re.compile(r"[!-~]+")
_HOST_AND_PORT = re.compile(r"(?:\[[0-9A-Fa-f:.]+\]|[^\[\]:]+)(?::[0-9]{1,5})?")
_LABEL = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)")
# What the resolver takes for a number: decimal, octal or hexadecimal, of one to four parts.
_NUMBER = re.compile(r"(?:0x[0-9a-f]*|[0-9]+)")
_SEGMENT = re.compile(r"(?!\.{1,2}(?:/|$))[A-Za-z0-9._~-]+")
_DEFAULT_PORTS = {"http": 80, "https": 443}


def check_endpoint(text: str, *, allow_path: bool = False) -> str:
    """Return an endpoint in its usual form: lower case, without a final ``/`` or the scheme's own port.

    ``allow_path`` is for services that live below a path of their host. Nothing is looked up: see
    :func:`check_address`. Private networks are allowed, which is where MinIO mostly is.

    Raises UsageError, without quoting the text, which may hold a password.
    """
    text = text.strip()
    if len(text) > _MAX_LENGTH or not _SAYABLE.fullmatch(text) or any(mark in text for mark in '\\"<>^`{|}'):
        raise _refuse("it is no address: it is empty, too long, or has characters that no address has")
    try:
        parts = urlsplit(text)
        scheme, host, port = parts.scheme, parts.hostname or "", parts.port
    except ValueError:
        raise _refuse("it is malformed") from None
    if scheme not in _DEFAULT_PORTS or not text.lower().startswith(f"{scheme}://"):
        raise _refuse("it does not begin with https:// or http://")
    if "@" in text:
        raise _refuse("it has a user name or password in it")
    if "?" in text or "#" in text:
        raise _refuse("it has a query or a fragment")
    # Python's parser takes "[::1]elsewhere" for "::1"; others may not.
    if port == 0 or not _HOST_AND_PORT.fullmatch(parts.netloc):
        raise _refuse("its host or port is none")
    path = parts.path.removesuffix("/").removeprefix("/")
    if parts.path.strip("/") and not allow_path:
        raise _refuse("it has a path: the bucket is part of the path that push and export are given")
    if parts.path not in {"", "/"} and not all(_SEGMENT.fullmatch(segment) for segment in path.split("/")):
        raise _refuse("its path has an empty part, '.', '..' or an escaped character")
    host = _check_host(host, is_bracketed="[" in parts.netloc)
    shown = host if port in {None, _DEFAULT_PORTS[scheme]} else f"{host}:{port}"
    endpoint = f"{scheme}://{shown}" + (f"/{path}" if path else "")
    # What is written as a number needs no looking up, and is refused as soon as it is written.
    if _is_address(host):
        check_address(endpoint)
    return endpoint


def check_address(endpoint: str) -> None:
    """Look up where an endpoint leads, and refuse the addresses where machines keep credentials.

    To be called before each use, because a name can lead elsewhere tomorrow. A name that cannot be looked up passes:
    nothing can be sent there but by a proxy. Raises UsageError.
    """
    if why := why_refused(endpoint, inside=True, encrypted=False):
        raise _refuse(why)


def _check_host(host: str, *, is_bracketed: bool) -> str:
    """The host in its usual form; UsageError where it is none, or has several readings."""
    if is_bracketed:
        try:
            return f"[{ipaddress.IPv6Address(host).compressed}]"
        except ValueError:
            raise _refuse("its host is no IPv6 address") from None
    host = host.removesuffix(".")
    labels = host.split(".")
    if len(host) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
        raise _refuse("its host is no name (write one in other letters as xn--…)")
    # Programs differ in whether 010.0.0.1 is octal, and in how many parts a number may leave out.
    if _NUMBER.fullmatch(labels[-1]):
        try:
            return str(ipaddress.IPv4Address(host))
        except ValueError:
            raise _refuse("its host is an address in an unusual form") from None
    return host


def _is_address(host: str) -> bool:
    return host.startswith("[") or bool(_NUMBER.fullmatch(host.rpartition(".")[2]))


def _refuse(why: str) -> UsageError:
    return UsageError(f"the endpoint is refused: {why}", hint=HINT)
