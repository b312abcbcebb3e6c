"""Who may import whom. The layers are in ``pyproject.toml`` below ``tool.importlinter``."""

from __future__ import annotations

import ast
import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LINKED_FOLDERS = ("blocks", "flows", "tasks")
CLI = Path("src/flexai/cli")

UNPICKLERS = frozenset({"cPickle", "cloudpickle", "dill", "joblib", "marshal", "pickle", "shelve", "torch"})
CLOUD_SDKS = frozenset({"boto3", "botocore", "google"})
TRANSFER_MANAGERS = frozenset({"s3transfer", "awscrt", "boto3.s3.transfer"})
TRANSFERS_AND_PRESIGNED_URLS = frozenset(
    {
        *(f"{verb}_{what}" for verb in ("upload", "download") for what in ("file", "fileobj", "directory")),
        *("TransferConfig", "S3Transfer", "TransferManager", "generate_presigned_url", "generate_presigned_post"),
    }
)
CLOUD_FOLDERS = (Path("src/flexai/checkpoints/storage"), Path("src/flexai/connections"))
HEAVY = ("alembic", "boto3", "google.cloud", "numpy", "prefect", "pydantic", "requests", "rich", "sqlalchemy", "yaml")


@dataclass(frozen=True)
class Import:
    """One import statement, or a call of ``import_module`` with a name written out."""

    file: Path
    line: int
    module: str
    at_import_time: bool
    """Whether it runs as soon as its file is imported."""

    @property
    def root(self) -> str:
        return self.module.partition(".")[0]

    def __str__(self) -> str:
        return f"{self.file}:{self.line} imports {self.module}"


def _imports_of(file: Path) -> list[Import]:
    found: list[Import] = []

    def visit(node: ast.AST, at_import_time: bool) -> None:
        modules: list[str] = []
        match node:
            case ast.Import():
                modules = [alias.name for alias in node.names]
            case ast.ImportFrom(level=0, module=str(module)):
                modules = [module]
            case ast.Call(
                func=ast.Name(id="import_module" | "__import__") | ast.Attribute(attr="import_module"),
                args=[ast.Constant(value=str(module)), *_],
            ):
                modules = [module]
            case ast.If(test=ast.Name(id="TYPE_CHECKING") | ast.Attribute(attr="TYPE_CHECKING")):
                # Read by type checkers alone.
                for statement in node.orelse:
                    visit(statement, at_import_time)
                return
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.Lambda():
                at_import_time = False
        found.extend(Import(file, getattr(node, "lineno", 0), module, at_import_time) for module in modules)
        for child in ast.iter_child_nodes(node):
            visit(child, at_import_time)

    visit(ast.parse((ROOT / file).read_text(encoding="utf-8"), filename=str(file)), True)
    return found


def _source_files() -> Iterator[Path]:
    for folder in ("src/flexai", *LINKED_FOLDERS):
        for file in sorted((ROOT / folder).rglob("*.py")):
            yield file.relative_to(ROOT)


@pytest.fixture(scope="module")
def imports() -> list[Import]:
    return [found for file in _source_files() for found in _imports_of(file)]


def _isolated(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("folder", LINKED_FOLDERS)
def test_a_linked_folder_is_part_of_the_package(folder: str) -> None:
    assert importlib.util.find_spec(f"flexai.{folder}") is not None


def test_imports_keep_to_the_layers() -> None:
    pytest.importorskip("importlinter", reason="import-linter is not installed: pip install --group lint")
    lint = "import sys; from importlinter.cli import lint_imports as lint; sys.exit(lint(no_cache=True, no_logo=True))"
    done = subprocess.run([sys.executable, "-c", lint], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_nothing_that_unpickles_is_imported(imports: list[Import]) -> None:
    assert [str(found) for found in imports if found.root in UNPICKLERS] == []


def test_cloud_sdks_are_imported_by_stores_and_connections_alone(imports: list[Import]) -> None:
    cloud = [found for found in imports if found.root in CLOUD_SDKS]
    assert [str(found) for found in cloud if not any(map(found.file.is_relative_to, CLOUD_FOLDERS))] == []


def test_cloud_sdks_are_imported_only_when_they_are_needed(imports: list[Import]) -> None:
    assert [str(found) for found in imports if found.root in CLOUD_SDKS and found.at_import_time] == []


def test_no_transfer_manager_is_used_and_no_url_is_signed(imports: list[Import]) -> None:
    # The transfer manager of S3's SDK hands over to a client in C where that is installed, which goes past an endpoint
    # of one's own; URLs it signs in the way of SigV2 unless told otherwise, which most services refuse.
    managers = [found for found in imports if found.module.startswith(tuple(TRANSFER_MANAGERS))]
    assert [str(found) for found in managers] == []
    used = [
        f"{file}:{node.lineno} uses {node.attr}"
        for file in _source_files()
        for node in ast.walk(ast.parse((ROOT / file).read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and node.attr in TRANSFERS_AND_PRESIGNED_URLS
    ]
    assert used == []


def test_the_folders_names_are_never_imported_as_top_level_packages(imports: list[Import]) -> None:
    # Nearly every Prefect user has their own `flows` or `tasks`.
    assert [str(found) for found in imports if found.root in {"src", "tests", *LINKED_FOLDERS}] == []


def test_command_files_import_only_click_and_the_standard_library_at_once(imports: list[Import]) -> None:
    light = {*sys.stdlib_module_names, "click", "flexai"}
    at_once = [found for found in imports if found.file.is_relative_to(CLI) and found.at_import_time]
    assert [str(found) for found in at_once if found.root not in light] == []


def test_no_command_file_pulls_in_a_heavy_package() -> None:
    loaded = _isolated(
        "import importlib, pkgutil, sys, flexai.cli\n"
        "for module in pkgutil.walk_packages(flexai.cli.__path__, 'flexai.cli.'):\n"
        "    module.name.endswith('__main__') or importlib.import_module(module.name)\n"
        "print(*sys.modules, sep='\\n')"
    ).splitlines()
    assert "flexai.cli" in loaded
    assert sorted(set(HEAVY) & set(loaded)) == []
