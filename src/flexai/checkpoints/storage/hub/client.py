"""HTTP as the Hugging Face Hub needs it: the token goes to the Hub alone, redirects are followed by hand.

The Hub answers a request for a large file with a signed address on another host. Who has that address has the file, so
it is treated as a secret: no error and no log line has it.
"""

from __future__ import annotations

import contextlib
import logging
import re
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias
from urllib.parse import urljoin

from flexai import __version__
from flexai.checkpoints.errors import CheckpointError, SettingsError, StorageError, StorageUnavailableError, UsageError
from flexai.checkpoints.foreign_json import parse_json
from flexai.checkpoints.storage.addresses import is_inside, is_public, origin_of, why_peer_refused, why_refused
from flexai.checkpoints.storage.connection import SecretText
from flexai.checkpoints.storage.http import parse_size
from flexai.checkpoints.storage.wire import MAX_ANSWER, guard_session

if TYPE_CHECKING:
    from requests import PreparedRequest, Response

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_MAX_REDIRECTS = 5
_MAX_DRAINED = 64 * 1024
_TOKEN = re.compile(r"[\x21-\x7e]+")
_SIGNED = re.compile(r"\?.*(?:signature|sig|token|policy)=.*", re.IGNORECASE)


Token: TypeAlias = Callable[[], str] | SecretText | None


@dataclass(frozen=True, slots=True)
class Location:
    """Where content can be had, and what the Hub said of it on the way."""

    url: str
    said: Mapping[str, str]

    def __repr__(self) -> str:
        return "Location(…)"


class HubClient:
    """Requests to one hub, from many threads."""

    def __init__(
        self,
        endpoint: str,
        token: Token,
        *,
        connections: int,
        connect_timeout: float,
        read_timeout: float,
    ) -> None:
        """Up to ``connections`` are kept open; timeouts in seconds. Raises UsageError for an endpoint that is none."""
        import requests

        self.endpoint = endpoint.rstrip("/")
        self.has_token = token is not None
        self._token = token
        self._origin = _check_endpoint(self.endpoint)
        self._lock = threading.Lock()
        self._inside: bool | None = None
        """Whether the hub itself is in a private network, or on this machine; None while that is not known."""
        self._outside: set[str] = set()
        """Hosts that are not, or that one of those has named."""
        self._timeout = (connect_timeout, read_timeout)
        self._session = requests.Session()
        judge: Any = weakref.WeakMethod(self._judge_peer)

        # Connections lead to their judge, and urllib3 keeps those of a pool in a registry until the pool is no longer
        # needed: a judge that leads to the pool would keep them open for ever.
        def judge_peer(host: str, address: str) -> str:
            return str(judge()(host, address))

        guard_session(self._session, judge_peer, connections=connections)
        self._session.headers["User-Agent"] = f"flexai-checkpoints/{__version__}"
        # Compressed, content has no ranges: https://github.com/huggingface/huggingface_hub/pull/3885.
        self._session.headers["Accept-Encoding"] = "identity"
        _hide_signatures()

    def read_document(self, path: str, params: Mapping[str, str]) -> tuple[Any, Response]:
        """A JSON document below the endpoint; an answer other than 200 is the caller's to judge and has none."""
        url = f"{self.endpoint}{path}"
        with contextlib.closing(self._follow(url, params=params)) as response:
            if response.status_code != 200:
                return None, response
            with self._errors(url):
                content = response.content
        try:
            return parse_json(content, limit=MAX_ANSWER), response
        except ValueError as error:
            raise StorageError(f"{self.endpoint} answered with something that cannot be read: {error}") from error

    def locate(self, path: str) -> tuple[Location | None, Response]:
        """Where the content at a path below the endpoint lies; None where the Hub does not answer with a place.

        A range is not asked for, because the address could be signed for that one.
        """
        from requests.structures import CaseInsensitiveDict

        said: CaseInsensitiveDict[str] = CaseInsensitiveDict()
        url = f"{self.endpoint}{path}"
        for _ in range(_MAX_REDIRECTS):
            response = self._send(url, {})
            # The first answer that says something counts: those behind it speak of themselves.
            said = CaseInsensitiveDict({**response.headers, **said})
            with contextlib.closing(response):
                if response.status_code not in _REDIRECTS:
                    return (Location(url, said) if response.status_code == 200 else None), response
                url = self._target(url, response)
                if not self.is_own(url):
                    return Location(url, said), response
        raise self._too_many()

    def open(self, url: str, start: int, end: int) -> Response:
        """Ask for the bytes from ``start`` up to ``end``; the caller judges the answer and closes it."""
        return self._follow(url, headers={"Range": f"bytes={start}-{end - 1}"})

    def is_own(self, url: str) -> bool:
        """Whether an address is the hub's own, where the token may go."""
        try:
            return origin_of(url) == self._origin
        except ValueError:
            return False

    def blocks(self, response: Response, size: int) -> Iterator[bytes]:
        """The content of an answer in blocks of up to ``size`` bytes; StorageUnavailableError where it breaks off."""
        while True:
            with self._errors(response.url):
                block = response.raw.read(size, decode_content=False)
            if not block:
                return
            yield block

    def _follow(
        self, url: str, *, params: Mapping[str, str] | None = None, headers: Mapping[str, str] | None = None
    ) -> Response:
        for _ in range(_MAX_REDIRECTS):
            response = self._send(url, headers or {}, params)
            if response.status_code not in _REDIRECTS:
                return response
            with contextlib.closing(response):
                url, params = self._target(url, response), None
        raise self._too_many()

    def _target(self, url: str, response: Response) -> str:
        """Where a redirect leads; StorageError where we do not go."""
        with self._errors(url), contextlib.suppress(KeyError, ValueError):
            if (length := parse_size(response.headers["Content-Length"])) <= _MAX_DRAINED:
                response.raw.read(length, decode_content=False)  # then the connection is used again
        try:
            given = urljoin(url, response.headers["Location"])
            target = _as_requested(given)
        except (KeyError, ValueError):
            raise StorageError(f"{self.endpoint} redirects to nowhere") from None
        # A host in a private network is named by one that is in there itself, if at all.
        with self._lock:
            if self._inside is None:
                self._inside = is_inside(self.endpoint)
            inside = self._inside and origin_of(url)[1] not in self._outside
        for one in (given, target):
            if self.is_own(one):
                continue
            if why := why_refused(one, inside=inside, encrypted=self._origin[0] == "https"):
                raise StorageError(f"{self.endpoint} redirects to an address that is refused: {why}")
            if not inside:
                self._outside.add(origin_of(one)[1])
        return target

    def _judge_peer(self, host: str, address: str) -> str:
        """Why a connection is refused, by the address that it has come to."""
        is_outside = is_public(address)
        with self._lock:
            if host == self._origin[1]:
                # A hub that was outside once has no business inside: its name was made to mean another machine.
                may_be_inside = self._inside is not False
                self._inside = may_be_inside and not is_outside
            else:
                may_be_inside = self._inside is True and host not in self._outside
                if is_outside:
                    self._outside.add(host)
        return why_peer_refused(address, inside=is_outside or may_be_inside)

    def _too_many(self) -> StorageError:
        return StorageError(f"{self.endpoint} redirects more than {_MAX_REDIRECTS} times")

    def _send(self, url: str, headers: Mapping[str, str], params: Mapping[str, str] | None = None) -> Response:
        with self._errors(url):
            return self._session.get(
                url,
                params=params,
                headers=headers,
                auth=self._authorize,
                allow_redirects=False,
                stream=True,
                timeout=self._timeout,
            )

    def _authorize(self, request: PreparedRequest) -> PreparedRequest:
        """Add the token to a request to the hub itself; its being there also keeps requests from reading .netrc."""
        if self._token is not None and request.url is not None and self.is_own(request.url):
            token = self._token() if callable(self._token) else self._token.get_secret_value()
            if not _TOKEN.fullmatch(token.strip()):
                raise SettingsError(
                    "the connection's token is empty or has characters that no token has",
                    hint="save the connection again with the token that huggingface.co/settings/tokens shows",
                )
            request.headers["Authorization"] = f"Bearer {token.strip()}"
        return request

    @contextlib.contextmanager
    def _errors(self, url: str) -> Iterator[None]:
        """Say in our words what goes wrong on the way, without the address, which the library's own words quote."""
        import requests
        import urllib3

        failure: CheckpointError
        try:
            yield
            return
        except requests.exceptions.SSLError:
            failure = StorageError(
                f"{_host(url)} cannot be trusted: its certificate is not valid here",
                hint="behind a proxy with a certificate of its own, set REQUESTS_CA_BUNDLE",
            )
        except requests.exceptions.ProxyError:
            failure = StorageUnavailableError(f"the proxy to {_host(url)} does not answer")
        except (requests.exceptions.Timeout, urllib3.exceptions.TimeoutError):
            failure = StorageUnavailableError(f"{_host(url)} did not answer in time")
        except (
            requests.exceptions.ConnectionError,
            requests.exceptions.ChunkedEncodingError,
            urllib3.exceptions.HTTPError,
            OSError,
        ):
            failure = StorageUnavailableError(f"the connection to {_host(url)} failed or broke off")
        except (requests.exceptions.RequestException, ValueError):
            failure = StorageError(f"{_host(url)} cannot be asked, or answered with something that is no HTTP")
        # Raised out here, so that the library's error, which has the address, is not chained to it.
        raise failure


def _as_requested(url: str) -> str:
    """The address as requests asks for it; ValueError where it cannot."""
    import requests

    request = requests.PreparedRequest()
    request.prepare_url(url, None)
    return request.url or ""


def _check_endpoint(endpoint: str) -> tuple[str, str, int]:
    try:
        origin = origin_of(endpoint)
    except ValueError:
        origin = ("", "", 0)
    if origin[0] not in {"http", "https"} or not origin[1] or any(mark in endpoint for mark in "@?#"):
        raise UsageError(
            "the endpoint of a Hugging Face connection is an http(s) address without user, query or fragment",
            hint="leave it out for https://huggingface.co",
        )
    return origin


def _host(url: str) -> str:
    try:
        return origin_of(url)[1] or "the server"
    except ValueError:
        return "the server"


class _SignatureFilter(logging.Filter):
    """Cuts signed queries out of urllib3's own log lines, which quote the addresses that it asks for."""

    def filter(self, record: logging.LogRecord) -> bool:
        if isinstance(record.args, tuple):
            record.args = tuple(_SIGNED.sub("?…", one) if isinstance(one, str) else one for one in record.args)
        return True


_FILTER = _SignatureFilter()


def _hide_signatures() -> None:
    logging.getLogger("urllib3.connectionpool").addFilter(_FILTER)  # adding it twice does nothing
