"""Texts that command the terminal, or the reader's eye, that shows them as they are."""

from __future__ import annotations

import re
from collections.abc import Mapping

HOSTILE_TEXTS: Mapping[str, str] = {
    "the window's title": "\x1b]0;owned\x07",
    "the clipboard": "\x1b]52;c;cm0gLXJmIH4=\x07",
    "a screen without what stood there": "\x1b[2J\x1b[1;1H",
    "text that is not seen": "\x1b[8munseen\x1b[0m",
    "a link": "\x1b]8;;http://localhost/\x1b\\here\x1b]8;;\x1b\\",
    "a report that is typed for the reader": "\x1b[6n\x1b[c\x05",
    "the same in controls of one character": "\x9d0;owned\x9c\x9b2J\x90x\x9c",
    "a line that is written over": "bad\rgood\x08\x08\x7f",
    "the other order": "model\u202efdp.exe\u202c\u2066x\u2069\u200f",
    "nothing to be seen": "a\u200bb\u2060c\ufeff\U000e0041",
    "another line": "x\u2028y\u2029z\x0b\x0c\x85",
}

ALL = "".join(HOSTILE_TEXTS.values())


def assert_harmless(shown: str) -> None:
    """No character that commands a terminal: all can be seen, but for the ends of lines."""
    seen = re.sub(r"\r?\n", "", shown)
    assert seen.isprintable(), sorted({hex(ord(character)) for character in seen if not character.isprintable()})
