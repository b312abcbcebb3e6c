"""The Hugging Face Hub as a storage provider: where many base models come from."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, Literal, Self

from pydantic import Field, SecretStr, field_validator, model_validator

from flexai.checkpoints.errors import AccessDeniedError, CheckpointError, StorageUnavailableError
from flexai.checkpoints.storage.connection import RemotePath
from flexai.checkpoints.storage.endpoints import check_address
from flexai.checkpoints.storage.hub.client import HubClient
from flexai.checkpoints.storage.hub.repo_paths import parse_hub_path
from flexai.checkpoints.storage.hub.repository import DEFAULT_ENDPOINT, HubStorage
from flexai.checkpoints.storage.retry import RetryPolicy, retrying
from flexai.connections import credentials
from flexai.connections.credentials import SavedCredentials, saved_token
from flexai.connections.probes import Probe, ProbeOutcome, not_tried, reading, try_one
from flexai.connections.provider import ProviderConnection, Secret, Text, check_only_one, endpoint_field


class HuggingFaceConnection(ProviderConnection):
    """The Hugging Face Hub, or a mirror of it. Checkpoints can be pushed from it, not exported to it.

    Its paths are `ORG/REPO[@REVISION][/FOLDER-or-FILE]`. Public repositories need no token; gated and private ones need
    one that may read them.
    """

    provider: ClassVar[str] = "huggingface"
    credential_kinds: ClassVar[tuple[str, ...]] = (credentials.SECRET,)

    token: Secret = Field(
        default=SecretStr(""),
        title="Token",
        description="An access token from huggingface.co/settings/tokens that may read the repositories.",
    )
    credentials_block: Text = Field(
        default="",
        title="Secret block",
        description="Instead of a token: the name of a Secret block that holds it.",
        examples=["hf-token"],
    )
    endpoint_url: Text = Field(
        default=DEFAULT_ENDPOINT,
        title="Endpoint",
        description="The Hub's address, or that of a mirror which speaks its language.",
        examples=[DEFAULT_ENDPOINT],
    )
    repo_type: Literal["model", "dataset", "space"] = Field(
        default="model", title="Type of repositories", description="What the paths name: models, datasets or spaces."
    )

    @field_validator("endpoint_url")
    @classmethod
    def _endpoint_is_an_address(cls, value: str) -> str:
        return endpoint_field(value, allow_path=True) or DEFAULT_ENDPOINT

    @model_validator(mode="after")
    def _one_source_of_credentials(self) -> Self:
        check_only_one({"a token": self.token.get_secret_value(), "the name of a Secret block": self.credentials_block})
        return self

    @property
    def location(self) -> str:
        """The endpoint."""
        return self.endpoint_url

    def verify(self) -> None:
        """Look up where the endpoint leads."""
        check_address(self.endpoint_url)

    def open(self, path: str) -> RemotePath:
        """Open a repository at the commit that its revision is now.

        Raises UsageError for a path that is none, NotFoundError for a repository or revision that is not there or that
        the token may not see, AccessDeniedError for one that is gated and for a token that is refused.
        """
        repo, revision, key = parse_hub_path(path)
        self.verify()
        storage = HubStorage(
            repo,
            revision=revision,
            endpoint=self.endpoint_url,
            token=self._token(),
            repo_type=self.repo_type,
        )
        return RemotePath(storage, key, revision=storage.commit)

    def reach(self) -> str:
        """Ask whose token it is, or without one for anything."""
        self.verify()
        token = self._token()
        client = HubClient(self.endpoint_url, token, connections=1, connect_timeout=10.0, read_timeout=30.0)
        path = "/api/whoami-v2" if token else "/api/models"
        document, response = retrying(
            lambda: client.read_document(path, {} if token else {"limit": "1"}), RetryPolicy(attempts=2)
        )
        if response.status_code in {401, 403}:
            raise AccessDeniedError(
                f"{self.endpoint_url} refused {'the token' if token else 'to answer without a token'}",
                hint="save the connection again with the token that huggingface.co/settings/tokens shows",
            )
        if response.status_code >= 500:
            raise StorageUnavailableError(f"{self.endpoint_url} failed ({response.status_code})")
        name = document.get("name") if token and isinstance(document, dict) else None
        whose = f", the token is {name}'s" if name else "" if token else ", no token is used"
        return f"{self.endpoint_url} answers{whose}"

    def check(self, path: str = "") -> list[Probe]:
        """Try out whether the Hub answers; with a path, whether what is there can be read. Nothing can be written."""
        try:
            found = [Probe("reach", ProbeOutcome.PASSED, self.reach())]
            if not path:
                return found
            place = self.open(path)
        except CheckpointError as error:
            failed = Probe("reach", ProbeOutcome.FAILED, error.message, denied=isinstance(error, AccessDeniedError))
            return [failed, *(not_tried() if path else [])]
        tried = {name: try_one(name, probe, place) for name, probe in reading(place.key).items()}
        return found + [
            tried.get(probe.name, Probe(probe.name, ProbeOutcome.ABSENT, "repositories are only read"))
            for probe in not_tried()
        ]

    def _token(self) -> Callable[[], str] | SecretStr | None:
        if self.credentials_block:
            return saved_token(SavedCredentials(self.credentials_block, self.credential_kinds, self.read_blocks))
        return self.token if self.token.get_secret_value() else None
