"""The kinds of connections as Prefect blocks, which Prefect's UI has forms for and flows use."""

from __future__ import annotations

from abc import ABC
from collections.abc import Mapping, Sequence
from inspect import get_annotations
from typing import Any

from prefect.blocks.core import Block
from pydantic import HttpUrl

from flexai.checkpoints.storage.kinds import KINDS
from flexai.connections.gcs import GCSConnection
from flexai.connections.huggingface import HuggingFaceConnection
from flexai.connections.local import LocalConnection
from flexai.connections.provider import KEPT_BY_US, ProviderConnection
from flexai.connections.s3 import MinIOConnection, R2Connection, S3Connection
from flexai.prefect_client import read_blocks
from flexai.prefect_server.ui import LOGOS_PATH, own_server

_PREFECTS = "https://cdn.sanity.io/images/3ugk85nk/production"
"""Where the pictures of Prefect's own blocks lie."""
_ANY_STORE = (
    "https://raw.githubusercontent.com/PrefectHQ/prefect/420d0d6a78bb6df1fc18bcf188fdad43c1d22ea9/assets/"
    "block-logos/filesystem.png"
)
"""Prefect's picture of any store: it has none of R2, and none of the Hub."""


def _logo(kind: str, elsewhere: str) -> HttpUrl:
    """The address of a kind's picture: the server of ``flexai up`` has those of this package.

    Prefect's client takes no address of a picture but one of a server, so another server gets one in the internet.
    """
    base = own_server()
    return HttpUrl(f"{base}{LOGOS_PATH}{kind}.svg" if base else elsewhere)


class StorageProvider(ProviderConnection, Block, ABC):
    """What every kind of storage provider connection is: a Prefect block that opens ``BUCKET/PREFIX`` paths."""

    _documentation_url = HttpUrl("https://docs.flex.ai/commands/checkpoint")

    def read_blocks(self, kinds: Sequence[str], name: str) -> list[tuple[str, Mapping[str, Any]]]:
        """The blocks of a name, as the Prefect API in force has them."""
        return read_blocks(kinds, name)

    @classmethod
    def model_json_schema(cls, *args: Any, **options: Any) -> dict[str, Any]:
        """The schema that Prefect makes a form of: a kind's fields, without what the program keeps."""
        schema = super().model_json_schema(*args, **options)
        fields = {name: field for name, field in schema.get("properties", {}).items() if name not in KEPT_BY_US}
        kinds = [kind for kind in cls.__mro__ if issubclass(kind, ProviderConnection)]
        names = [name for kind in kinds for name in get_annotations(kind) if name in fields]
        schema["properties"] = {name: fields[name] for name in dict.fromkeys([*names, *fields])}
        # Prefect's UI goes by these numbers, which its base class has given by the order of declaration.
        for position, field in enumerate(schema["properties"].values()):
            field["position"] = position
        return schema


class S3StorageProvider(S3Connection, StorageProvider):
    """AWS S3, or any other service that speaks S3, such as Wasabi, Backblaze B2, Ceph, SeaweedFS or CoreWeave.

    Without an access key, the usual places are searched where the transfer runs: environment variables, a profile, the
    role of the machine or container.

    Example:
        Load it and open a folder of a bucket:
        ```python
        from flexai.blocks import S3StorageProvider

        place = S3StorageProvider.load("BLOCK_NAME").open("my-bucket/checkpoints/mistral-train")
        ```
    """

    _block_type_name = "FlexAI S3 Storage Provider"
    _block_type_slug = KINDS["s3"].block
    _logo_url = _logo("s3", f"{_PREFECTS}/d74b16fe84ce626345adf235a47008fea2869a60-225x225.png")


class R2StorageProvider(R2Connection, StorageProvider):
    """Cloudflare R2.

    An API token of R2 has an access key ID and a secret access key, which this connection needs; the token itself is
    not used. The account's ID is in the dashboard's address and in the endpoint that R2 shows.

    Example:
        Load it and open a folder of a bucket:
        ```python
        from flexai.blocks import R2StorageProvider

        place = R2StorageProvider.load("BLOCK_NAME").open("my-bucket/checkpoints/mistral-train")
        ```
    """

    _block_type_name = "FlexAI R2 Storage Provider"
    _block_type_slug = KINDS["r2"].block
    _logo_url = _logo("r2", _ANY_STORE)


class MinIOStorageProvider(MinIOConnection, StorageProvider):
    """A MinIO server, or a cluster of them.

    Example:
        Load it and open a folder of a bucket:
        ```python
        from flexai.blocks import MinIOStorageProvider

        place = MinIOStorageProvider.load("BLOCK_NAME").open("my-bucket/checkpoints/mistral-train")
        ```
    """

    _block_type_name = "FlexAI MinIO Storage Provider"
    _block_type_slug = KINDS["minio"].block
    _logo_url = _logo("minio", f"{_PREFECTS}/676cb17bcbdff601f97e0a02ff8bcb480e91ff40-250x250.png")


class GCSStorageProvider(GCSConnection, StorageProvider):
    """Google Cloud Storage.

    Without a service account's key, application default credentials are searched where the transfer runs: a variable, a
    login by gcloud, the account of the machine or pod.

    Example:
        Load it and open a folder of a bucket:
        ```python
        from flexai.blocks import GCSStorageProvider

        place = GCSStorageProvider.load("BLOCK_NAME").open("my-bucket/checkpoints/mistral-train")
        ```
    """

    _block_type_name = "FlexAI GCS Storage Provider"
    _block_type_slug = KINDS["gcs"].block
    _logo_url = _logo("gcs", f"{_PREFECTS}/10424e311932e31c477ac2b9ef3d53cefbaad708-250x250.png")


class HuggingFaceStorageProvider(HuggingFaceConnection, StorageProvider):
    """The Hugging Face Hub, or a mirror of it. Checkpoints can be pushed from it, not exported to it.

    Its paths are `ORG/REPO[@REVISION][/FOLDER-or-FILE]`. Public repositories need no token; gated and private ones need
    one that may read them.

    Example:
        Load it and open a repository as it is now:
        ```python
        from flexai.blocks import HuggingFaceStorageProvider

        place = HuggingFaceStorageProvider.load("BLOCK_NAME").open("Qwen/Qwen2.5-7B@main")
        ```
    """

    _block_type_name = "FlexAI Hugging Face Storage Provider"
    _block_type_slug = KINDS["huggingface"].block
    _logo_url = _logo("huggingface", _ANY_STORE)


class LocalStorageProvider(LocalConnection, StorageProvider):
    """A directory whose folders are its buckets, for instance a mounted network share.

    Every machine that uses the connection has to see the directory under the same path.

    Example:
        Load it and open a folder of its bucket `checkpoints`:
        ```python
        from flexai.blocks import LocalStorageProvider

        place = LocalStorageProvider.load("BLOCK_NAME").open("checkpoints/mistral")
        ```
    """

    _block_type_name = "FlexAI Local Storage Provider"
    _block_type_slug = KINDS["local"].block
    _logo_url = _logo("local", f"{_PREFECTS}/ad39089fa66d273b943394a68f003f7a19aa850e-48x48.png")


PROVIDERS: Mapping[str, type[StorageProvider]] = {
    block.provider: block
    for block in (
        S3StorageProvider,
        R2StorageProvider,
        MinIOStorageProvider,
        GCSStorageProvider,
        HuggingFaceStorageProvider,
        LocalStorageProvider,
    )
}
"""The blocks of the kinds of connections, by what ``flexai storage create --provider`` calls them."""
