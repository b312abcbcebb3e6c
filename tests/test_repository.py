"""What holds for the files of the repository, whatever is in them."""

from __future__ import annotations

import ast
import io
import os
import re
import runpy
import subprocess
import sys
import tokenize
import tomllib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import flexai

ROOT = Path(__file__).resolve().parents[1]

# Written in pieces, so that this file obeys its own rules.
MACHINE_PATHS = re.compile(
    r"(?<![\w.~/])/(?:" + "|".join(["root", "work", "opt/pypi", "opt/wheels"]) + r")(?:[/\s\"'`]|$)", re.M
)
REGISTRY_HOSTS = re.compile(r"\b(?:pypi|pythonhosted|npmjs|debian|golang)" + r"\.(?:org|com)\b")

# Not only the pages' sentences name their actor.
WITHOUT_AN_ACTOR = runpy.run_path(str(ROOT / "docs" / "prose.py"))["WITHOUT_AN_ACTOR"]
PROSE = {".c", ".md", ".py", ".toml", ".yaml", ".yml", ""}

FENCE = re.compile(r"^( *)(```+|~~~+).*?^\1\2`*$", re.M | re.S)
MARKDOWN_LINK = re.compile(r"\]\(<?([^)\s>]+)>?(?:\s+\"[^\"]*\")?\)")
HTML_LINK = re.compile(r"\b(?:href|src|srcset)=\"([^\"]+)\"")
HEADING = re.compile(r"^#{1,6} +(.+?) *#*$", re.M)
ANCHOR = re.compile(r"<a +(?:id|name)=\"([^\"]+)\"")


@pytest.fixture(scope="module")
def files() -> list[Path]:
    """Every file that is tracked, or would be if it were added."""
    listed = subprocess.check_output(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT, text=True
    )
    return [path for name in sorted(set(listed.split("\0"))) if name and os.path.lexists(path := ROOT / name)]


def test_a_group_of_tests_is_run_by_one_process(tmp_path: Path) -> None:
    """Else tests that would hinder each other, or share what takes long to set up, are spread over all."""
    (tmp_path / "test_group.py").write_text(
        "import os, pytest\n"
        "@pytest.mark.xdist_group('one')\n"
        "@pytest.mark.parametrize('number', range(4))\n"
        "def test_where(number):\n"
        "    print(f'in process {os.getpid()}')\n"
    )
    command = [sys.executable, "-m", "pytest", "-n", "2", "--dist", "loadgroup", "-rP", "-c", os.devnull, "--rootdir"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    said = subprocess.check_output([*command, tmp_path, tmp_path], cwd=tmp_path, env=environment, text=True)
    processes = re.findall(r"in process (\d+)", said)
    assert (len(processes), len(set(processes))) == (4, 1)


@pytest.fixture(scope="module")
def texts(files: list[Path]) -> dict[Path, str]:
    """Every file that is text, by its path."""
    found = {}
    for path in files:
        if not path.is_symlink():
            content = path.read_bytes()
            if b"\0" not in content:
                found[path] = content.decode("utf-8", errors="replace")
    return found


def _lines_with(pattern: re.Pattern[str], texts: dict[Path, str]) -> list[str]:
    return [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()[:100]}"
        for path, text in texts.items()
        for number, line in enumerate(text.splitlines(), start=1)
        if pattern.search(line)
    ]


def test_no_file_names_a_path_of_one_machine(texts: dict[Path, str]) -> None:
    assert _lines_with(MACHINE_PATHS, texts) == []


def test_no_file_names_a_package_registry(texts: dict[Path, str]) -> None:
    assert _lines_with(REGISTRY_HOSTS, texts) == []


def test_every_sentence_names_its_actor(texts: dict[Path, str]) -> None:
    prose = {
        path: _without_values(text) if path.is_relative_to(ROOT / "tests") and path.suffix == ".py" else text
        for path, text in texts.items()
        if path.suffix in PROSE and path.name != "LICENSE"
    }
    assert _lines_with(WITHOUT_AN_ACTOR, prose) == []


def _without_values(code: str) -> str:
    """A module's comments, docstrings and the names that it defines, each in its line.

    A test may have a user or a bucket of such a name.
    """
    lines = [""] * (code.count("\n") + 2)
    before = tokenize.TokenInfo(tokenize.NEWLINE, "", (0, 0), (0, 0), "")
    for token in tokenize.generate_tokens(io.StringIO(code).readline):
        begins = before.type in (tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT)
        is_prose = token.type == tokenize.COMMENT or (token.type == tokenize.STRING and begins)
        if is_prose or before.string in ("def", "class"):
            for offset, line in enumerate(token.string.splitlines()):
                lines[token.start[0] - 1 + offset] += f" {line}"
        if token.type not in (tokenize.NL, tokenize.COMMENT):
            before = token
    return "\n".join(lines)


def test_every_link_of_the_file_system_is_relative_and_stays_inside(files: list[Path]) -> None:
    links = [path for path in files if path.is_symlink()]
    assert {path.relative_to(ROOT).as_posix() for path in links} >= {
        f"src/flexai/{folder}" for folder in ("blocks", "deployments", "flows", "tasks")
    }
    for link in links:
        assert not os.path.isabs(os.readlink(link)), link
        assert link.resolve(strict=True).is_relative_to(ROOT), link


def test_the_package_tells_type_checkers_that_it_is_typed() -> None:
    assert (Path(flexai.__file__).parent / "py.typed").is_file()


def test_every_link_of_a_page_leads_somewhere(texts: dict[Path, str]) -> None:
    pages = {path: FENCE.sub("", text) for path, text in texts.items() if path.suffix == ".md"}
    broken = []
    for page, text in pages.items():
        for target in (*MARKDOWN_LINK.findall(text), *HTML_LINK.findall(text)):
            if re.match(r"[a-z][a-z0-9+.-]*:", target):
                continue
            name, _, anchor = target.partition("#")
            goal = (page.parent / name).resolve() if name else page
            if not goal.exists() or (anchor and goal in pages and anchor not in _anchors(pages[goal])):
                broken.append(f"{page.relative_to(ROOT)} -> {target}")
    assert broken == []


def _anchors(text: str) -> Iterator[str]:
    """The anchors that a forge gives to headings, and those written out."""
    yield from ANCHOR.findall(text)
    seen: Counter[str] = Counter()
    for heading in HEADING.findall(text):
        plain = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading)
        slug = re.sub(r"[^\w\- ]", "", plain.lower()).replace(" ", "-")
        yield f"{slug}-{seen[slug]}" if seen[slug] else slug
        seen[slug] += 1


def test_no_case_of_a_test_is_named_by_chance(texts: dict[Path, str]) -> None:
    """Each process of a run collects the tests by itself, and all have to find the same."""
    by_chance = {"new_id", "uuid4", "urandom", "token_hex", "now", "time", "time_ns"}
    found = []
    for path, text in texts.items():
        if path.is_relative_to(ROOT / "tests") and path.suffix == ".py":
            marks = [
                one for one in ast.walk(ast.parse(text)) if isinstance(one, ast.Call) and _name(one) == "parametrize"
            ]
            calls = [one for mark in marks for one in ast.walk(mark) if isinstance(one, ast.Call)]
            found += [f"{path.relative_to(ROOT)}:{one.lineno}" for one in calls if _name(one) in by_chance]
    assert found == []


def _name(call: ast.Call) -> str:
    """What a call calls, without what that is an attribute of."""
    return getattr(call.func, "attr", getattr(call.func, "id", ""))


def test_every_make_command_that_a_page_names_is_there(texts: dict[Path, str]) -> None:
    targets = set(re.findall(r"^([a-z-]+):", texts[ROOT / "Makefile"], re.M))
    unknown = [
        f"{path.relative_to(ROOT)}: make {target}"
        for path, text in texts.items()
        if path.suffix == ".md"
        for target in re.findall(r"(?:`|^ *(?:\$ )?)make ([a-z-]+)\b", text, re.M)
        if target not in targets
    ]
    assert unknown == []


def test_every_dependency_has_a_pin_that_fits_it() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    wanted = [
        *project["project"]["dependencies"],
        *(text for extra in project["project"]["optional-dependencies"].values() for text in extra),
        *(text for group in project["dependency-groups"].values() for text in group if isinstance(text, str)),
    ]
    pins: dict[str, list[Requirement]] = {}
    # Trainers are installed for the tests with them alone.
    files = ("constraints.txt", "tests/frameworks/requirements.txt")
    text = "".join((ROOT / file).read_text(encoding="utf-8") for file in files)
    assert "://" not in text, "where packages come from is each machine's affair"
    for line in text.splitlines():
        if line and not line.startswith("#"):
            pin = Requirement(line)
            pins.setdefault(canonicalize_name(pin.name), []).append(pin)
    assert all(
        re.fullmatch(r"==[^*,]+", str(pin.specifier)) and not pin.url for found in pins.values() for pin in found
    )
    for requirement in map(Requirement, wanted):
        found = pins.get(canonicalize_name(requirement.name))
        assert found, f"{requirement.name} has no pin: make constraints"
        for pin in found:
            version = str(pin.specifier).removeprefix("==")
            assert requirement.specifier.contains(version, prereleases=True), f"{requirement} is pinned to {version}"
