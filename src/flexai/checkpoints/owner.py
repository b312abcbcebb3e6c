"""Who owns what is made here: a stable identity, made on first use and kept in the home folder."""

from __future__ import annotations

import errno
import json
import os
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from flexai.checkpoints.errors import NotYoursError, SettingsError, StorageFullError
from flexai.checkpoints.foreign_json import parse_json
from flexai.checkpoints.local_paths import is_no_file
from flexai.checkpoints.names import Id, new_id, parse_id
from flexai.checkpoints.private_folders import make_private_folder

IDENTITY_FILE = "identity.json"
_NAMES = "f3b0c1de-6a1c-4c2e-9a55-1d1b7c1f0e4d"
"""The namespace of ids that follow from names (RFC 9562, UUID version 5)."""


def login() -> str:
    """``user@host`` of this process."""
    import getpass

    try:
        user = getpass.getuser()
    except (OSError, KeyError):  # a container's uid without a name
        user = str(os.getuid())
    return f"{user}@{os.uname().nodename}"


@dataclass(frozen=True, slots=True)
class Owner:
    """A user and the organisation that owns what the user makes."""

    user_id: Id
    org_id: Id
    name: str = field(default_factory=login, compare=False)
    """Who that is, for people: ``user@host``."""
    former_id: Id | None = field(default=None, compare=False)
    """The user's id in this home from before the setting ``owner`` said who that is."""

    def __str__(self) -> str:
        """As the setting ``owner`` names it."""
        return f"{self.user_id}/{self.org_id}"

    def is_user(self, user_id: str) -> bool:
        """Whether an id is this user's."""
        return user_id in {self.user_id, self.former_id}

    def has_made(self, creator_user_id: str, creator: str) -> bool:
        """Whether this user has made something: with such an id or, from another home or machine, by this name."""
        return self.is_user(creator_user_id) or creator == self.name

    def check_made(self, what: str, creator_user_id: str, creator: str) -> None:
        """Raise NotYoursError where another user has made something, which ``what`` names."""
        if not self.has_made(creator_user_id, creator):
            raise NotYoursError(f"{what} was made by {creator or 'another user'}")


def parse_owner(text: str) -> Owner:
    """The owner that the setting ``owner`` names: ``user@host`` or ``USER_ID/ORG_ID``. ValueError for what is none.

    The ids of ``user@host`` follow from it, so that they are the same on each machine.
    """
    if "@" in text:
        from uuid import UUID, uuid5  # see names

        names = UUID(_NAMES)
        host = text.partition("@")[2]
        return Owner(user_id=parse_id(uuid5(names, text)), org_id=parse_id(uuid5(names, host)), name=text)
    user_id, _, org_id = text.partition("/")
    return Owner(user_id=parse_id(user_id), org_id=parse_id(org_id))


def new_owner() -> Owner:
    """An owner that nothing belongs to yet."""
    return Owner(user_id=new_id(), org_id=new_id())


def owner_of(setting: str, home: Path) -> Owner:
    """The owner that the setting ``owner`` names, who may have been another one in the home folder before."""
    former = None
    with suppress(SettingsError):
        former = find_owner(home)
    return replace(parse_owner(setting), former_id=None if former is None else former.user_id)


def find_owner(home: Path) -> Owner | None:
    """The identity in the home folder, if there is one; raises what ``load_owner`` raises."""
    return load_owner(home) if (home / IDENTITY_FILE).exists() else None


def load_owner(home: Path) -> Owner:
    """Read the identity in the home folder, making it first where there is none.

    Two processes that make it at the same time agree on one. Raises SettingsError for a file that is damaged, or that
    cannot be read or made, and StorageFullError where there is no room for it.
    """
    path = home / IDENTITY_FILE
    try:
        content = _read_or_create(path)
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise StorageFullError(f"no space is left for {path}") from error
        raise SettingsError(f"{error.filename or path} cannot be read or made: {error.strerror}") from error
    try:
        document = parse_json(content)
        return Owner(user_id=parse_id(document["userID"]), org_id=parse_id(document["orgID"]))
    except (ValueError, KeyError, TypeError) as error:
        raise SettingsError(
            f"{path} is damaged: {error}",
            hint=f"restore {path} from a backup, or remove it: a new one is made, and you stay {login()} to others",
        ) from error


def _read_or_create(path: Path) -> bytes:
    if is_no_file(path):
        raise OSError(errno.EINVAL, "it is no file", str(path))
    try:
        return path.read_bytes()
    except FileNotFoundError:
        _create(path, new_owner())
        return path.read_bytes()


def _create(path: Path, owner: Owner) -> None:
    import tempfile  # once in a home's life

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
