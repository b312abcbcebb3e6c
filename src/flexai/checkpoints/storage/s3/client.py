"""How to reach a service that speaks S3: endpoint, credentials, and one client for all buckets and threads."""

from __future__ import annotations

import base64
import functools
import hashlib
import logging
import os
import re
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Literal
from urllib.parse import urlsplit

from flexai.checkpoints.errors import StorageError
from flexai.checkpoints.storage.http import JUST_RENEWED, BodyReader, readable, unavailable
from flexai.checkpoints.storage.s3.checksums import announce_trailer
from flexai.checkpoints.storage.s3.error_mapping import translate
from flexai.checkpoints.storage.wire import guard_pools, judge_peer

AWS_NAME = "AWS"
DEFAULT_REGION = "us-east-1"
"""What services of one's own are signed for: MinIO and most others take it, whatever they are told."""

_WRITES = {"CopyObject", "CreateMultipartUpload", "PutObject"}
"""Calls that make an object, and so say how it is encrypted and in which class it is stored."""

_TALKATIVE_LOGGERS = ("botocore.auth", "botocore.endpoint")
"""Loggers of the SDK that tell a request's headers, session token included, when debugging is on."""

_MAX_XML = 6 * 1024**2
"""Bytes of an answer; a page of a thousand keys of 1024 bytes, each escaped, has less than 4 MiB."""
_MAX_TAGS = 100_000
"""Twice the elements; a page of a thousand objects has 12,000 at most. Each takes a hundred times its four bytes."""
_ODD_XML = re.compile(
    # Declarations of entities, which can be a million times as long as they are written.
    rb"<!DOCTYPE|"
    # Other encodings, in which nothing of this would be found.
    rb"\0|<\?xml[^>]*encoding\s*=\s*[\"'](?!utf-8[\"'])|"
    rb"<Size>(?!\s*[0-9]{1,19}\s*</Size>)",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class S3Credentials:
    """What a request is signed with. The secrets are no part of its representation."""

    access_key_id: str
    secret_access_key: str = field(repr=False)
    session_token: str = field(default="", repr=False)


def new_session(profile: str = "", *, is_ambient: bool = False) -> Any:
    """A session of the SDK's; ``is_ambient`` has its variables say where every request goes.

    Otherwise ``AWS_ENDPOINT_URL``, which mostly names a store, does not name who gives the keys of a role.
    """
    import botocore.session
    from botocore.config import Config

    session = botocore.session.Session(profile=profile or None)
    if not is_ambient and os.environ.get("AWS_ENDPOINT_URL") and not os.environ.get("AWS_ENDPOINT_URL_STS"):
        session.set_default_client_config(Config(ignore_configured_endpoint_urls=True))
    return session


def find_configured(profile: str = "", *, is_ambient: bool = False) -> tuple[str, str]:
    """The endpoint of S3 and the region that a profile names; both empty where there is no such profile here.

    ``is_ambient`` looks at the environment's variables first, in the SDK's order:
    https://docs.aws.amazon.com/sdkref/latest/guide/feature-ss-endpoints.html. Raises StorageError for a file of
    profiles that cannot be read.
    """
    from botocore.exceptions import BotoCoreError, ProfileNotFound

    variables = os.environ if is_ambient else {}
    try:
        session = new_session(profile)
        found = session.get_scoped_config()
        own = session.full_config.get("services", {}).get(found.get("services"), {}).get("s3", {})
        is_ignored = session.get_config_variable("ignore_configured_endpoint_urls")
    except ProfileNotFound:
        return "", ""
    except BotoCoreError as error:
        raise translate(error, service=AWS_NAME) from error
    endpoints = (
        variables.get("AWS_ENDPOINT_URL_S3"),
        variables.get("AWS_ENDPOINT_URL"),
        own.get("endpoint_url"),
        found.get("endpoint_url"),
    )
    region = variables.get("AWS_REGION") or variables.get("AWS_DEFAULT_REGION") or found.get("region") or ""
    return "" if is_ignored else next(filter(None, endpoints), ""), region


class S3Service:
    """One endpoint with one set of credentials; safe to use from many threads."""

    def __init__(
        self,
        *,
        endpoint_url: str = "",
        region: str = "",
        credentials: S3Credentials | Callable[[], S3Credentials] | None = None,
        credentials_identity: str = "",
        profile: str = "",
        is_ambient: bool = False,
        anonymous: bool = False,
        addressing_style: Literal["auto", "path", "virtual"] = "auto",
        write_headers: Mapping[str, str] | None = None,
        requester_pays: bool = False,
        ca_bundle: str = "",
        connect_timeout: float = 30.0,
        read_timeout: float = 60.0,
        connections: int = 32,
    ) -> None:
        """Describe the service; nothing is sent yet.

        ``credentials`` may be a function: it is asked for every request, so what it gives may expire soon.
        Where it has a method ``forget``, that is called once a session token of its was refused. None means the
        SDK's own chain (environment, profile, instance role), as ``new_session`` has it.
        ``credentials_identity`` tells sets of credentials apart that a function gives. ``write_headers`` go
        with each request that makes an object; ``requester_pays`` tells with each request that who asks pays
        for it. Timeouts are in seconds: ``connect_timeout`` also for each block of ``SEND_SIZE`` on its way
        out, which is how urllib3 has it, ``read_timeout`` for the silence between two bytes on their way in,
        and for each ``LEAST_BYTES`` of them. ``connections`` is how many stay open for reuse; it should be no
        less than the threads.
        """
        self.endpoint_url = endpoint_url.rstrip("/")
        self.region = region
        self._credentials = credentials
        self._credentials_identity = credentials_identity
        self._profile = profile
        self._is_ambient = is_ambient
        self._anonymous = anonymous
        self._addressing_style = addressing_style
        self._write_headers = write_headers or {}
        self._requester_pays = requester_pays
        self._ca_bundle = ca_bundle
        self._connect_timeout = connect_timeout
        self._read_timeout = read_timeout
        self._connections = connections
        self._lock = threading.Lock()
        self._client: Any = None
        self._chain: Any = None
        self._sent = threading.local()
        self._renewed_token = ""
        self._renewed_at = float("-inf")

    @property
    def name(self) -> str:
        """How messages call it: the endpoint's host, or AWS."""
        return urlsplit(self.endpoint_url).netloc.rpartition("@")[2] or AWS_NAME

    @property
    def identity(self) -> str:
        """Equal for two services exactly when the one's requests may name the other's objects."""
        # A copy from a bucket whose requesters pay has to say so, too.
        pays = ":requester" if self._requester_pays else ""
        return f"s3:{self.endpoint_url or AWS_NAME}:{self._identity_of_credentials()}{pays}"

    @property
    def _asks_aws(self) -> bool:
        """Whether an address of AWS may be looked up: of S3, or of who gives the keys of a role."""
        # The SDK looks for keys in the environment first, unless it is told a profile.
        has_keys = not self._profile and bool(os.environ.get("AWS_ACCESS_KEY_ID"))
        return not (self.endpoint_url and (self._credentials is not None or self._anonymous or has_keys))

    def _identity_of_credentials(self) -> str:
        if self._anonymous:
            return "anonymous"
        if isinstance(self._credentials, S3Credentials):
            return f"key:{self._credentials.access_key_id}"
        if self._credentials is not None:
            # Without a name for what a function gives, only itself is surely the same.
            return f"function:{self._credentials_identity or id(self._credentials)}"
        return f"chain:{self._profile}"

    @property
    def client(self) -> Any:
        """The boto3 client, made when it is first needed.

        Raises AccessDeniedError where there are no credentials.
        """
        with self._lock:
            if self._client is None:
                self._client = self._make_client()
            return self._client

    def renew(self, *, is_certain: bool) -> bool:
        """Whether there is another session token now than the one of this thread's last request, which was refused.

        The SDK renews what its chain found by the time of expiry that it was told; a token that expires sooner, or on
        its way, is asked for anew here. ``is_certain`` is False for a refusal that may have another reason. False also
        where the token that was refused has just been renewed.
        """
        refused: str = getattr(self._sent, "token", "")
        if self._anonymous or not refused or isinstance(self._credentials, S3Credentials):
            return False
        with self._lock:
            is_recent = time.monotonic() - self._renewed_at < JUST_RENEWED
            if is_recent and (refused == self._renewed_token or not is_certain):
                return False
            if self._current_token() == refused:
                if self._credentials is None:
                    # Other threads finish what they have in hand with the client that they have.
                    self._client = self._make_client()
                elif forget := getattr(self._credentials, "forget", None):
                    forget()
            self._renewed_token, self._renewed_at = self._current_token(), time.monotonic()
            return self._renewed_token != refused

    def _current_token(self) -> str:
        from botocore.exceptions import BotoCoreError

        if callable(self._credentials):
            return self._credentials().session_token
        with readable(self.name):
            try:
                return str(self._chain.get_frozen_credentials().token or "") if self._chain else ""
            except BotoCoreError as error:
                raise translate(error, service=self.name) from error

    def _note_token(self, request: Any, **_: Any) -> None:
        token = request.headers.get("X-Amz-Security-Token", "")
        self._sent.token = token.decode() if isinstance(token, bytes) else token

    def close(self) -> None:
        """Close the connections; the next request opens new ones."""
        with self._lock:
            if self._client is not None:
                self._client.close()
            self._client = None

    def new_client(self) -> Any:
        """A boto3 client for this service with these credentials, for what is no transfer of ours.

        It tries again by boto3's own rules. On the instances for which boto3 chooses its CRT by itself, its
        ``upload_file`` and ``download_file`` ignore the endpoint unless they are given
        ``TransferConfig(preferred_transfer_client="classic")`` (https://github.com/boto/boto3/issues/4839). Raises
        AccessDeniedError where there are no credentials.
        """
        import boto3
        from botocore.config import Config

        def create(core: Any, config: Config, **options: Any) -> Any:
            again = config.merge(Config(retries={"total_max_attempts": 5, "mode": "standard"}))
            return boto3.session.Session(botocore_session=core).client("s3", config=again, **options)

        return self._create(create)

    def _make_client(self) -> Any:
        def create(core: Any, **options: Any) -> Any:
            # The same object that the client signs with.
            self._chain = core.get_credentials() if self._credentials is None and not self._anonymous else None
            # What boto3 would make, without its transfer manager, which transfers here do not use and which takes
            # time to import.
            return core.create_client("s3", **options)

        client = self._create(create)
        client.meta.events.register("before-sign.s3", announce_trailer)
        client.meta.events.register("before-send.s3", self._note_token)
        for name in _TALKATIVE_LOGGERS:
            logging.getLogger(name).addFilter(_is_no_debugging)
        return client

    def _create(self, create: Callable[..., Any]) -> Any:
        """Have a client made of a session with these credentials, for this service."""
        from botocore.exceptions import BotoCoreError

        # Those that give keys are asked here, and the SDK reads their answers as they come.
        with readable(self.name):
            try:
                core = new_session(self._profile, is_ambient=self._is_ambient)
                core.register_component("data_loader", _data_loader(asks_aws=self._asks_aws))
                if self._credentials is not None:
                    core.register_component("credential_provider", _AskedProvider(self._credentials))
                client = create(
                    core,
                    endpoint_url=self.endpoint_url or None,
                    region_name=self.region or (DEFAULT_REGION if self.endpoint_url else None),
                    verify=self._ca_bundle or None,
                    config=self._config(),
                )
            except (BotoCoreError, ValueError) as error:
                raise translate(error, service=self.name) from error
        client.meta.events.register("before-call.s3.DeleteObjects", _digest_with_md5)
        client.meta.events.register("before-call.s3", self._add_headers)
        guard_client(client, self.name)
        return client

    def _add_headers(self, model: Any, params: dict[str, Any], **_: Any) -> None:
        if self._requester_pays:
            params["headers"]["x-amz-request-payer"] = "requester"
        if model.name in _WRITES:
            params["headers"].update(self._write_headers)
        if isinstance(params.get("body"), BodyReader):
            # To wait for leave costs a round trip for each part. A service that refuses one says so all the same, and
            # urllib3 reads that also where the connection is closed amid the body. And SeaweedFS takes a head by itself
            # for an empty object, where a client dies then.
            params["headers"].pop("Expect", None)

    def _config(self) -> Any:
        import botocore
        from botocore.config import Config

        style = self._addressing_style
        if style == "auto":
            style = "path" if self.endpoint_url else "auto"
        return Config(
            signature_version=botocore.UNSIGNED if self._anonymous else "s3v4",
            s3={
                "addressing_style": style,
                # Otherwise a body that carries no checksum is read twice, once for the SHA-256 that signs it.
                "payload_signing_enabled": False,
                "us_east_1_regional_endpoint": "regional",
            },
            # R2, B2, older MinIO and others refuse the checksums that newer SDKs send unasked, and rclone
            # answers ranges with the checksum of the whole object.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            connect_timeout=self._connect_timeout,
            read_timeout=self._read_timeout,
            max_pool_connections=self._connections,
            tcp_keepalive=True,
            retries={"total_max_attempts": 1, "mode": "standard"},
            # The variables and files of the SDK would lead elsewhere than what was checked and is shown.
            ignore_configured_endpoint_urls=True,
            user_agent_extra="flexai-checkpoints",
        )


class _AskedProvider:
    """Gives the SDK credentials that it asks for again with each request it signs."""

    def __init__(self, credentials: S3Credentials | Callable[[], S3Credentials]) -> None:
        self._credentials = credentials

    def load_credentials(self) -> Any:
        """What the SDK keeps."""
        from botocore.credentials import Credentials, ReadOnlyCredentials

        def current() -> S3Credentials:
            return self._credentials if isinstance(self._credentials, S3Credentials) else self._credentials()

        class AskedCredentials(Credentials):
            def __init__(self) -> None:
                super().__init__("", "", method="flexai")

            def get_frozen_credentials(self) -> Any:
                now = current()
                return ReadOnlyCredentials(now.access_key_id, now.secret_access_key, now.session_token or None)

        return AskedCredentials()


@functools.cache
def _data_loader(*, asks_aws: bool) -> Any:
    """The SDK's description of S3, parsed once: that is most of what making a client costs."""
    from botocore.loaders import Loader

    class QuickLoader(Loader):
        def load_data_with_path(self, name: str) -> tuple[Any, str]:
            # A megabyte about the regions of all services of AWS, two fifths of all that making a client takes.
            if name == "endpoints" and not asks_aws:
                return {"version": 3, "partitions": []}, ""
            found: tuple[Any, str] = super().load_data_with_path(name)
            return found

        def list_available_services(self, type_name: str) -> list[str]:
            # It is asked whether there is an S3. The SDK looks into the folder of every service of AWS for that, a
            # quarter of all that making a client takes.
            return [
                name for folder in self.search_paths for _, names, _ in islice(os.walk(folder), 1) for name in names
            ]

    return QuickLoader()


def guard_client(client: Any, service: str) -> None:
    """Have a client do as ``wire.py`` says, and look at each answer before the SDK parses it as a whole.

    The SDK has no public way to give it pools of one's own.
    """
    session = client._endpoint.http_session
    pools = session._pool_classes_by_scheme
    session._manager.pool_classes_by_scheme = guard_pools(pools, judge_peer)
    # Those behind proxies, which are made when they are needed.
    session._pool_classes_by_scheme = guard_pools(pools, None)
    send = session.send

    def send_and_look(request: Any) -> Any:
        answer = send(request)
        if not request.stream_output or answer.status_code >= 300:
            try:
                check_xml(answer.content, service)
            except StorageError as error:
                if answer.status_code < 500:
                    raise
                # A page of a gateway in front of the service, which is down.
                raise unavailable(f"{service} is not available ({answer.status_code})") from error
        return answer

    session.send = send_and_look


def check_xml(body: bytes, service: str) -> None:
    """Raise StorageError for an answer that is no answer of S3, and may take much more memory than it has bytes."""
    if len(body) > _MAX_XML or body.count(b"<") > _MAX_TAGS or _ODD_XML.search(body):
        raise StorageError(
            f"{service} answered with something that is no answer of S3", hint="check the connection's endpoint"
        )


def _is_no_debugging(record: logging.LogRecord) -> bool:
    return record.levelno > logging.DEBUG


def _digest_with_md5(params: dict[str, Any], **_: Any) -> None:
    """Send ``Content-MD5`` with DeleteObjects: older MinIO and its kin accept nothing else, and AWS accepts it too."""
    headers = params["headers"]
    for name in [name for name in headers if name.lower().startswith(("x-amz-checksum-", "x-amz-sdk-checksum-"))]:
        del headers[name]
    params["context"].pop("checksum", None)
    digest = hashlib.md5(params["body"], usedforsecurity=False).digest()
    headers["Content-MD5"] = base64.b64encode(digest).decode()
