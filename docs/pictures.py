"""Draw the pictures of ``docs/architecture.md``: plain SVG, so that a change of words shows as a change of words.

python docs/pictures.py            write docs/images/architecture-*.svg
python docs/pictures.py --check    write nothing; fail when a picture is out of date
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from html import escape
from pathlib import Path

IMAGES = Path(__file__).resolve().parent / "images"

INK, FAINT, LINE = "#1f2933", "#52606d", "#7b8794"
STORE, CATALOG, CODE, PLAIN, ALARM = "#d8f0ee", "#fdeecb", "#e3eafc", "#f5f7fa", "#b42318"


class Picture:
    """An SVG on a white card, which reads the same on a light and on a dark page."""

    def __init__(self, width: int, height: int, title: str) -> None:
        self._parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
            f' font-family="Helvetica, Arial, sans-serif" font-size="13" role="img" aria-label="{escape(title)}">',
            f"<title>{escape(title)}</title>",
            '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8"'
            f' orient="auto-start-reverse"><path d="M0 0L8 4L0 8z" fill="{LINE}"/></marker></defs>',
            f'<rect x="0.5" y="0.5" width="{width - 1}" height="{height - 1}" rx="8" fill="#ffffff" stroke="#cbd2d9"/>',
        ]

    def text(
        self, x: float, y: float, words: str, *, colour: str = INK, bold: bool = False, size: int = 13, anchor: str = ""
    ) -> None:
        """A line of text from ``x``, or around it with the anchor ``middle``; ``y`` is its base line."""
        weight = ' font-weight="bold"' if bold else ""
        place = f' text-anchor="{anchor}"' if anchor else ""
        self._parts.append(
            f'<text x="{x:g}" y="{y:g}" fill="{colour}" font-size="{size}"{weight}{place}>{escape(words)}</text>'
        )

    def box(
        self,
        x: float,
        y: float,
        width: float,
        height: float,
        words: Sequence[str],
        *,
        fill: str = PLAIN,
        dash: str = "",
    ) -> None:
        """A box with lines of text in its middle, the first one bold."""
        dashes = f' stroke-dasharray="{dash}"' if dash else ""
        self._parts.append(
            f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="5" fill="{fill}"'
            f' stroke="{LINE}"{dashes}/>'
        )
        top = y + height / 2 - (len(words) - 1) * 8.5 + 4.5
        for number, line in enumerate(words):
            self.text(
                x + width / 2,
                top + number * 17,
                line,
                bold=number == 0,
                size=13 if number == 0 else 12,
                colour=INK if number == 0 else FAINT,
                anchor="middle",
            )

    def arrow(self, *points: tuple[float, float]) -> None:
        """A line through points that ends in a tip."""
        path = "M" + "L".join(f"{x:g} {y:g}" for x, y in points)
        self._parts.append(f'<path d="{path}" fill="none" stroke="{LINE}" stroke-width="1.4" marker-end="url(#tip)"/>')

    def line(self, x: float, y: float, to_x: float, to_y: float, *, colour: str = LINE, dash: str = "") -> None:
        """A straight line."""
        dashes = f' stroke-dasharray="{dash}"' if dash else ""
        self._parts.append(f'<path d="M{x:g} {y:g}L{to_x:g} {to_y:g}" stroke="{colour}" fill="none"{dashes}/>')

    def mark(self, x: float, y: float, letter: str) -> None:
        """A place where a kill may come."""
        self._parts.append(f'<circle cx="{x:g}" cy="{y:g}" r="9" fill="#ffffff" stroke="{ALARM}" stroke-width="1.5"/>')
        self.text(x, y + 4, letter, colour=ALARM, bold=True, size=12, anchor="middle")

    def done(self) -> str:
        """The picture."""
        return "\n".join([*self._parts, "</svg>"]) + "\n"


def rooms() -> str:
    """Which rooms there are, and which way imports go."""
    picture = Picture(860, 560, "The rooms: imports go down only")
    for number, words in enumerate(("imports", "go down", "only")):
        picture.text(44, 34 + number * 17, words, bold=True, anchor="middle")
    picture.arrow((44, 80), (44, 534))
    left, width = 100, 530
    half = (width - 20) / 2
    picture.box(left, 20, half, 52, ["cli/", "the flexai command, one file a verb"], fill=CODE)
    picture.box(left + half + 20, 20, half, 52, ["flows/", "forms; train → push → export"], fill=CODE)
    picture.box(left, 92, half, 52, ["api.py", "a Python function per operation"], fill=CODE)
    picture.box(left + half + 20, 92, half, 52, ["tasks/", "a Prefect task per operation"], fill=CODE)
    picture.box(
        left, 164, width, 52, ["blocks/", "connections to storage providers, saved as Prefect blocks"], fill=CODE
    )
    picture.box(left - 12, 236, width + 24, 304, [""], fill="#ffffff", dash="5 4")
    picture.text(left, 256, "src/flexai/checkpoints/ knows no Prefect and no terminal", colour=FAINT, size=12)
    picture.box(
        left,
        266,
        width,
        52,
        ["service/", "the operations: push, fetch, export, capture, delete, gc, verify, …"],
        fill=CODE,
    )
    third = (width - 40) / 3
    for number, room in enumerate(
        (
            ["catalog/", "tables, leases,", "conditional updates"],
            ["transfer/", "plans, and engines", "that move bytes"],
            ["training/", "runs a command,", "captures what it writes"],
        )
    ):
        picture.box(left + number * (third + 20), 336, third, 70, room, fill=CODE)
    picture.box(
        left, 424, width, 46, ["storage/", "one protocol; local, s3/, gcs/, hub/; the managed store"], fill=CODE
    )
    picture.box(
        left,
        486,
        width,
        46,
        ["words and rules", "errors, names, paths, models, manifest, contents, settings, …"],
        fill=CODE,
    )
    right = 692
    picture.box(right, 20, 150, 52, ["deployments/", "deploys the flows"], dash="5 4")
    picture.arrow((right, 46), (left + width, 46))
    picture.box(right, 92, 150, 124, ["Prefect's server", "runs, schedules,", "the UI, blocks,", "limits"])
    picture.arrow((left + width, 118), (right, 118))
    picture.arrow((left + width, 190), (right, 190))
    picture.box(right, 336, 150, 70, ["catalog", "SQLite file or", "PostgreSQL"], fill=CATALOG)
    picture.box(right, 424, 150, 70, ["stores", "directories,", "buckets, the Hub"], fill=STORE)
    picture.arrow((left + width, 447), (right, 447))
    picture.arrow((left + third / 2, 406), (left + third / 2, 415), (660, 415), (660, 371), (right, 371))
    return picture.done()


def contents() -> str:
    """How a checkpoint leads to its bytes."""
    picture = Picture(860, 470, "A checkpoint's manifest lists files; their contents are ranges of blobs and packs")
    for x, width, words, fill in (
        (20, 180, "catalog: checkpoints", CATALOG),
        (225, 265, "store: manifests/ID.json", STORE),
        (515, 325, "store: blobs/AB/ABCDEF…", STORE),
    ):
        picture.box(x, 16, width, 28, [words], fill=fill)
    picture.box(
        20,
        70,
        180,
        92,
        ["digits-best", "owner, status available,", "digest of the manifest,", "blob_references"],
        fill=CATALOG,
    )
    picture.box(20, 300, 180, 92, ["digits-final", "another name,", "some of the same", "content"], fill=CATALOG)

    def manifest(top: float, rows: Sequence[tuple[str, str]]) -> None:
        picture.box(225, top, 265, 30 + 26 * len(rows), [""], fill=STORE)
        picture.text(237, top + 20, "path, size, digest", colour=FAINT, size=12)
        for number, (path, size) in enumerate(rows):
            y = top + 30 + 26 * number
            picture.line(225, y, 490, y)
            picture.text(237, y + 18, path)
            picture.text(480, y + 18, size, colour=FAINT, size=12, anchor="end")

    manifest(70, [("model.safetensors", "150 MiB"), ("config.json", "1 KiB"), ("tokenizer.json", "2 MiB")])
    manifest(300, [("model.safetensors", "150 MiB"), ("config.json", "1 KiB")])
    picture.arrow((200, 116), (225, 116))
    picture.arrow((200, 346), (225, 346))

    picture.text(515, 82, "a blob: the content of one large file", bold=True)
    for number, part in enumerate(("part 1: 64 MiB", "part 2: 64 MiB", "part 3: 22 MiB")):
        picture.box(515 + number * 109, 92, 109 if number < 2 else 107, 40, [part], fill=STORE)
    picture.text(515, 150, "a BLAKE3 of each part; the file's is the BLAKE3 of those", colour=FAINT, size=12)
    picture.text(515, 212, "a pack: a blob of many small files", bold=True)
    picture.box(515, 222, 70, 40, ["1 KiB"], fill=STORE)
    picture.box(585, 222, 150, 40, ["2 MiB"], fill=STORE)
    picture.box(735, 222, 105, 40, ["…"], fill=STORE)
    picture.text(515, 300, "a content is a range of a blob: its start and size", colour=FAINT, size=12)
    picture.box(515, 322, 325, 40, ["a blob of the second training"], fill=STORE)
    picture.text(515, 380, "its model has other content, so a blob of its own", colour=FAINT, size=12)

    picture.arrow((490, 113), (515, 113))
    picture.arrow((490, 139), (502, 139), (502, 250), (515, 250))
    picture.arrow((490, 165), (497, 165), (497, 278), (660, 278), (660, 262))
    picture.arrow((490, 343), (515, 343))
    picture.arrow((490, 369), (506, 369), (506, 238), (515, 238))
    picture.text(
        20,
        424,
        "The same config.json is held once: both manifests lead to it. gc takes a blob that no checkpoint refers to.",
        colour=FAINT,
        size=12,
    )
    picture.text(
        20,
        446,
        "A blob's key is its own random id; only the catalog and the manifests say which digest it holds.",
        colour=FAINT,
        size=12,
    )
    return picture.done()


def steps(
    title: str, lanes: Sequence[tuple[str, str]], rows: Sequence[tuple[int, Sequence[str]] | tuple[str, Sequence[str]]]
) -> str:
    """A write order: steps in the lane of what is written, and between them what a kill leaves."""
    gap, width, margin = 16, 205, 20
    heights = [16 + 17 * len(words) if isinstance(place, int) else 18 * max(len(words), 1) + 6 for place, words in rows]
    note_x = margin + len(lanes) * (width + gap)
    picture = Picture(note_x + 400, 66 + sum(heights) + 10 * len(rows), title)
    for number, (name, fill) in enumerate(lanes):
        picture.box(margin + number * (width + gap), 14, width, 28, [name], fill=fill)
    picture.text(note_x + 18, 33, "killed here …", colour=ALARM, bold=True)
    y = 56.0
    for (place, words), height in zip(rows, heights, strict=True):
        if isinstance(place, int):
            picture.box(margin + place * (width + gap), y, width, height, words, fill=lanes[place][1])
        else:
            middle = y + height / 2
            picture.line(margin, middle, note_x, middle, colour=ALARM, dash="3 4")
            picture.mark(note_x + 8, middle, place)
            for number, line in enumerate(words):
                picture.text(note_x + 26, middle + 4 + (number - (len(words) - 1) / 2) * 17, line, size=12)
        y += height + 10
    return picture.done()


def push() -> str:
    """What a push writes, in order."""
    return steps(
        "The write order of a push, and what a kill between two steps leaves",
        [("catalog", CATALOG), ("managed store", STORE)],
        [
            (0, ["the name", "row uploading, with a lease"]),
            (
                "A",
                [
                    "the name has a dead owner: the next push of the same",
                    "owner takes it over; another owner is refused",
                ],
            ),
            (0, ["each blob is announced", "row writing, and a reference"]),
            (1, ["its parts, or the pack", "each digested as it is sent"]),
            (0, ["each part is recorded", "digest and receipt"]),
            ("B", ["recorded parts stay; the next push compares them with", "the source, and sends the others"]),
            (1, ["the parts become the blob"]),
            ("C", ["the next push finds the blob by its size, compares its", "parts, and records it"]),
            (0, ["row stored", "and the contents in it"]),
            ("D", ["no byte of it is sent again"]),
            (1, ["manifests/ID.json"]),
            ("E", ["the checkpoint is still not available; the next push", "writes the manifest again"]),
            (0, ["available", "files, manifest's digest, no lease,", "in one transaction"]),
            ("F", ["the push has happened: only its answer is lost"]),
        ],
    )


def export() -> str:
    """What an export writes, in order."""
    return steps(
        "The write order of an export, and what a kill between two steps leaves",
        [("catalog", CATALOG), ("provider, below the prefix", STORE)],
        [
            ("A", ["nothing has been written: the place was listed, and", "objects of the right size were compared"]),
            (1, ["uploads that an earlier", "export left are given up"]),
            (1, ["flexai-manifest.json", "complete: false"]),
            ("B", ["a reader sees that the export is not complete and", "refuses it; so does a push from it"]),
            (0, ["digests that are learned", "of content that a provider", "copied and is read only now"]),
            (1, ["each file's object", "appears whole or not at all"]),
            (
                "C",
                [
                    "objects that arrived stay; the next export compares",
                    "them, gives up what was on its way, sends the rest",
                ],
            ),
            (1, ["flexai-manifest.json", "complete: true, with ETags"]),
            (
                "D",
                ["the export is whole, the catalog does not know it: the", "next export moves nothing and records it"],
            ),
            (0, ["the export's record"]),
        ],
    )


PICTURES: Mapping[str, Callable[[], str]] = {
    "architecture-rooms.svg": rooms,
    "architecture-contents.svg": contents,
    "architecture-push.svg": push,
    "architecture-export.svg": export,
}


def main(arguments: Sequence[str]) -> int:
    """Write the pictures, or with ``--check`` say which are out of date; 1 if any is."""
    stale = []
    for name, draw in PICTURES.items():
        path, text = IMAGES / name, draw()
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            stale.append(name)
            if "--check" not in arguments:
                path.write_text(text, encoding="utf-8")
    if stale:
        sys.stderr.write(
            f"{'out of date, run make docs' if '--check' in arguments else 'written'}: {', '.join(stale)}\n"
        )
    return 1 if stale and "--check" in arguments else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
