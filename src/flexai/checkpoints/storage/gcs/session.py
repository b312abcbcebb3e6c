"""How to reach Google Cloud Storage: endpoint, credentials, and one session for all buckets and threads."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

from flexai.checkpoints.storage.gcs.error_mapping import translate_failure
from flexai.checkpoints.storage.http import JUST_RENEWED, readable
from flexai.checkpoints.storage.wire import guard_session

ENDPOINT_URL = "https://storage.googleapis.com"
_SCOPES = ("https://www.googleapis.com/auth/devstorage.read_write",)


def guarded_request() -> Any:
    """What a service account's key is exchanged for a token with: it names the address that is asked itself."""
    import requests
    from google.auth.transport.requests import Request

    session = requests.Session()
    guard_session(session)
    return Request(session)


class GCSService:
    """One endpoint with one set of credentials; safe to use from many threads.

    The JSON API is spoken through Google's own authorised session. Google's storage library on top of that keeps whole
    parts in memory and tries again by rules of its own.
    """

    def __init__(
        self,
        *,
        endpoint_url: str = ENDPOINT_URL,
        service_account: Mapping[str, Any] | None = None,
        credentials: Callable[[], Any] | None = None,
        credentials_identity: str = "",
        anonymous: bool = False,
        kms_key_name: str = "",
        storage_class: str = "",
        user_project: str = "",
        ca_bundle: str = "",
        connect_timeout: float = 30.0,
        read_timeout: float = 60.0,
        connections: int = 32,
    ) -> None:
        """Describe the service; nothing is sent yet.

        Credentials are those of a service account's key file (its content), or what ``credentials`` returns (an object
        of ``google.auth.credentials.Credentials``), or the SDK's own chain (application default credentials).
        ``credentials_identity`` tells sets of credentials apart that a function gives. Objects are encrypted with the
        key ``kms_key_name`` and stored in ``storage_class``, where they are given, and requests are billed to
        ``user_project``. Timeouts are in seconds:
        ``connect_timeout`` also for each block of ``SEND_SIZE`` on its way out, which is how urllib3 has it,
        ``read_timeout`` for the silence between two bytes on their way in, and for each ``LEAST_BYTES`` of them.
        ``connections`` is how many stay open for reuse; it should be no less than the threads.
        """
        self.endpoint_url = (endpoint_url or ENDPOINT_URL).rstrip("/")
        self._service_account = service_account
        self._credentials = credentials
        self._credentials_identity = credentials_identity
        self._anonymous = anonymous
        self.kms_key_name = kms_key_name
        self.storage_class = storage_class
        self.user_project = user_project
        self.request_options = {"timeout": (connect_timeout, read_timeout), "allow_redirects": False}
        self._ca_bundle = ca_bundle
        self._connections = connections
        self._lock = threading.Lock()
        self._session: Any = None
        self._renewed_token: str | None = None
        self._renewed_at = 0.0

    @property
    def name(self) -> str:
        """How messages call it: the endpoint's host."""
        return urlsplit(self.endpoint_url).netloc.rpartition("@")[2]

    @property
    def identity(self) -> str:
        """Equal for two services exactly when the one's requests may name the other's objects."""
        return f"gcs:{self.endpoint_url}:{self._identity_of_credentials()}:{self.user_project}".rstrip(":")

    def _identity_of_credentials(self) -> str:
        if self._anonymous:
            return "anonymous"
        if self._service_account is not None:
            return f"account:{self._service_account.get('client_email', '')}"
        if self._credentials is not None:
            # Without a name for what a function gives, only itself is surely the same.
            return f"function:{self._credentials_identity or id(self._credentials)}"
        return "chain"

    @property
    def session(self) -> Any:
        """The ``requests`` session that adds the credentials, made when it is first needed.

        Raises AccessDeniedError where there are no credentials.
        """
        with self._lock:
            if self._session is None:
                self._session = self._make_session()
            return self._session

    def new_client(self, project: str = "") -> Any:
        """A client of google-cloud-storage for this service with these credentials, for what is no transfer of ours.

        Without a project it is that of the credentials. Raises AccessDeniedError where there are no credentials.
        """
        from google.api_core.client_options import ClientOptions
        from google.auth.exceptions import GoogleAuthError
        from google.cloud.storage import Client

        options: Any = ClientOptions(api_endpoint=self.endpoint_url)
        try:
            credentials = self._load_credentials()
            client: Any = Client(project=project or None, credentials=credentials, client_options=options)
        except (GoogleAuthError, ValueError, OSError) as error:
            raise translate_failure(error, service=self.name) from error
        # It reads content as it reads documents.
        guard_session(client._http, ca_bundle=self._ca_bundle, bounds_documents=False)
        return client

    def close(self) -> None:
        """Close the connections; the next request opens new ones."""
        with self._lock:
            if self._session is not None:
                self._session.close()
            self._session = None

    def renew(self, token: str) -> bool:
        """Get a new token for one that was refused; False where the refused one has just been renewed already."""
        from google.auth.exceptions import GoogleAuthError

        session = self.session
        with self._lock:
            is_new = token == self._renewed_token and time.monotonic() - self._renewed_at < JUST_RENEWED
            if self._anonymous or is_new:
                return False
            if session.credentials.token == token:
                with readable(self.name):
                    try:
                        session.credentials.refresh(self._token_request())
                    except GoogleAuthError as error:
                        raise translate_failure(error, service=self.name) from error
                self._renewed_token, self._renewed_at = session.credentials.token, time.monotonic()
            return True

    def _make_session(self) -> Any:
        from google.auth.exceptions import GoogleAuthError
        from google.auth.transport import requests as transport

        make: Any = transport.AuthorizedSession
        try:
            # Its own second try would send the rest of a body, which is nothing, as if it were the whole.
            session = make(
                self._load_credentials(),
                refresh_status_codes=(),
                max_refresh_attempts=0,
                auth_request=self._token_request(),
            )
        except (GoogleAuthError, ValueError) as error:
            raise translate_failure(error, service=self.name) from error
        guard_session(session, ca_bundle=self._ca_bundle, connections=self._connections)
        # Only gzip is unpacked here; requests asks for all that it knows otherwise.
        session.headers["Accept-Encoding"] = "gzip"
        return session

    def _token_request(self) -> Any:
        """What credentials ask for their tokens with."""
        from google.auth.transport.requests import Request

        # The chain may ask the machine's own metadata service, which is what is refused otherwise.
        return Request() if self._service_account is None else guarded_request()

    def _load_credentials(self) -> Any:
        import google.auth
        from google.auth.credentials import AnonymousCredentials
        from google.oauth2.service_account import Credentials

        anonymous: Any = AnonymousCredentials
        of_account: Any = Credentials.from_service_account_info
        if self._anonymous:
            return anonymous()
        if self._service_account is not None:
            return of_account(self._service_account, scopes=_SCOPES)
        if self._credentials is not None:
            return self._credentials()
        credentials, _ = google.auth.default(scopes=_SCOPES)
        return credentials
