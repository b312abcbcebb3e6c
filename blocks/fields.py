"""What the fields of several kinds of connections have in common."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import BeforeValidator, SecretStr

from flexai.checkpoints.errors import SettingsError, UsageError
from flexai.checkpoints.storage.endpoints import check_endpoint


def _stripped(value: object) -> object:
    if isinstance(value, SecretStr):
        value = value.get_secret_value()
    return value.strip() if isinstance(value, str) else value


Text = Annotated[str, BeforeValidator(_stripped)]
"""A text without the white space that pasting brings along."""
Secret = Annotated[SecretStr, BeforeValidator(_stripped)]
"""A secret likewise; empty where there is none."""


def endpoint_field(value: str, *, allow_path: bool = False) -> str:
    """Return an endpoint in its usual form; empty stays empty. Raises ValueError, for validators."""
    try:
        return check_endpoint(value, allow_path=allow_path) if value else ""
    except UsageError as error:
        raise ValueError(f"{error.message} ({error.hint})") from None


def existing_bundle(path: str) -> str:
    """Return the path of a file of certificate authorities; SettingsError where it is not on this machine."""
    if path and not Path(path).is_file():
        raise SettingsError(
            f"the certificate authorities of the connection are not on this machine: {path}",
            hint="put the file there, or save the connection again with another --ca-bundle",
        )
    return path
