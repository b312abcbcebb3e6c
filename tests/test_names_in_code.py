"""Names in the package: one for each thing, and none that nothing uses."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("src/flexai", "blocks", "tasks", "flows")
"""The package, without the links to the last three in the first."""

Modules = Mapping[str, ast.Module]
"""The package's modules by their names."""


@pytest.fixture(scope="module")
def modules() -> Modules:
    found = {}
    for folder in FOLDERS:
        for file in sorted((ROOT / folder).rglob("*.py")):
            path = file.relative_to(ROOT / "src") if folder == "src/flexai" else Path("flexai") / file.relative_to(ROOT)
            if "migrations" not in path.parts[:-1] or path.name == "__init__.py":
                name = ".".join(path.with_suffix("").parts).removesuffix(".__init__")
                found[name] = ast.parse(file.read_text(encoding="utf-8"))
    return found


def _types_of(tree: ast.Module) -> Iterator[str]:
    """The classes, and the aliases of types, that a module makes."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            yield node.name
    for statement in tree.body:
        match statement:
            case ast.AnnAssign(target=ast.Name(id=name), annotation=ast.Name(id="TypeAlias")):
                yield name
            case ast.Assign(targets=[ast.Name(id=name)]) if re.fullmatch(r"_?[A-Z]\w*[a-z]\w*", name):
                yield name


def _names_of(tree: ast.Module) -> Iterator[str]:
    """The functions, classes and variables that a module makes at its top; not what a flow's decorator registers."""
    for statement in tree.body:
        match statement:
            case ast.FunctionDef(name=name, decorator_list=decorators):
                if "flow" not in {
                    part.id for one in decorators for part in ast.walk(one) if isinstance(part, ast.Name)
                }:
                    yield name
            case ast.ClassDef(name=name) | ast.AnnAssign(target=ast.Name(id=name)):
                yield name
            case ast.Assign(targets=targets):
                yield from (target.id for target in targets if isinstance(target, ast.Name))


def _imported_modules(tree: ast.Module, modules: Modules) -> set[str]:
    found = set()
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                found |= {alias.name for alias in names}
            case ast.ImportFrom(module=str(module), names=names):
                found |= {module, *(f"{module}.{alias.name}" for alias in names)}
    return found & modules.keys()


def _uses(modules: Modules) -> Mapping[str, set[str]]:
    """By module, the names of its own that it or another module uses."""
    found: dict[str, set[str]] = defaultdict(set)
    for name, tree in modules.items():
        bound: dict[str, str] = {}
        for node in ast.walk(tree):
            match node:
                case ast.ImportFrom(module=str(module), names=names):
                    found[module] |= {alias.name for alias in names}
                    bound |= {alias.asname or alias.name: f"{module}.{alias.name}" for alias in names}
                case ast.Name(id=used, ctx=ast.Load()):
                    found[name].add(used)
                case ast.Constant(value=str(text)):
                    # A command or a plugin by its place, and a type that is written as a text.
                    for module, used in re.findall(r"(flexai[\w.]*):(\w+)", text):
                        found[module].add(used)
                    if re.fullmatch(r"[\w.\[\], |]+", text):
                        found[name].update(re.findall(r"\w+", text))
        for node in ast.walk(tree):
            match node:
                case ast.Attribute(value=ast.Name(id=of), attr=used) if of in bound:
                    found[bound[of]].add(used)
    return found


def _more_than_once(names: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    places = defaultdict(list)
    for name, place in names:
        places[name].append(place)
    return {name: found for name, found in places.items() if len(found) > 1}


def test_no_two_classes_or_types_have_one_name(modules: Modules) -> None:
    twice = _more_than_once((name, module) for module, tree in modules.items() for name in _types_of(tree))
    # Each framework's users find their callback under one name.
    assert twice.keys() - {"FlexAICallback"} == set()


def test_no_two_constants_that_other_modules_import_have_one_name(modules: Modules) -> None:
    imported = {
        (node.module, alias.name)
        for tree in modules.values()
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if re.fullmatch("[A-Z][A-Z_]+", alias.name)
    }
    made = {(module, name) for module, tree in modules.items() for name in _names_of(tree)}
    assert _more_than_once((name, module) for module, name in made if (module, name) in imported) == {}


def test_no_module_imports_two_modules_of_one_name(modules: Modules) -> None:
    # An operation is a module of its name in each layer, and each service's folder has its bucket.
    operations = {
        module.rpartition(".")[2] for module in modules if module.startswith(("flexai.tasks.", "flexai.flows."))
    } & {module.rpartition(".")[2] for module in modules if module.startswith("flexai.checkpoints.service.")}
    allowed = operations | {"bucket"}
    twice = {
        importer: found
        for importer, tree in modules.items()
        if (
            found := _more_than_once(
                (module.rpartition(".")[2], module)
                for module in _imported_modules(tree, modules)
                if module.rpartition(".")[2] not in allowed and module != "flexai.checkpoints"
            )
        )
    }
    assert twice == {}


def test_the_package_uses_every_function_class_and_variable_of_its_modules(modules: Modules) -> None:
    used = _uses(modules)
    ignored = set(_settings()["ignore_names"])
    unused = {
        f"{module}.{name}"
        for module, tree in modules.items()
        for name in _names_of(tree)
        if name not in used[module] | ignored and not name.startswith("__")
    }
    assert unused == set()


def _settings() -> dict[str, list[str]]:
    settings: dict[str, list[str]] = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["vulture"]
    return settings


def test_a_name_that_the_check_for_unused_code_ignores_is_one_that_it_would_report(tmp_path: Path) -> None:
    pytest.importorskip("vulture", reason="vulture is not installed: pip install --group lint")
    settings = _settings()
    bare = tmp_path / "pyproject.toml"
    bare.write_text("[tool.vulture]\n")
    told = ("--exclude", ",".join(settings["exclude"]), "--ignore-decorators", ",".join(settings["ignore_decorators"]))
    reported: set[str] = set()
    for more in ((), ("benchmarks", "docs", "examples")):
        done = subprocess.run(
            [sys.executable, "-m", "vulture", "--config", str(bare), *told, *settings["paths"], *more],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        reported |= set(re.findall(r"unused \w+ '(\w+)'", done.stdout))
    # A pattern is for names that are yet to come.
    assert {name for name in settings["ignore_names"] if "*" not in name} - reported == set()
