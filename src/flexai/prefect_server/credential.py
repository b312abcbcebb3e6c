"""The password of a server that ``flexai up`` has started: a file that only its owner can read."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
from pathlib import Path

from flexai.checkpoints.private_folders import make_private_folder

_FOLDER = "prefect"
_NAME = "credential"
_PAGE = "login.html"


def credential_path(home: Path) -> Path:
    """Where it lies."""
    return home / _FOLDER / _NAME


def read_credential(home: Path) -> str:
    """The credential, as Prefect's ``PREFECT_API_AUTH_STRING`` takes it; empty where there is none."""
    try:
        return credential_path(home).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return ""


def make_credential(home: Path) -> str:
    """The credential, made where there is none. It stays, so that a browser that knows it need not be told again."""
    made = read_credential(home)
    if not made:
        made = f"flexai:{secrets.token_urlsafe(24)}"
        _write(credential_path(home), made + "\n")
    return made


def write_login_page(home: Path, ui_address: str, credential: str) -> Path:
    """A page that logs a browser in.

    A browser is given the page's path, not the credential: command lines are seen by every user of the machine. The
    server is not told it either: what is behind a ``#`` is not sent.
    """
    path = home / _FOLDER / _PAGE
    target = json.dumps(f"{ui_address}/flexai-login#{credential}")
    _write(path, f"<!doctype html><meta charset=utf-8><script>location.replace({target})</script>\n")
    return path


def forget_login_page(home: Path) -> None:
    """Remove the page: it holds the credential and is not needed again."""
    (home / _FOLDER / _PAGE).unlink(missing_ok=True)


def _write(path: Path, text: str) -> None:
    make_private_folder(path.parent)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
