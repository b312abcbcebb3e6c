"""A stand-in for those who give temporary credentials: Google's token endpoint, AWS's STS and its container endpoint.

What it gives is numbered, so that a test can tell a new token from an old one, and remembered, so that a server can ask
whether a token is still good.
"""

from __future__ import annotations

import functools
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import parse_qs

from .local import LocalServer

_ROLE = """<AssumeRoleResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><AssumeRoleResult><Credentials>
<AccessKeyId>ROLE{number}</AccessKeyId><SecretAccessKey>canary-role-secret-{number}</SecretAccessKey>
<SessionToken>canary-role-token-{number}</SessionToken><Expiration>{until}</Expiration></Credentials>
<AssumedRoleUser><Arn>{role}/session</Arn><AssumedRoleId>A:session</AssumedRoleId></AssumedRoleUser>
</AssumeRoleResult></AssumeRoleResponse>"""
_REFUSED = "<ErrorResponse><Error><Code>AccessDenied</Code><Message>not this role</Message></Error></ErrorResponse>"


class TokenServer(LocalServer):
    """Gives a token to every caller, unless it ``refuses``."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.token_uri = f"{self.url}/token"
        self.lifetime = 3600
        """Seconds that what it gives is good for."""
        self.true_lifetime: float | None = None
        """Seconds after which it is not good any more, where that is not what is said."""
        self.refuses = False
        self._until: dict[str, float] = {}
        self._lock = threading.Lock()
        self.asked: list[dict[str, str]] = []
        """What was sent with each request."""

    @property
    def container_uri(self) -> str:
        """What ``AWS_CONTAINER_CREDENTIALS_FULL_URI`` should be."""
        return f"{self.url}/credentials"

    def ask(self, form: dict[str, str]) -> int:
        """Note what was sent with a request; returns the number of what is given for it."""
        with self._lock:
            self.asked.append(form)
            return len(self.asked)

    def give(self, token: str) -> str:
        """Remember a token that is given now, and until when it is good."""
        lifetime = self.lifetime if self.true_lifetime is None else self.true_lifetime
        self._until[token] = time.monotonic() + lifetime
        return token

    def knows(self, token: str) -> bool:
        """Whether it has ever given this token."""
        return token in self._until

    def is_good(self, token: str) -> bool:
        """Whether it has given this token, and not too long ago."""
        return time.monotonic() < self._until.get(token, float("-inf"))


class _Handler(BaseHTTPRequestHandler):
    server: TokenServer

    def do_GET(self) -> None:
        number = self.server.ask({"path": self.path})
        if self.path != "/credentials" or self.server.refuses:
            self._answer(403, _REFUSED)
            return
        until = datetime.now(UTC) + timedelta(seconds=self.server.lifetime)
        document = {
            "AccessKeyId": f"CONTAINER{number}",
            "SecretAccessKey": container_secret(f"CONTAINER{number}"),
            "Token": self.server.give(f"canary-container-token-{number}"),
            "Expiration": until.isoformat(),
        }
        self._answer(200, json.dumps(document))

    def do_POST(self) -> None:
        length = int(self.headers.get("Content-Length", 0))
        form = {name: values[0] for name, values in parse_qs(self.rfile.read(length).decode()).items()}
        number = self.server.ask(form)
        if self.path == "/token":
            if self.server.refuses:
                self._answer(400, json.dumps({"error": "invalid_grant", "error_description": "Invalid signature."}))
            else:
                token = {"access_token": self.server.give(f"canary-token-{number}"), "token_type": "Bearer"}
                self._answer(200, json.dumps({**token, "expires_in": self.server.lifetime}))
        elif self.server.refuses:
            self._answer(403, _REFUSED)
        else:
            until = datetime.now(UTC) + timedelta(seconds=self.server.lifetime)
            self._answer(
                200, _ROLE.format(number=number, until=until.strftime("%Y-%m-%dT%H:%M:%SZ"), role=form.get("RoleArn"))
            )

    def _answer(self, status: int, text: str) -> None:
        content = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json" if text.startswith("{") else "text/xml")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


def container_secret(access_key_id: str) -> str:
    """The secret half of a key that the container endpoint has given."""
    return f"canary-secret-of-{access_key_id}"


@contextmanager
def serve_tokens() -> Iterator[TokenServer]:
    """Run it."""
    with TokenServer().serving() as server:
        yield server


@functools.cache
def _private_key() -> str:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()


def service_account_key(token_uri: str, **fields: Any) -> dict[str, Any]:
    """What a service account's key file holds, with a real key; ``token_uri`` is where tokens come from."""
    return {
        "type": "service_account",
        "project_id": "lab-project",
        "private_key_id": "1",
        "private_key": _private_key(),
        "client_email": "lab@lab-project.iam.gserviceaccount.com",
        "token_uri": token_uri,
        **fields,
    }
