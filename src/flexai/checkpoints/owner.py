"""Who owns what is made here: a stable identity, made on first use and kept in the home folder."""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

from flexai.checkpoints.errors import SettingsError
from flexai.checkpoints.foreign_json import parse_json
from flexai.checkpoints.names import Id, new_id, parse_id
from flexai.checkpoints.private_folders import make_private_folder

IDENTITY_FILE = "identity.json"


@dataclass(frozen=True, slots=True)
class Owner:
    """A user and the organisation that owns what the user makes."""

    user_id: Id
    org_id: Id

    def __str__(self) -> str:
        """As the setting ``owner`` names it."""
        return f"{self.user_id}/{self.org_id}"


def parse_owner(text: str) -> Owner:
    """The owner that the setting ``owner`` names: ``USER_ID/ORG_ID``. ValueError for what is none."""
    user_id, _, org_id = text.partition("/")
    return Owner(user_id=parse_id(user_id), org_id=parse_id(org_id))


def new_owner() -> Owner:
    """An owner that nothing belongs to yet."""
    return Owner(user_id=new_id(), org_id=new_id())


def find_owner(home: Path) -> Owner | None:
    """The identity in the home folder, if there is one; raises what ``load_owner`` raises."""
    return load_owner(home) if (home / IDENTITY_FILE).exists() else None


def load_owner(home: Path) -> Owner:
    """Read the identity in the home folder, making it first where there is none.

    Two processes that make it at the same time agree on one. Raises SettingsError for a file that is damaged, or that
    cannot be read or made.
    """
    path = home / IDENTITY_FILE
    try:
        content = _read_or_create(path)
    except OSError as error:
        raise SettingsError(f"{error.filename or path} cannot be read or made: {error.strerror}") from error
    try:
        document = parse_json(content)
        return Owner(user_id=parse_id(document["userID"]), org_id=parse_id(document["orgID"]))
    except (ValueError, KeyError, TypeError) as error:
        raise SettingsError(
            f"{path} is damaged: {error}",
            hint=f"restore {path} from a backup; a new one would be a new owner",
        ) from error


def _read_or_create(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        _create(path, new_owner())
        return path.read_bytes()


def _create(path: Path, owner: Owner) -> None:
    make_private_folder(path.parent)
    content = json.dumps({"userID": owner.user_id, "orgID": owner.org_id}, indent=2) + "\n"
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        try:
            # A link, unlike a rename, never replaces an identity that another process has made meanwhile.
            os.link(temporary, path)
        except FileExistsError:
            return
    finally:
        Path(temporary).unlink()
