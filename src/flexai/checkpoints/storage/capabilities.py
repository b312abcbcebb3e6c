"""What a storage service can do, as far as it was tried: services that speak S3 differ.

``storage check`` tries each ability on objects of its own and saves the record with the connection. What lies in the
bucket afterwards decides, because some servers refuse by breaking the connection off. No transfer is wrong without the
optional abilities (conditional writes, checksums, metadata): it is slower, or finds damage later.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Capabilities:
    """One service's abilities. The defaults are what every service is taken to be able to do until it is tried."""

    conditional_put: bool = False
    """``If-None-Match: *`` on a put is honoured. JuiceFS, rclone and older MinIO ignore it."""
    conditional_get: bool = True
    """``If-Match`` on a get is honoured; where it is not, the answer's ETag is compared."""
    part_copy: bool = True
    """``UploadPartCopy`` works, so that objects above 5 GiB can be copied server-side. ``rclone serve`` has none."""
    multi_delete: bool = True
    """``DeleteObjects`` works. GCS's S3 interface has none."""
    checksums: frozenset[str] = frozenset()
    """Checksums that the service verifies and keeps, in lower case: ``crc32``, ``crc32c``, ``sha256``, ``md5``."""
    trailers: bool = False
    """A CRC32C that follows what is sent is compared with what arrived, for objects and for parts."""
    metadata: bool = True
    """Metadata of a user's own survive. ``rclone serve`` drops them."""

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Capabilities:
        """Read a saved record; what it does not tell keeps its default, what it tells beyond is ignored."""
        default = cls()

        def flag(name: str, fallback: bool) -> bool:
            value = record.get(name, fallback)
            return value if isinstance(value, bool) else fallback

        return cls(
            conditional_put=flag("conditional_put", default.conditional_put),
            conditional_get=flag("conditional_get", default.conditional_get),
            part_copy=flag("part_copy", default.part_copy),
            multi_delete=flag("multi_delete", default.multi_delete),
            checksums=frozenset(str(name) for name in record.get("checksums", ())),
            trailers=flag("trailers", default.trailers),
            metadata=flag("metadata", default.metadata),
        )
