"""Secrets come from anywhere but a flag's value, which every user of the machine can see and the shell remembers."""

from __future__ import annotations

import io
import os
import stat
import sys
from pathlib import Path

import click

from flexai.checkpoints.errors import UsageError
from flexai.checkpoints.local_paths import expanded

ASK = "ask"
"""Stands for a flag that is given without a source."""
FORMS = "env:VARIABLE, file:PATH, - for standard input, or nothing for a prompt"

_MAX_BYTES = 64 * 1024


def read_secret(flag: str, source: str, what: str, *, one_word: bool = True) -> str:
    """Read a secret from where a flag says; from a prompt without echo where it says nothing.

    ``what`` is how messages call it; a secret that is ``one_word`` has no white space inside. Raises UsageError, which
    never quotes the source's content, nor the source where it is none and may be the secret itself.
    """
    kind, separator, place = source.partition(":")
    if source in {"", ASK}:
        text = _ask(flag, what)
    elif source == "-":
        text = _ask(flag, what) if sys.stdin.isatty() else _decode(_read_standard_input(), f"{flag} -", what)
    elif separator and kind == "env" and place:
        if place not in os.environ:
            raise UsageError(f"{flag}: there is no environment variable {place}", hint=f"export {place}=…")
        text = os.environ[place]
    elif separator and kind == "file" and place:
        text = _decode(_read_file(flag, expanded(Path(place))), source, what)
    else:
        raise UsageError(
            f"{flag} names where the {what} is, never the {what} itself",
            hint=f"give {FORMS}; if this was the {what}, it is known now: replace it",
        )
    text = text.strip()
    if not text:
        raise UsageError(f"{flag}: the {what} is empty", hint=f"give {FORMS}")
    if one_word and not (text.isascii() and text.isprintable() and " " not in text):
        raise UsageError(f"{flag}: what is there is no {what}: it has several words or lines, or odd characters")
    return text


def _ask(flag: str, what: str) -> str:
    if not sys.stdin.isatty():
        raise UsageError(f"{flag} is needed: there is no terminal to ask for the {what} at", hint=f"give {FORMS}")
    return str(click.prompt(what[:1].upper() + what[1:], hide_input=True, err=True))


def _read_standard_input() -> bytes:
    return sys.stdin.buffer.read(_MAX_BYTES + 1)


def _read_file(flag: str, path: Path) -> bytes:
    try:
        # A FIFO may have no writer to wait for. That of a shell's <(…) is there, and may not have written yet.
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb", buffering=0) as file:
            begin = file.read(_MAX_BYTES + 1)
            if begin == b"" and stat.S_ISFIFO(os.fstat(file.fileno()).st_mode):
                raise UsageError(f"{flag}: {path} is a FIFO to which no process writes", hint="name a file")
            os.set_blocking(file.fileno(), True)
            return (begin or b"") + io.BufferedReader(file).read(_MAX_BYTES + 1)
    except OSError as error:
        raise UsageError(f"{flag}: {path} cannot be read: {error.strerror}", hint="check the path") from None


def _decode(content: bytes, source: str, what: str) -> str:
    if len(content) > _MAX_BYTES:
        raise UsageError(f"{source} has more than {_MAX_BYTES} bytes, so it is no {what}")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise UsageError(f"{source} is no text, so it is no {what}") from None
