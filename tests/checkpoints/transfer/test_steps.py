from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from flexai.checkpoints.contents import StoredContent, StoredFile
from flexai.checkpoints.errors import DestinationExistsError
from flexai.checkpoints.paths import CheckpointPath
from flexai.checkpoints.settings import Limits
from flexai.checkpoints.transfer.steps import (
    Action,
    Held,
    Idle,
    Preview,
    Step,
    Wire,
    deletion_steps,
    export_steps,
    fetch_steps,
    gc_steps,
    preview_document,
    push_steps,
    taken_name_steps,
)
from tests.support.sources import PlannedSource, planned_sources

LIMITS = Limits(concurrency=4, bandwidth=0, part_size=100, pack_threshold=50, pack_size=200)
HERE = Wire(is_remote=False, min_part_size=1, max_parts=10_000)
THERE = Wire(is_remote=True, min_part_size=1, max_parts=10_000)


def _content(size: int, number: int = 0, *, digest: bytes | None = b"d" * 32) -> StoredContent:
    return StoredContent(
        id=number, blob_id=f"b{number}", start=0, size=size, part_size=100, digest=digest, part_digests=b""
    )


def _files(sizes: list[int], prefix: str) -> list[StoredFile]:
    return [StoredFile(f"{prefix}{number}", _content(size, number)) for number, size in enumerate(sizes)]


_SIZES = st.lists(st.integers(0, 1000), max_size=20)


@given(_SIZES, st.sets(st.integers(0, 1000)), st.sets(st.integers(0, 19)), st.booleans())
def test_each_source_has_one_step_and_moves_no_more_than_its_bytes(
    sizes: list[int], there: set[int], known: set[int], is_remote: bool
) -> None:
    sources = planned_sources(sizes)
    held = Held(
        known={source.path: _content(source.size) for number, source in enumerate(sources) if number in known},
        sizes=there,
    )
    steps, requests = push_steps(sources, held, LIMITS, store=THERE if is_remote else HERE, provider=HERE)
    assert [step.name for step in steps] == [source.path for source in sources]
    assert all(0 <= step.moved_bytes <= step.size for step in steps)
    for step, source in zip(steps, sources, strict=True):
        if source.path in held.known:
            assert (step.action, step.moved_bytes) == (Action.SKIP, 0)
        else:
            assert step.action is (Action.COMPARE if source.size in there else Action.MOVE)
    assert requests >= 2 if is_remote else requests == 0


def test_a_push_asks_for_each_part_and_for_each_pack() -> None:
    _, requests = push_steps(planned_sources([250, 10, 10]), Held(), LIMITS, store=THERE, provider=HERE)
    assert requests == 2 + (1 + 3 + 1) + 1


@given(_SIZES, _SIZES, _SIZES, st.booleans())
def test_what_is_in_the_way_is_replaced_on_request_and_a_conflict_else(
    kept: list[int], missing: list[int], others: list[int], overwrite: bool
) -> None:
    standing = (_files(kept, "k"), _files(missing, "m"), _files(others, "o"))
    fetched, _ = fetch_steps(*standing, begun=set(), overwrite=overwrite, limits=LIMITS, store=THERE)
    exported, _ = export_steps(
        *standing, copied=set(), overwrite=overwrite, is_new=True, limits=LIMITS, store=THERE, place=THERE
    )
    for steps in (fetched, exported):
        preview = Preview("fetch", "llama", steps)
        assert len(steps) == len(kept) + len(missing) + len(others)
        counts = {action: count for action, (count, _) in preview.by_action().items()}
        assert counts.get(Action.SKIP, 0) == len(kept)
        assert counts.get(Action.CONFLICT, 0) == (0 if overwrite else len(others))
        assert preview.moved_bytes == sum(missing) + (sum(others) if overwrite else 0)


def test_a_taken_name_says_what_differs_as_far_as_that_is_known() -> None:
    sources = [
        PlannedSource(CheckpointPath("equal"), 5, digest=(b"d" * 32).hex()),
        PlannedSource(CheckpointPath("longer"), 6),
        PlannedSource(CheckpointPath("new"), 5),
        PlannedSource(CheckpointPath("other"), 5, digest=(b"e" * 32).hex()),
        PlannedSource(CheckpointPath("unread"), 5),
    ]
    files = [StoredFile(path, _content(5)) for path in ("equal", "gone", "longer", "other", "unread")]
    assert {step.name: step.action for step in taken_name_steps(sources, files)} == {
        "equal": Action.SKIP,
        "gone": Action.CONFLICT,
        "longer": Action.CONFLICT,
        "new": Action.CONFLICT,
        "other": Action.CONFLICT,
        "unread": Action.COMPARE,
    }


def test_a_deletion_frees_blobs_that_no_other_checkpoint_needs() -> None:
    steps, freed = deletion_steps(_files([10, 20], "f"), {"b0": (10, 0), "b1": (90, 2)})
    assert freed == 10
    assert [(step.action, step.why) for step in steps] == [
        (Action.FREE, "no other checkpoint needs it"),
        (Action.SKIP, "stays: 2 others need its pack"),
    ]


def test_what_several_that_go_share_is_counted_once() -> None:
    idle = [Idle("one", "deleted 2d ago", ["a", "b"]), Idle("two", "deleted 1d ago", ["b", "c", "kept"])]
    steps, freed = gc_steps(idle, {"a": 1, "b": 10, "c": 100, "stray": 1000})
    assert [(step.name, step.size) for step in steps] == [("one", 11), ("two", 100), ("1 blob", 1000)]
    assert freed == 1111


def test_the_document_has_every_step_and_the_conflict() -> None:
    steps = [Step(Action.CONFLICT, "a", 2048, "other content is there"), Step(Action.MOVE, "b", 1, "new", 1)]
    conflict = DestinationExistsError("other content is already at a")
    document = preview_document(Preview("fetch", "llama", steps, requests=3, conflict=conflict))
    assert document["conflict"] == "other content is already at a"
    assert (document["movedBytes"], document["requests"]) == (1, 3)
    assert document["summary"] == [
        {"action": "conflict", "count": 1, "size": "2 KB", "sizeBytes": 2048},
        {"action": "move", "count": 1, "size": "1 byte", "sizeBytes": 1},
    ]
    assert [step["name"] for step in document["steps"]] == ["a", "b"]
