"""What MkDocs is told of pages that lie outside docs, for the site of ``make site``.

The README is the site's first page, and the other pages of the root are pages of it. A file that a page leads to, such
as an example, becomes a page that shows it. So every link leads somewhere without a network, and the same Markdown
works where the repository is browsed.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
LINK = re.compile(r"(?<=\]\()([\w./-]+)(?=(?:#[\w-]*)?\))")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages of the root, and one for each file that is linked."""
    paths = {path.relative_to(ROOT).as_posix(): path for path in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]}
    for name in list(paths):
        for link in LINK.findall(paths[name].read_text(encoding="utf-8")):
            target = _target(name, link)
            if (ROOT / target).is_file():
                paths.setdefault(target, ROOT / target)
    for name, path in sorted(paths.items()):
        place = _place(name)
        if files.get_file_from_path(place) is None:
            text = path.read_text(encoding="utf-8")
            files.append(File.generated(config, place, content=text if name.endswith(".md") else _shown(name, text)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Lead links to where the site has what they lead to in the repository."""
    here = page.file.src_uri
    name = _name(here)

    def led(match: re.Match[str]) -> str:
        target = _target(name, match[1])
        return posixpath.relpath(_place(target), posixpath.dirname(here)) if (ROOT / target).is_file() else match[1]

    # A page whose first line is a comment would have no title in the menu.
    return markdown if here.startswith("files/") else LINK.sub(led, re.sub(r"\A<!--.*?-->\s*", "", markdown))


def _target(name: str, link: str) -> str:
    """The path, from the root of the repository, of what a page leads to."""
    return posixpath.normpath(posixpath.join(posixpath.dirname(name), link))


def _place(name: str) -> str:
    """Where the site has a file of the repository."""
    if name == "README.md":
        return "index.md"
    if name.startswith("docs/") and Path(name).suffix in {".md", ".png", ".svg"}:
        return name.removeprefix("docs/")
    return name if "/" not in name and name.endswith(".md") else f"files/{name}.md"


def _name(place: str) -> str:
    """The reverse of it, for pages."""
    return "README.md" if place == "index.md" else place if (ROOT / place).is_file() else f"docs/{place}"


def _shown(name: str, text: str) -> str:
    """A page that shows a file, and that the search passes over."""
    language = {".py": "python", ".yaml": "yaml", ".sh": "bash", ".sbatch": "bash"}.get(Path(name).suffix, "text")
    return f"---\nsearch:\n  exclude: true\n---\n\n# {name}\n\n~~~~{language}\n{text}~~~~\n"
