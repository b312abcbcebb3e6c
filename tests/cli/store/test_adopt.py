from __future__ import annotations

from datetime import datetime

import pytest

from tests.cli.conftest import Run
from tests.cli.program import Program


def test_a_program_is_told_from_which_catalog_the_store_was_taken(
    flexai: Run, program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    program.file("a.bin")
    assert flexai("checkpoint", "push", "llama", "-f", "a.bin").code == 0
    place = str(program.home / "store")
    own = flexai("store", "adopt", "--json")
    assert (own.code, own.json()) == (0, {"store": place, "takenFrom": None})

    monkeypatch.setenv("FLEXAI_DATABASE_URL", f"sqlite:///{program.home / 'other.db'}")
    refused = flexai("store", "adopt", "--json")
    assert (refused.code, refused.out) == (4, "")
    taken = flexai("store", "adopt", "--force", "--json")
    assert (taken.code, taken.json()["store"]) == (0, place)
    former = taken.json()["takenFrom"]
    assert former["place"].endswith(str(program.home / "catalog.db"))
    assert datetime.fromisoformat(former["usedAt"]).tzinfo is not None
