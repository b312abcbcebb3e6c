"""Gateways that want a token which is still good, in front of servers that know nothing of tokens.

Google's kind takes a bearer token. AWS's kind takes temporary keys with their session token and compares the signature;
what it lets through it signs with the keys of the server behind it, as gateways do that hand out keys of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from .fixtures import GCSServer, S3Server
from .proxy import FaultProxy, Request
from .tokens import TokenServer, container_secret

_ALWAYS = 10**9
_EXPIRED = b"<Error><Code>ExpiredToken</Code><Message>The provided token has expired.</Message></Error>"
_UNSIGNED = b"<Error><Code>SignatureDoesNotMatch</Code><Message>It was not signed so.</Message></Error>"
_UNAUTHORIZED = b'{"error": {"code": 401, "message": "Invalid Credentials", "errors": [{"reason": "authError"}]}}'

Wait = Callable[[Request], object]


def bearer_token(request: Request) -> str:
    """The token of a request to Google."""
    return request.headers.get("authorization", "").removeprefix("Bearer ")


def session_token(request: Request) -> str:
    """The token of a request to AWS."""
    return request.headers.get("x-amz-security-token", "")


@contextmanager
def gcs_gateway(server: GCSServer, tokens: TokenServer, wait: Wait) -> Iterator[FaultProxy]:
    """Answers 401 to a token that is not good (any more)."""
    with FaultProxy(server.url, wait=wait) as proxy:
        proxy.add(
            "answer",
            strikes=lambda request: not tokens.is_good(bearer_token(request)),
            times=_ALWAYS,
            status=401,
            headers={"Content-Type": "application/json"},
            body=_UNAUTHORIZED,
        )
        yield proxy


@contextmanager
def s3_gateway(server: S3Server, tokens: TokenServer, wait: Wait) -> Iterator[FaultProxy]:
    """Answers ``ExpiredToken`` to a token that is not good (any more), and refuses a wrong signature."""
    with FaultProxy(server.url, wait=wait, sign=lambda request: sign_anew(request, server)) as proxy:
        # The status is AWS's: https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html.
        proxy.add(
            "answer",
            strikes=lambda request: not tokens.is_good(session_token(request)),
            times=_ALWAYS,
            status=400,
            body=_EXPIRED,
        )
        proxy.add("answer", strikes=lambda request: not _is_signed(request), times=_ALWAYS, status=403, body=_UNSIGNED)
        yield proxy


@contextmanager
def any_key_gateway(server: S3Server) -> Iterator[FaultProxy]:
    """Takes any key, so that a test may choose its secret, and signs with the server's own."""
    with FaultProxy(server.url, sign=lambda request: sign_anew(request, server)) as proxy:
        yield proxy


def _is_signed(request: Request) -> bool:
    """Whether a request is signed with the secret that belongs to its key."""
    fields = dict(
        part.strip().partition("=")[::2] for part in request.headers["authorization"].partition(" ")[2].split(",")
    )
    access_key_id, _, region, *_ = fields["Credential"].split("/")
    signed = fields["SignedHeaders"].split(";")
    auth = _auth(access_key_id, container_secret(access_key_id), region)
    again = _request(request, {name: request.headers[name] for name in signed if name != "host"})
    again.context["timestamp"] = request.headers["x-amz-date"]
    signature: str = auth.signature(auth.string_to_sign(again, auth.canonical_request(again)), again)
    return signature == fields["Signature"] and "x-amz-security-token" in signed


def sign_anew(request: Request, server: S3Server) -> Mapping[str, str]:
    """The headers of a request with a signature that the server behind takes."""
    headers = {name: value for name, value in request.headers.items() if name != "x-amz-security-token"}
    kept = {name: value for name, value in headers.items() if name.startswith("x-amz-") or name == "content-md5"}
    again = _request(request, kept)
    auth = _auth(server.access_key_id, server.secret_access_key, server.region)
    # What it says of its body, such as that chunks and a trailer follow, is still so.
    auth.payload = lambda _: request.headers["x-amz-content-sha256"]
    auth.add_auth(again)
    return {**headers, **{name.lower(): value for name, value in again.headers.items()}}


def _auth(access_key_id: str, secret_access_key: str, region: str) -> Any:
    from botocore.auth import S3SigV4Auth
    from botocore.credentials import Credentials

    return S3SigV4Auth(Credentials(access_key_id, secret_access_key), "s3", region)


def _request(request: Request, headers: Mapping[str, str]) -> Any:
    from botocore.awsrequest import AWSRequest

    url = f"http://{request.headers['host']}{request.target}"
    return AWSRequest(method=request.method, url=url, headers=headers, data=request.body)
