"""A Prefect API that is asked without importing Prefect, which takes two seconds.

What tells it where and how to ask is Prefect's configuration (``prefect.client.orchestration.PrefectClient``), and what
goes wrong is said in the words of ``flexai.prefect_client``.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Mapping
from typing import Any

import requests
from requests.auth import AuthBase, HTTPBasicAuth

from flexai.checkpoints.errors import AccessDeniedError, NotFoundError, SettingsError, StorageUnavailableError
from flexai.checkpoints.foreign_json import TooMuchError, parse_json, read_bounded
from flexai.prefect_server.finding import PrefectAPI, is_true, prefect_settings

_TIMEOUTS = (10.0, 60.0)
"""Seconds until it takes a connection, and between two blocks of an answer; Prefect's own client waits as long."""
_BLOCK = 64 * 1024
_NO_JSON = requests.codes.unsupported_media_type
"""Stands for an answer that is a page, or what else is no JSON."""


class _Bearer(AuthBase):
    """A key of Prefect Cloud; where it is empty, nothing at all: requests would look into ~/.netrc."""

    def __init__(self, key: str) -> None:
        self._key = key

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        if self._key:
            request.headers["Authorization"] = f"Bearer {self._key}"
        return request


def _parse_headers(text: str) -> Any:
    try:
        return parse_json(text.encode())
    except ValueError:
        # Without its text, which may hold a key.
        raise SettingsError("PREFECT_CLIENT_CUSTOM_HEADERS is no JSON object") from None


class PrefectREST:
    """A Prefect API.

    Each method raises AccessDeniedError where it refuses, StorageUnavailableError where it does not answer like one.
    Making it raises SettingsError where Prefect's settings cannot be read.
    """

    def __init__(self, api: PrefectAPI) -> None:
        settings = prefect_settings()
        self.api = api
        self._url = api.url.rstrip("/")
        self._session = requests.Session()
        headers = settings.get("PREFECT_CLIENT_CUSTOM_HEADERS")
        if isinstance(headers, str) and headers:
            headers = _parse_headers(headers)
        if isinstance(headers, Mapping):
            self._session.headers.update({str(name): str(value) for name, value in headers.items()})
        credential = str(settings.get("PREFECT_API_AUTH_STRING") or api.credential)
        if credential:
            user, _, password = credential.partition(":")
            self._session.auth = HTTPBasicAuth(user.encode(), password.encode())
        else:
            self._session.auth = _Bearer(str(settings.get("PREFECT_API_KEY") or ""))
        if is_true(settings.get("PREFECT_API_TLS_INSECURE_SKIP_VERIFY")):
            self._session.verify = False
        elif bundle := settings.get("PREFECT_API_SSL_CERT_FILE") or os.environ.get("SSL_CERT_FILE"):
            self._session.verify = str(bundle)
        self._may_need_token = True

    def get(self, path: str, **query: str) -> Any:
        """What is at a path. Raises NotFoundError for a thing that Prefect has not got."""
        return self._ask("GET", path, params=query)

    def post(self, path: str, document: Mapping[str, Any]) -> Any:
        """What a question is answered with that has a body. Raises NotFoundError as ``get`` does."""
        if self._may_need_token:
            self._take_token()
        return self._ask("POST", path, json=document)

    def _take_token(self) -> None:
        """Some servers take nothing but with a token, which shows that a request is no page's."""
        self._may_need_token = False
        client = str(uuid.uuid4())
        status, found = self._answer("GET", "/csrf-token", params={"client": client})
        if status == requests.codes.ok and isinstance(found, dict):
            self._session.headers["Prefect-Csrf-Client"] = client
            self._session.headers["Prefect-Csrf-Token"] = str(found.get("token"))

    def _ask(self, method: str, path: str, **options: Any) -> Any:
        status, found = self._answer(method, path, **options)
        if status in {requests.codes.unauthorized, requests.codes.forbidden}:
            raise AccessDeniedError(
                f"the Prefect API refused the request ({status})",
                hint="check PREFECT_API_AUTH_STRING or PREFECT_API_KEY",
            )
        # An address that is no API's answers 404 as well, in other words.
        if status == requests.codes.not_found and isinstance(found, dict) and found.get("detail") != "Not Found":
            raise NotFoundError(f"{path} is not there")
        if status not in {requests.codes.ok, requests.codes.created}:
            raise StorageUnavailableError(f"the Prefect API failed ({status})", hint="see the server's log")
        return found

    def _answer(self, method: str, path: str, **options: Any) -> tuple[int, Any]:
        try:
            with self._session.request(
                method, f"{self._url}{path}", stream=True, allow_redirects=False, timeout=_TIMEOUTS, **options
            ) as answer:
                body = read_bounded(answer.iter_content(_BLOCK))
                status = answer.status_code
        except requests.RequestException as error:
            raise StorageUnavailableError(
                f"the Prefect API at {self.api.shown} does not answer",
                hint="start it (prefect server start) or correct PREFECT_API_URL",
            ) from error
        except TooMuchError:
            return _NO_JSON, None
        try:
            return status, parse_json(body) if body else None
        except ValueError:
            return (status if status >= requests.codes.bad_request else _NO_JSON), None
