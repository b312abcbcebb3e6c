"""AWS S3, and services that speak its language: Cloudflare R2, MinIO, and whatever has an endpoint of its own."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import AfterValidator, Field, SecretStr, field_validator, model_validator

from flexai.checkpoints.errors import AccessDeniedError, SettingsError, UsageError
from flexai.checkpoints.names import count
from flexai.checkpoints.storage.connection import RemotePath, check_bucket, split_bucket
from flexai.checkpoints.storage.endpoints import check_address, check_endpoint
from flexai.checkpoints.storage.http import readable
from flexai.checkpoints.storage.retry import RetryPolicy, retrying
from flexai.checkpoints.storage.s3.bucket import S3Storage
from flexai.checkpoints.storage.s3.client import S3Credentials, S3Service, find_configured
from flexai.checkpoints.storage.s3.error_mapping import code_of, sdk_errors, translate
from flexai.connections import credentials
from flexai.connections.credentials import SavedAWSCredentials, SavedCredentials
from flexai.connections.probes import ProbeFunction
from flexai.connections.provider import (
    ANONYMOUS,
    CA_BUNDLE,
    STORAGE_CLASS,
    ProviderConnection,
    Secret,
    StorageClass,
    Text,
    check_only_one,
    endpoint_field,
    existing_bundle,
)

_ACCOUNT = re.compile(r"[0-9a-f]{32}")
_KMS_KEY = re.compile(r"[A-Za-z0-9:/_.-]{1,2048}")


def _check_region(value: str) -> str:
    if not re.fullmatch("[a-z0-9-]{0,64}", value):
        raise ValueError("a region is a name like eu-west-1")
    return value


Region = Annotated[Text, AfterValidator(_check_region)]
"""The name of a region; empty for none."""
# A user waits for the check and wants to know soon that no service answers.
_CHECK_POLICY = RetryPolicy(attempts=2)


class _S3Connection(ProviderConnection):
    """What connections to services that speak S3 have in common. Not a block of its own."""

    access_key_id: Text = Field(
        default="",
        title="Access key ID",
        description="The public half of the key.",
        examples=["AKIAIOSFODNN7EXAMPLE"],
    )
    secret_access_key: Secret = Field(
        default=SecretStr(""), title="Secret access key", description="The secret half of the key."
    )
    session_token: Secret = Field(
        default=SecretStr(""),
        title="Session token",
        description="Only for temporary keys, which come with one.",
    )
    credentials_block: Text = Field(
        default="",
        title="Credentials block",
        description=(
            "Instead of a key: the name of an AWS Credentials or MinIO Credentials block that holds it, "
            "or TYPE/NAME where both have the name."
        ),
        examples=["prod", "aws-credentials/prod"],
    )
    ca_bundle: Text = CA_BUNDLE
    storage_class: StorageClass = STORAGE_CLASS

    credential_kinds: ClassVar[tuple[str, ...]] = (credentials.AWS, credentials.MINIO)
    needs_credentials: ClassVar[bool] = True

    @model_validator(mode="after")
    def _credentials_fit_together(self) -> Self:
        key, secret = bool(self.access_key_id), bool(self.secret_access_key.get_secret_value())
        if key != secret:
            raise ValueError(
                f"an access key has two halves, and the {'secret' if key else 'public'} one is missing: "
                f"{'secret_access_key' if key else 'access_key_id'}"
            )
        if self.session_token.get_secret_value() and not key:
            raise ValueError("a session token belongs to an access key, and there is none")
        check_only_one({"an access key": key, "a credentials block": self.credentials_block})
        if self.needs_credentials and not key and not self.credentials_block:
            raise ValueError("it needs an access key (access_key_id and secret_access_key) or a credentials block")
        return self

    @property
    @abstractmethod
    def endpoint(self) -> str:
        """Where requests go; empty for AWS."""

    @property
    def signing_region(self) -> str:
        """What requests are signed for; empty for what the credentials or the environment say."""
        return ""

    @property
    def location(self) -> str:
        """The endpoint."""
        return self.endpoint or "AWS"

    def verify(self) -> None:
        """Look up where the endpoint leads."""
        if endpoint := self.endpoint:
            check_address(endpoint)

    def open(self, path: str) -> RemotePath:
        """Open a bucket; nothing is sent yet."""
        bucket, key = split_bucket(path)
        check_bucket(bucket)
        self.verify()
        from flexai.connections.s3_probes import capabilities_of

        return RemotePath(S3Storage(self.service(), bucket, capabilities=capabilities_of(self.capabilities)), key)

    def service(self) -> S3Service:
        """The service with these credentials, which are asked for with each request."""
        options: dict[str, Any] = {"region": self.signing_region}
        if self.access_key_id:
            options["credentials"] = S3Credentials(
                self.access_key_id,
                self.secret_access_key.get_secret_value(),
                self.session_token.get_secret_value(),
            )
        elif self.credentials_block:
            saved = SavedAWSCredentials(
                SavedCredentials(self.credentials_block, self.credential_kinds, self.read_blocks)
            )
            saved.check_endpoint(self.endpoint)
            options |= {
                "credentials": saved,
                "credentials_identity": saved.saved.identity,
                "region": self.signing_region or saved.region,
            }
        return S3Service(
            endpoint_url=self.endpoint, ca_bundle=existing_bundle(self.ca_bundle), **(options | self._service_options())
        )

    def get_client(self) -> Any:
        """A boto3 client for S3 with this endpoint and these credentials, for whatever else your own flow does there.

        Raises what ``S3Service.new_client`` raises.
        """
        self.verify()
        return self.service().new_client()

    def _service_options(self) -> dict[str, Any]:
        return {"write_headers": {name: value for name, value in self._write_headers().items() if value}}

    def _write_headers(self) -> dict[str, str]:
        """What is sent with each request that makes an object, where it is not empty."""
        return {"x-amz-storage-class": self.storage_class}

    def abilities(self) -> Mapping[str, ProbeFunction]:
        """What services that speak S3 differ in."""
        from flexai.connections.s3_probes import s3_abilities

        return s3_abilities()

    def reach(self) -> str:
        """Ask for the buckets."""
        self.verify()
        service = self.service()
        try:
            buckets = retrying(lambda: self._count_buckets(service), _CHECK_POLICY)
        except AccessDeniedError as error:
            # Keys for one bucket alone may not list them, which is all that this code means.
            if code_of(error.__cause__) != "AccessDenied":
                raise
            return f"{service.name} answers; these credentials may not list its buckets (s3:ListAllMyBuckets)"
        finally:
            service.close()
        return f"{service.name} has {count(buckets, 'bucket')}"

    def _count_buckets(self, service: S3Service) -> int:
        try:
            with readable(service.name):
                return len(service.client.list_buckets().get("Buckets", ()))
        except sdk_errors() as error:
            raise translate(error, service=service.name, operation="s3:ListAllMyBuckets") from error


class _AddressedConnection(_S3Connection):
    """What connections have in common whose endpoint is given. Not a block of its own."""

    addressing_style: Literal["auto", "path", "virtual"] = Field(
        default="auto",
        title="Addressing style",
        description=(
            "Whether the bucket is part of the path or of the host's name (virtual); auto means the name for AWS "
            "and the path elsewhere."
        ),
    )

    sse: Literal["", "AES256", "aws:kms", "aws:kms:dsse"] = Field(
        default="",
        title="Encryption",
        description="How the service encrypts what is stored; empty for what the bucket says.",
    )
    kms_key_id: Text = Field(
        default="",
        title="KMS key",
        description="The key for an encryption with KMS: its ID, its ARN or an alias; empty for the service's own.",
        examples=["arn:aws:kms:eu-west-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"],
    )

    @model_validator(mode="after")
    def _key_is_of_use(self) -> Self:
        if self.kms_key_id and not self.sse.startswith("aws:kms"):
            raise ValueError("a KMS key is for an encryption with KMS: sse is aws:kms or aws:kms:dsse")
        return self

    @field_validator("kms_key_id")
    @classmethod
    def _key_is_a_name(cls, value: str) -> str:
        if value and not _KMS_KEY.fullmatch(value):
            raise ValueError("a KMS key is given by its ID, its ARN or an alias")
        return value

    def _service_options(self) -> dict[str, Any]:
        return super()._service_options() | {"addressing_style": self.addressing_style}

    def _write_headers(self) -> dict[str, str]:
        return super()._write_headers() | {
            "x-amz-server-side-encryption": self.sse,
            "x-amz-server-side-encryption-aws-kms-key-id": self.kms_key_id,
        }


class S3Connection(_AddressedConnection):
    """AWS S3, or any other service that speaks S3, such as Wasabi, Backblaze B2, Ceph, SeaweedFS or CoreWeave.

    Without an access key, the usual places are searched where the transfer runs: environment variables, a profile, the
    role of the machine or container.
    """

    provider: ClassVar[str] = "s3"
    needs_credentials: ClassVar[bool] = False

    region: Region = Field(
        default="",
        title="Region",
        description="The region of the buckets; by default the one that the environment or profile names.",
        examples=["eu-west-1"],
    )
    endpoint_url: Text = Field(
        default="",
        title="Endpoint",
        description="The service's address where that is not AWS: https://HOST or https://HOST:PORT, without a bucket.",
        examples=["https://s3.eu-central-1.wasabisys.com"],
    )
    profile: Text = Field(
        default="",
        title="Profile",
        description=(
            "Instead of a key: a profile of ~/.aws/config, to be found wherever the connection is used. Its region and "
            "endpoint_url are used where none are given here."
        ),
        examples=["research"],
    )
    anonymous: bool = ANONYMOUS
    requester_pays: bool = Field(
        default=False,
        title="Requester pays",
        description="Pay for what is asked of buckets whose owners leave that to who asks.",
    )

    @model_validator(mode="after")
    def _one_source_of_credentials(self) -> Self:
        if self.requester_pays and self.anonymous:
            raise ValueError("who pays for requests has to say who it is: requester_pays needs credentials")
        check_only_one(
            {
                "an access key": self.access_key_id,
                "a credentials block": self.credentials_block,
                "a profile": self.profile,
                "anonymous access": self.anonymous,
            }
        )
        return self

    @property
    def endpoint(self) -> str:
        """The endpoint, or the profile's; empty for AWS.

        Raises SettingsError where the profile's is none that a connection may have.
        """
        configured = "" if self.endpoint_url or not self.profile else find_configured(self.profile)[0]
        try:
            return check_endpoint(configured) if configured else self.endpoint_url
        except UsageError as error:
            raise SettingsError(f"endpoint_url of profile {self.profile!r}: {error.message}", hint=error.hint) from None

    @property
    def signing_region(self) -> str:
        """The region, or the profile's."""
        return self.region or (find_configured(self.profile)[1] if self.profile else "")

    @property
    def location(self) -> str:
        """The endpoint, or AWS and the region."""
        return self.endpoint_url or (f"AWS {self.region}" if self.region else "AWS")

    def _service_options(self) -> dict[str, Any]:
        return super()._service_options() | {
            "profile": self.profile,
            "anonymous": self.anonymous,
            "requester_pays": self.requester_pays,
        }


class R2Connection(_S3Connection):
    """Cloudflare R2.

    An API token of R2 has an access key ID and a secret access key, which this connection needs; the token itself is
    not used. The account's ID is in the dashboard's address and in the endpoint that R2 shows.
    """

    provider: ClassVar[str] = "r2"
    credential_kinds: ClassVar[tuple[str, ...]] = (credentials.AWS,)

    account_id: Text = Field(
        title="Account ID",
        description="The Cloudflare account's ID: 32 hexadecimal digits.",
        examples=["0123456789abcdef0123456789abcdef"],
    )
    jurisdiction: Literal["", "eu", "fedramp"] = Field(
        default="",
        title="Jurisdiction",
        description="Where the buckets are bound to stay, if they were made so; it changes the endpoint.",
    )

    @field_validator("account_id")
    @classmethod
    def _account_is_an_id(cls, value: str) -> str:
        if not _ACCOUNT.fullmatch(value.lower()):
            raise ValueError("an account's ID is 32 hexadecimal digits, the first part of the endpoint that R2 shows")
        return value.lower()

    @property
    def endpoint(self) -> str:
        """The account's own host (https://developers.cloudflare.com/r2/api/s3/api/)."""
        place = f".{self.jurisdiction}" if self.jurisdiction else ""
        return f"https://{self.account_id}{place}.r2.cloudflarestorage.com"

    @property
    def signing_region(self) -> str:
        """R2 has one region."""
        return "auto"


class MinIOConnection(_AddressedConnection):
    """A MinIO server, or a cluster of them."""

    provider: ClassVar[str] = "minio"
    credential_kinds: ClassVar[tuple[str, ...]] = (credentials.MINIO, credentials.AWS)

    endpoint_url: Text = Field(
        title="Endpoint",
        description="The server's address: https://HOST:PORT, without a bucket.",
        examples=["https://minio.example.com:9000"],
    )
    region: Region = Field(
        default="",
        title="Region",
        description="The region that the server was given, where it was given one.",
        examples=["us-east-1"],
    )

    @field_validator("endpoint_url")
    @classmethod
    def _endpoint_is_an_address(cls, value: str) -> str:
        if not value:
            raise ValueError("the server's address is needed: https://HOST:PORT")
        return endpoint_field(value)

    @property
    def endpoint(self) -> str:
        """The server's address."""
        return self.endpoint_url

    @property
    def signing_region(self) -> str:
        """The region."""
        return self.region
