"""Google Cloud Storage."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar, Self

from pydantic import Field, SecretStr, field_validator, model_validator

from flexai.checkpoints.errors import StorageError
from flexai.checkpoints.foreign_json import parse_json
from flexai.checkpoints.names import count
from flexai.checkpoints.storage.connection import RemotePath, check_bucket, split_bucket
from flexai.checkpoints.storage.endpoints import check_address
from flexai.checkpoints.storage.gcs.bucket import GCSStorage
from flexai.checkpoints.storage.gcs.error_mapping import translate_answer, translate_failure
from flexai.checkpoints.storage.gcs.session import GCSService
from flexai.checkpoints.storage.http import readable
from flexai.checkpoints.storage.protocol import BytesBody, ObjectStorage
from flexai.checkpoints.storage.retry import RetryPolicy, retrying
from flexai.connections import credentials
from flexai.connections.credentials import SavedCredentials
from flexai.connections.probes import (
    PROBE,
    AbsentError,
    ProbeFunction,
    WrongAnswerError,
    conditional_put,
    lacking,
)
from flexai.connections.provider import (
    ANONYMOUS,
    CA_BUNDLE,
    STORAGE_CLASS,
    ProviderConnection,
    Secret,
    StorageClass,
    Text,
    check_only_one,
    existing_bundle,
)

_PROJECT = re.compile(r"(?:[a-z0-9.-]+:)?[a-z][a-z0-9-]{4,61}[a-z0-9]|[0-9]{6,20}")
_KMS_KEY = re.compile(r"projects/[^/\s]+/locations/[^/\s]+/keyRings/[^/\s]+/cryptoKeys/[^/\s]+")
_CHECK_POLICY = RetryPolicy(attempts=2)


class GCSConnection(ProviderConnection):
    """Google Cloud Storage.

    Without a service account's key, application default credentials are searched where the transfer runs: a variable, a
    login by gcloud, the account of the machine or pod.
    """

    provider: ClassVar[str] = "gcs"
    credential_kinds: ClassVar[tuple[str, ...]] = (credentials.GCP,)

    project: Text = Field(
        default="",
        title="Project",
        description="The project of the buckets, to list them by; needed for nothing else.",
        examples=["my-project"],
    )
    service_account_info: Secret = Field(
        default=SecretStr(""),
        title="Service account key",
        description="The content of a service account's key file, which is a JSON document.",
    )
    credentials_block: Text = Field(
        default="",
        title="Credentials block",
        description="Instead of a key: the name of a GCP Credentials block that holds it.",
        examples=["prod"],
    )
    anonymous: bool = ANONYMOUS
    endpoint_url: Text = Field(
        default="",
        title="Endpoint",
        description="Another address than Google's, such as that of a private access point or an emulator.",
        examples=["https://storage.me-central2.rep.googleapis.com"],
    )
    ca_bundle: Text = CA_BUNDLE
    kms_key_name: Text = Field(
        default="",
        title="KMS key",
        description="The Cloud KMS key that encrypts what is stored; empty for what the bucket says.",
        examples=["projects/my-project/locations/europe-west1/keyRings/models/cryptoKeys/checkpoints"],
    )
    storage_class: StorageClass = STORAGE_CLASS
    user_project: Text = Field(
        default="",
        title="Paying project",
        description="The project that pays for what is asked, for buckets whose owners leave that to who asks.",
        examples=["my-project"],
    )

    @field_validator("service_account_info", mode="before")
    @classmethod
    def _key_is_a_text(cls, value: object) -> object:
        return json.dumps(value) if isinstance(value, Mapping) else value

    @field_validator("service_account_info")
    @classmethod
    def _key_is_a_service_accounts(cls, value: SecretStr) -> SecretStr:
        if value.get_secret_value():
            credentials.parse_service_account(value.get_secret_value())
        return value

    @field_validator("kms_key_name")
    @classmethod
    def _key_is_a_kms_key(cls, value: str) -> str:
        if value and not _KMS_KEY.fullmatch(value):
            raise ValueError("a KMS key is projects/PROJECT/locations/LOCATION/keyRings/RING/cryptoKeys/KEY")
        return value

    @field_validator("project", "user_project")
    @classmethod
    def _project_is_an_id(cls, value: str) -> str:
        if value and not _PROJECT.fullmatch(value):
            raise ValueError("a project is given by its ID, such as my-project")
        return value

    @model_validator(mode="after")
    def _one_source_of_credentials(self) -> Self:
        if self.user_project and self.anonymous:
            raise ValueError("who pays for requests has to say who it is: user_project needs credentials")
        check_only_one(
            {
                "a service account's key": self.service_account_info.get_secret_value(),
                "a credentials block": self.credentials_block,
                "anonymous access": self.anonymous,
            }
        )
        return self

    @property
    def location(self) -> str:
        """The endpoint, or GCS and the project."""
        return self.endpoint_url or (f"GCS, project {self.project}" if self.project else "GCS")

    def verify(self) -> None:
        """Look up where the endpoint leads, and where the key's tokens come from."""
        if self.endpoint_url:
            check_address(self.endpoint_url)
        if key := self._key():
            check_address(key["token_uri"])

    def open(self, path: str) -> RemotePath:
        """Open a bucket; nothing is sent yet."""
        bucket, key = split_bucket(path)
        check_bucket(bucket)
        self.verify()
        return RemotePath(GCSStorage(self.service(), bucket), key)

    def service(self) -> GCSService:
        """The service with these credentials."""
        names = ("anonymous", "kms_key_name", "storage_class", "user_project")
        options: dict[str, Any] = {name: getattr(self, name) for name in names}
        if self.credentials_block:
            saved = self._saved_credentials()
            options |= {
                "credentials": partial(credentials.saved_google_credentials, saved),
                "credentials_identity": saved.identity,
            }
        elif key := self._key():
            options["service_account"] = key
        return GCSService(endpoint_url=self.endpoint_url, ca_bundle=existing_bundle(self.ca_bundle), **options)

    def get_client(self) -> Any:
        """A client of google-cloud-storage with this endpoint and these credentials, for your own flow.

        Raises what ``GCSService.new_client`` raises.
        """
        self.verify()
        return self.service().new_client(self.project)

    def abilities(self) -> Mapping[str, ProbeFunction]:
        """What object stores may have beyond, and Google's has or has not."""
        return {
            "conditional put": conditional_put,
            "part copy": lacking("rewriting copies objects of any size"),
            "delete many": lacking("several are deleted at a time, each by its request"),
            "metadata": _metadata,
            "checksums": _checksums,
        }

    def reach(self) -> str:
        """Ask for the project's buckets."""
        self.verify()
        service = self.service()
        try:
            return retrying(lambda: self._ask_for_buckets(service), _CHECK_POLICY)
        finally:
            service.close()

    def _ask_for_buckets(self, service: GCSService) -> str:
        from google.auth.exceptions import GoogleAuthError
        from requests.exceptions import RequestException

        project = self.project or (self._key() or {}).get("project_id", "")
        if not project and self.credentials_block:
            info, project = credentials.read_service_account(self._saved_credentials())
            project = project or str((info or {}).get("project_id", ""))
        with readable(service.name):
            try:
                answer = service.session.get(
                    f"{service.endpoint_url}/storage/v1/b",
                    params={"project": project} | ({"userProject": self.user_project} if self.user_project else {}),
                    **service.request_options,
                )
                text = answer.content
            except (GoogleAuthError, RequestException) as error:
                raise translate_failure(error, service=service.name) from error
        try:
            document = parse_json(text) if text else {}
            if not isinstance(document, dict):
                raise ValueError("it is no JSON object")
        except ValueError:
            raise StorageError(
                f"{service.name} answers, but not like GCS ({answer.status_code})", hint="check the endpoint"
            ) from None
        if answer.status_code == 200:
            items = document.get("items")
            found = len(items) if isinstance(items, list) else 0
            return f"{service.name} has {count(found, 'bucket')} in project {project}"
        # What is refused here is the list alone: who may read a bucket need not be allowed to list them all.
        if answer.status_code == 400 and not project:
            return f"{service.name} answers; its buckets are not listed, because no project is given"
        if answer.status_code == 403:
            return f"{service.name} answers; these credentials may not list its buckets (storage.buckets.list)"
        if answer.status_code == 401 and self.anonymous:
            return f"{service.name} answers; its buckets cannot be listed without credentials"
        raise translate_answer(
            answer.status_code,
            answer.headers,
            document,
            service=service.name,
            permission="storage.buckets.list",
            bucket=f"project {project}",
            key="",
        )

    def _saved_credentials(self) -> SavedCredentials:
        return SavedCredentials(self.credentials_block, self.credential_kinds, self.read_blocks)

    def _key(self) -> Mapping[str, Any] | None:
        text = self.service_account_info.get_secret_value()
        return credentials.parse_service_account(text) if text else None


def _checksums(storage: ObjectStorage, prefix: str) -> str:
    import google_crc32c

    storage.put(prefix + "checksums", BytesBody(PROBE))
    kept = storage.head(prefix + "checksums").checksums or {}
    right = {
        "crc32c": f"{google_crc32c.value(PROBE):08x}",
        "md5": hashlib.md5(PROBE, usedforsecurity=False).hexdigest(),
    }
    if not kept:
        raise AbsentError("no checksum of an object is kept")
    if wrong := [name for name, value in kept.items() if right.get(name, value) != value]:
        raise WrongAnswerError(f"another {wrong[0]} is kept than that of what was sent")
    return f"{' and '.join(sorted(kept))} of an object are kept"


def _metadata(storage: ObjectStorage, prefix: str) -> str:
    """Those of an object that was put together, by which a push that was cut off knows its own."""
    if not isinstance(storage, GCSStorage):
        raise TypeError("this probe is for GCS")
    key, part = prefix + "metadata", BytesBody(PROBE)
    upload_id = storage.start_upload(key, size=part.size)
    receipt = storage.put_part(key, upload_id, number=1, offset=0, body=part)
    storage.complete_upload(key, upload_id, [receipt])
    if not storage.is_composed_of(key, upload_id):
        raise AbsentError("metadata of an object is lost")
    return "metadata of an object is kept"
