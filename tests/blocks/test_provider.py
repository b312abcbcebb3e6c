"""What holds for every kind of connection."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import ClassVar, get_args

import pytest
from prefect.testing.standard_test_suites.blocks import BlockStandardTestSuite
from pydantic import SecretStr, ValidationError

from flexai import blocks
from flexai.blocks import PROVIDERS, LocalStorageProvider, StorageProvider
from flexai.checkpoints.storage.connection import StorageConnection
from flexai.checkpoints.storage.kinds import KINDS, SecretOption

from .samples import least_fields

EACH = pytest.mark.parametrize("kind", PROVIDERS.values(), ids=PROVIDERS.keys())

ONLY_IN_FORMS = {"session_token", "create_buckets"}
"""Fields that the command line has no option for."""


@EACH
class TestBlockStandards(BlockStandardTestSuite):
    """Prefect's own rules for blocks of a collection."""

    @pytest.fixture
    def block(self, kind: type[StorageProvider]) -> type[StorageProvider]:
        return kind

    def test_has_a_valid_image(self, block: type[StorageProvider]) -> None:  # type: ignore[override]
        """Prefect's test downloads the picture; this one only looks at the URL."""
        assert re.fullmatch(r"https://\S+\.(png|svg)", str(block._logo_url))


@EACH
def test_its_form_asks_for_nothing_that_the_program_keeps(kind: type[StorageProvider]) -> None:
    asked = set(kind.model_json_schema()["properties"])
    assert asked == set(kind.model_fields) - {"schema_version", "capabilities"}


@EACH
def test_its_snippet_loads_what_is_saved(kind: type[StorageProvider]) -> None:
    snippet = kind.get_code_example() or ""
    assert f'{kind.__name__}.load("BLOCK_NAME")' in snippet
    assert "save" not in snippet and f"{kind.__name__}(" not in snippet


@EACH
def test_its_type_belongs_to_flexai(kind: type[StorageProvider]) -> None:
    assert kind.get_block_type_slug().startswith("flexai-")
    assert kind.get_block_type_name().startswith("FlexAI ")


@EACH
def test_every_field_is_flat(kind: type[StorageProvider]) -> None:
    """Nested blocks and models are loaded as the wrong class, or shown badly in Prefect's forms."""
    schema = kind.model_json_schema()
    assert not schema.get("$defs") and not schema.get("definitions")


@EACH
def test_a_block_is_what_the_registry_says_of_its_kind(kind: type[StorageProvider]) -> None:
    assert PROVIDERS[kind.provider] is kind
    assert getattr(blocks, kind.__name__) is kind
    options = KINDS[kind.provider].options
    fields = {name: field for name, field in kind.model_fields.items() if name not in StorageProvider.model_fields}
    assert set(options) == set(fields) - ONLY_IN_FORMS
    for name, option in options.items():
        field = fields[name]
        assert field.is_required() == option.is_required, name
        assert isinstance(option, SecretOption) == (field.annotation is SecretStr), name
        if option.choices:
            assert {*option.choices, field.default} == set(get_args(field.annotation)), name
        is_switch = not (option.metavar or option.choices or isinstance(option, SecretOption))
        assert is_switch == (field.annotation is bool), name


@EACH
def test_the_least_connection_of_a_kind_is_one(kind: type[StorageProvider]) -> None:
    fields = least_fields(kind.provider)
    assert kind.model_validate(fields).location
    # A form that was left half empty saves nulls.
    optional = {name for name, field in kind.model_fields.items() if not field.is_required()} - fields.keys()
    assert kind.model_validate(fields | dict.fromkeys(optional)).location


def test_a_mistyped_field_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="there is no field 'create_bukets'"):
        LocalStorageProvider(root=str(tmp_path), create_bukets=False)


def test_a_connection_that_a_newer_version_saved_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="newer version"):
        LocalStorageProvider(root=str(tmp_path), schema_version=2)


class _Shrunken(LocalStorageProvider):
    """A kind of which a field was given up.

    Example:
        Load it:
        ```python
        from tests import _Shrunken
        provider = _Shrunken.load("BLOCK_NAME")
        ```
    """

    _block_type_slug = "flexai-test-shrunken"
    retired_fields: ClassVar[frozenset[str]] = frozenset({"colour"})


def test_a_field_that_was_given_up_is_forgotten(tmp_path: Path) -> None:
    provider = _Shrunken.model_validate({"root": str(tmp_path), "colour": "blue"})
    assert "colour" not in provider.model_dump()


def test_it_is_a_connection_of_the_checkpoint_system(tmp_path: Path) -> None:
    provider: StorageConnection = LocalStorageProvider(root=str(tmp_path))
    assert provider.open("bucket/prefix").prefix == "prefix/"


def test_importing_the_blocks_imports_no_cloud_sdk_and_no_server() -> None:
    """Prefect imports every collection at each start of a worker."""
    code = (
        "import sys, prefect; before = set(sys.modules); import flexai.blocks;"
        "print(*{name.partition('.')[0] for name in set(sys.modules) - before})"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "flexai" in loaded
    assert {"boto3", "botocore", "google", "sqlalchemy", "fastapi"}.isdisjoint(loaded)
