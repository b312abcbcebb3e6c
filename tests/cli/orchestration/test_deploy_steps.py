"""Deploying while others deploy."""

from __future__ import annotations

from typing import Any

import pytest
from prefect.blocks.core import Block
from prefect.exceptions import ObjectAlreadyExists

from flexai import blocks
from flexai.cli.orchestration.deploy_steps import register_blocks
from tests.servers.prefect import PrefectServer


def test_kinds_of_connections_that_another_one_registers_at_the_same_moment_are_registered(
    prefect_api: PrefectServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    register = Block.aregister_type_and_schema.__func__  # type: ignore[attr-defined]
    refused: list[type[Block]] = []

    async def register_second(kind: type[Block], client: Any = None) -> None:
        if kind not in refused:
            refused.append(kind)
            raise ObjectAlreadyExists(RuntimeError("409 Conflict"))
        await register(kind, client=client)

    monkeypatch.setattr(Block, "aregister_type_and_schema", classmethod(register_second))
    slugs = register_blocks()
    assert set(refused) == set(blocks.PROVIDERS.values())
    known = {found["slug"] for found in prefect_api.post("/block_types/filter", {})}
    assert set(slugs) <= known
