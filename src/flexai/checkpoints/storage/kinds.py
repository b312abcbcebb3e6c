"""Which kinds of storage provider connections there are, and what each is made from.

``KINDS`` is the only list of them. The command line makes its options of it, connections are loaded by it, the flows'
forms offer a tab for each, and the tests go through it. It is plain data, so that a command knows its options without
importing Prefect.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class ConnectionOption:
    """An option of ``flexai storage create`` that sets a field of a connection to its value."""

    flag: str
    help: str
    """What it is, without the kinds that take it."""
    metavar: str = ""
    choices: Sequence[str] = ()
    """The only values; empty where any is one. Without any and without a ``metavar`` it is a switch."""
    path: Literal["", "file", "directory"] = ""
    """Whether it is a path, which is made absolute, and of what."""
    is_required: bool = False

    @property
    def parameter(self) -> str:
        """What the command calls it."""
        return self.flag.removeprefix("--").replace("-", "_")


@dataclass(frozen=True, kw_only=True)
class SecretOption(ConnectionOption):
    """An option that says where a secret is, never the secret itself."""

    what: str
    """How people call the secret."""
    beside: str = ""
    """The field that is of no use without it: where that is given, the secret is asked for."""
    one_word: bool = True


@dataclass(frozen=True, kw_only=True)
class ConnectionKind:
    """A kind of storage provider connection."""

    title: str
    """How people call the provider."""
    connection: str
    """Its class, ``MODULE:CLASS``."""
    block: str
    """What Prefect calls the type of the blocks that it is saved as."""
    usage: str
    """How its options are used, the most common ones."""
    options: Mapping[str, ConnectionOption]
    """By the connection's field that each sets."""
    one_of: Sequence[str] = ()
    """Fields of which one has to be given."""
    place: str = "BUCKET"
    """What a path begins with."""


_REGION = ConnectionOption(flag="--region", metavar="REGION", help="the region of the buckets.")
_ENDPOINT = ConnectionOption(flag="--endpoint-url", metavar="URL", help="another address than the provider's own.")
_ADDRESSING = ConnectionOption(
    flag="--addressing-style",
    choices=("auto", "path", "virtual"),
    help="whether the bucket is part of the path or of the host's name; auto is the path, at AWS the name.",
)
_ANONYMOUS = ConnectionOption(flag="--anonymous", help="ask without credentials.")
_CA_BUNDLE = ConnectionOption(
    flag="--ca-bundle",
    metavar="FILE",
    path="file",
    help="the certificate authorities to trust, for a server with a certificate of its own.",
)
_STORAGE_CLASS = ConnectionOption(
    flag="--storage-class", metavar="CLASS", help="the class of what is stored, where it is not the bucket's own."
)
_ENCRYPTION = {
    "sse": ConnectionOption(
        flag="--sse",
        choices=("AES256", "aws:kms", "aws:kms:dsse"),
        help="how the service encrypts what is stored, where the bucket does not say.",
    ),
    "kms_key_id": ConnectionOption(
        flag="--kms-key-id", metavar="KEY", help="the key for --sse aws:kms: an ID, an ARN or an alias."
    ),
}
_BLOCK_FLAG = "--credentials-block"


def _s3_key(blocks: str) -> dict[str, ConnectionOption]:
    """The options for the key of a service that speaks S3; some kinds of blocks may hold it."""
    return {
        "access_key_id": ConnectionOption(
            flag="--access-key-id", metavar="ID", help="the public half of the access key."
        ),
        "secret_access_key": SecretOption(
            flag="--secret-from", what="secret access key", beside="access_key_id", help="where the secret half is."
        ),
        "credentials_block": ConnectionOption(
            flag=_BLOCK_FLAG, metavar="[TYPE/]NAME", help=f"{blocks} block that holds the key."
        ),
        "ca_bundle": _CA_BUNDLE,
    }


_KEY_OR_BLOCK = ("access_key_id", "credentials_block")
_TYPED_KEY = "--access-key-id ID --secret-from SOURCE"

KINDS: Mapping[str, ConnectionKind] = {
    "s3": ConnectionKind(
        title="Amazon S3 and others",
        connection="flexai.connections.s3:S3Connection",
        block="flexai-s3-storage-provider",
        usage=f"[--region REGION] [--endpoint-url URL] [{_TYPED_KEY}]",
        options={
            "region": _REGION,
            "endpoint_url": _ENDPOINT,
            "addressing_style": _ADDRESSING,
            **_s3_key("an AWS Credentials or MinIO Credentials"),
            "profile": ConnectionOption(
                flag="--profile", metavar="NAME", help="a profile of ~/.aws/config, instead of a key."
            ),
            "anonymous": _ANONYMOUS,
            **_ENCRYPTION,
            "storage_class": _STORAGE_CLASS,
            "requester_pays": ConnectionOption(
                flag="--requester-pays", help="pay for what is asked of buckets whose owners do not."
            ),
        },
    ),
    "r2": ConnectionKind(
        title="Cloudflare R2",
        connection="flexai.connections.s3:R2Connection",
        block="flexai-r2-storage-provider",
        usage=f"--account-id ID {_TYPED_KEY}",
        options={
            "account_id": ConnectionOption(
                flag="--account-id", metavar="ID", is_required=True, help="the Cloudflare account."
            ),
            "jurisdiction": ConnectionOption(
                flag="--jurisdiction", choices=("eu", "fedramp"), help="what the buckets are bound to."
            ),
            **_s3_key("an AWS Credentials"),
            "storage_class": _STORAGE_CLASS,
        },
        one_of=_KEY_OR_BLOCK,
    ),
    "minio": ConnectionKind(
        title="MinIO",
        connection="flexai.connections.s3:MinIOConnection",
        block="flexai-minio-storage-provider",
        usage=f"--endpoint-url URL {_TYPED_KEY}",
        options={
            "endpoint_url": ConnectionOption(
                flag="--endpoint-url", metavar="URL", is_required=True, help="where the server is."
            ),
            "region": _REGION,
            "addressing_style": _ADDRESSING,
            **_s3_key("an AWS Credentials or MinIO Credentials"),
            **_ENCRYPTION,
            "storage_class": _STORAGE_CLASS,
        },
        one_of=_KEY_OR_BLOCK,
    ),
    "gcs": ConnectionKind(
        title="Google Cloud Storage",
        connection="flexai.connections.gcs:GCSConnection",
        block="flexai-gcs-storage-provider",
        usage="[--project PROJECT] [--service-account-from SOURCE | --anonymous] [--endpoint-url URL]",
        options={
            "project": ConnectionOption(flag="--project", metavar="PROJECT", help="the project of the buckets."),
            "service_account_info": SecretOption(
                flag="--service-account-from",
                what="service account's key",
                one_word=False,
                help="where the service account's key is, a JSON document.",
            ),
            "anonymous": _ANONYMOUS,
            "endpoint_url": _ENDPOINT,
            "credentials_block": ConnectionOption(
                flag=_BLOCK_FLAG, metavar="[TYPE/]NAME", help="a GCP Credentials block that holds the key."
            ),
            "kms_key_name": ConnectionOption(
                flag="--kms-key-name", metavar="KEY", help="the Cloud KMS key that encrypts what is stored."
            ),
            "storage_class": _STORAGE_CLASS,
            "user_project": ConnectionOption(
                flag="--user-project", metavar="PROJECT", help="the project that pays for what is asked."
            ),
            "ca_bundle": _CA_BUNDLE,
        },
    ),
    "huggingface": ConnectionKind(
        title="Hugging Face",
        connection="flexai.connections.huggingface:HuggingFaceConnection",
        block="flexai-hugging-face-storage-provider",
        usage="[--token-from SOURCE] [--endpoint-url URL]",
        options={
            "token": SecretOption(flag="--token-from", what="token", help="where the access token is."),
            "endpoint_url": _ENDPOINT,
            "repo_type": ConnectionOption(
                flag="--repo-type",
                choices=("model", "dataset", "space"),
                help="what its paths name; models by default.",
            ),
            "credentials_block": ConnectionOption(
                flag=_BLOCK_FLAG, metavar="[TYPE/]NAME", help="a Secret block that holds the token."
            ),
        },
        place="ORG/REPO",
    ),
    "local": ConnectionKind(
        title="Directory",
        connection="flexai.connections.local:LocalConnection",
        block="flexai-local-storage-provider",
        usage="--root DIRECTORY",
        options={
            "root": ConnectionOption(
                flag="--root",
                metavar="DIRECTORY",
                path="directory",
                is_required=True,
                help="the directory whose folders are the buckets, such as a mounted network share.",
            )
        },
    ),
}
"""The kinds of connections, by what ``flexai storage create --provider`` calls them."""
