from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from pydantic import SecretStr

from flexai.checkpoints.errors import (
    IntegrityError,
    NotFoundError,
    SourceChangedError,
    StorageError,
    UnsafePathError,
    UsageError,
)
from flexai.checkpoints.storage.hub.repository import HubStorage
from flexai.checkpoints.storage.protocol import BLOCK_SIZE, BytesBody, ObjectStorage
from tests.servers.hub import Fault, Hub, HubFile

from .hub_samples import CONFIG, FILES, TOKEN, WEIGHTS, OpenRepo, content_of, read

# Revisions and commits.


def test_a_branch_is_the_commit_that_it_was_when_it_was_first_looked_up(hub: Hub, open_repo: OpenRepo) -> None:
    storage = open_repo()
    first = storage.commit
    assert first == hub.repositories[0].revisions["main"]
    hub.repositories[0].commit({"config.json": HubFile(b"new"), "added.txt": HubFile(b"new")})
    assert storage.commit == first
    assert read(storage, "config.json") == CONFIG
    assert [info.key for info in storage.list("")] == sorted(FILES)
    assert len(hub.asked("hub", "/revision/")) == 1
    assert open_repo().commit != first


@pytest.mark.parametrize("revision", ["v1.0", "feature/new", "refs/pr/7", "with space"])
def test_any_branch_or_tag_can_be_read(hub: Hub, open_repo: OpenRepo, revision: str) -> None:
    commit = hub.repositories[0].commit({"other.txt": HubFile(b"other")}, revision)
    storage = open_repo(revision=revision)
    assert storage.commit == commit
    assert read(storage, "other.txt") == b"other"


def test_a_commit_can_be_read_after_the_branch_has_moved(hub: Hub, open_repo: OpenRepo) -> None:
    commit = hub.repositories[0].revisions["main"]
    hub.repositories[0].commit({"config.json": HubFile(b"new")})
    storage = open_repo(revision=commit)
    assert storage.commit == commit
    assert read(storage, "config.json") == CONFIG


def test_nothing_is_asked_before_something_is_wanted(hub: Hub, open_repo: OpenRepo) -> None:
    storage = open_repo()
    assert storage.location == f"{hub.endpoint}/org/model@main"
    assert storage.service_identity == ""
    assert hub.requests == []


def test_a_repository_that_was_renamed_is_read_under_its_new_name(hub: Hub, open_repo: OpenRepo) -> None:
    hub.add("openai-community/gpt2", FILES, former_names={"gpt2"})
    storage = open_repo("gpt2", token=SecretStr(TOKEN))
    assert read(storage, "config.json") == CONFIG
    assert read(storage, "model.safetensors") == WEIGHTS
    assert [one.path for one in hub.asked("hub") if "/gpt2" in one.path and "openai" not in one.path] == [
        "/api/models/gpt2/revision/main"
    ]
    assert all(one.authorization == f"Bearer {TOKEN}" for one in hub.asked("hub"))


@pytest.mark.parametrize("repo_type", ["dataset", "space"])
def test_other_types_of_repositories_have_places_of_their_own(hub: Hub, open_repo: OpenRepo, repo_type: str) -> None:
    hub.add("org/model", {"data.csv": b"1", "big.bin": HubFile(b"22", is_large=True)}, type=repo_type)
    storage = open_repo(repo_type=repo_type)
    assert [info.key for info in storage.list("")] == ["big.bin", "data.csv"]
    assert read(storage, "data.csv") == b"1"
    assert read(storage, "big.bin") == b"22"


def test_a_type_that_is_none_is_refused(open_repo: OpenRepo) -> None:
    with pytest.raises(UsageError, match="kernel"):
        open_repo(repo_type="kernel")


@pytest.mark.parametrize(
    "endpoint",
    [
        "",
        "huggingface.co",
        "ftp://huggingface.co",
        "https://",
        "https://user:pw@hub.example",
        "https://hub.example/?a=b",
    ],
)
def test_an_endpoint_that_is_none_is_refused(endpoint: str) -> None:
    with pytest.raises(UsageError, match="endpoint") as raised:
        HubStorage("org/model", endpoint=endpoint)
    assert "pw" not in str(raised.value)


# Listings.


@pytest.mark.parametrize("page_size", [1, 2, 3, 1000])
def test_every_file_is_listed_once_in_order_over_any_number_of_pages(
    hub: Hub, open_repo: OpenRepo, page_size: int
) -> None:
    hub.page_size = page_size
    assert [info.key for info in open_repo().list("")] == sorted(FILES)


def test_a_listing_tells_sizes_and_the_digests_that_the_hub_has(open_repo: OpenRepo) -> None:
    infos = {info.key: info for info in open_repo().list("")}
    for key, file in FILES.items():
        assert infos[key].size == len(content_of(file))
        if isinstance(file, HubFile):
            assert infos[key].checksums == {"sha256": file.sha256}
            assert infos[key].etag == file.sha256
        else:
            assert infos[key].checksums is None
            assert infos[key].etag == HubFile(file).oid


@pytest.mark.parametrize(
    ("prefix", "keys"),
    [
        ("onnx/", ["onnx/int8/config.json", "onnx/model.onnx"]),
        ("onnx", ["onnx-extra/notes.txt", "onnx/int8/config.json", "onnx/model.onnx"]),
        ("onnx/int8/", ["onnx/int8/config.json"]),
        ("onnx/m", ["onnx/model.onnx"]),
        ("config.json", ["config.json"]),
        ("config.json/", []),
        ("missing/", []),
        ("missing/folder/file", []),
        ("zzz", []),
    ],
)
def test_a_prefix_may_end_anywhere(open_repo: OpenRepo, prefix: str, keys: list[str]) -> None:
    assert [info.key for info in open_repo().list(prefix)] == keys
    storage = open_repo()
    assert len(list(storage.list(""))) == len(FILES)
    assert [info.key for info in storage.list(prefix)] == keys


def test_only_the_folder_that_is_wanted_is_listed(hub: Hub, open_repo: OpenRepo) -> None:
    storage = open_repo()
    assert [info.key for info in storage.list("onnx/int8/")] == ["onnx/int8/config.json"]
    (asked,) = hub.asked("hub", "/tree/")
    assert asked.path.endswith(f"/tree/{storage.commit}/onnx/int8")


def test_what_has_been_listed_is_not_asked_for_again(hub: Hub, open_repo: OpenRepo) -> None:
    storage = open_repo()
    listed = {info.key: info for info in storage.list("")}
    asked = len(hub.requests)
    assert {info.key: info for info in storage.list("")} == listed
    assert {key: storage.head(key) for key in FILES} == listed
    with pytest.raises(NotFoundError):
        storage.head("onnx/missing")
    assert len(hub.requests) == asked


def test_an_empty_repository_has_no_files(hub: Hub, open_repo: OpenRepo) -> None:
    hub.add("org/empty")
    assert list(open_repo("org/empty").list("")) == []


def test_behind_a_mirror_pages_are_asked_of_the_mirror(hub: Hub, open_repo: OpenRepo) -> None:
    hub.page_size = 2
    hub.next_page_host = "https://huggingface.co"
    assert [info.key for info in open_repo(token=SecretStr(TOKEN)).list("")] == sorted(FILES)


def test_pages_that_lead_in_a_circle_are_left(hub: Hub, open_repo: OpenRepo) -> None:
    link = f'<{hub.endpoint}/api/models/org/model/tree/x?cursor=1>; rel="next"'
    hub.faults.append(Fault("hub", "/tree/", times=10, headers={"Link": link}))
    with pytest.raises(StorageError, match="circle"):
        list(open_repo().list(""))


@pytest.mark.parametrize(
    "document",
    [
        b"<html>Sign in to the hotel's wifi</html>",
        b"{}",
        b"[]",
        b'{"sha": "main"}',
        b"[1]",
        b'[{"path": "x"}]',
        b"\xff",
    ],
)
def test_a_server_that_is_no_hub_is_told_from_one(hub: Hub, open_repo: OpenRepo, document: bytes) -> None:
    hub.replies["/revision/"] = document
    with pytest.raises(StorageError, match="answered with something"):
        open_repo().commit
    hub.replies = {"/tree/": document}
    if document != b"[]":
        with pytest.raises(StorageError, match="answered with something"):
            list(open_repo().list(""))


# Reading.


@pytest.mark.parametrize("key", sorted(FILES))
def test_a_whole_file_is_read(open_repo: OpenRepo, key: str) -> None:
    assert read(open_repo(), key) == content_of(FILES[key])


@pytest.mark.parametrize(
    ("start", "length"),
    [
        (0, 1),
        (0, len(WEIGHTS)),
        (5, 10),
        (BLOCK_SIZE - 1, 2),
        (BLOCK_SIZE, BLOCK_SIZE),
        (len(WEIGHTS) - 1, 1),
        (1000, None),
        (3, 0),
        (len(WEIGHTS), None),
        (len(WEIGHTS), 0),
    ],
)
@pytest.mark.parametrize("without_ranges", [False, True])
def test_a_range_is_read_to_the_byte(
    hub: Hub, open_repo: OpenRepo, start: int, length: int | None, without_ranges: bool
) -> None:
    hub.faults.append(Fault("cdn", "/content/", without_ranges=without_ranges))
    stop = len(WEIGHTS) if length is None else start + length
    assert read(open_repo(), "model.safetensors", start=start, length=length) == WEIGHTS[start:stop]


def test_a_range_of_a_small_file_is_read_to_the_byte(open_repo: OpenRepo) -> None:
    assert read(open_repo(), "config.json", start=2, length=10) == CONFIG[2:12]


@pytest.mark.parametrize("key", ["config.json", "model.safetensors", "empty.txt"])
def test_a_range_that_the_file_has_not_got_is_refused(open_repo: OpenRepo, key: str) -> None:
    size = len(content_of(FILES[key]))
    for start, length in [(0, size + 1), (size, 1), (size + 1, 0), (size + 1, None)]:
        with pytest.raises(IntegrityError, match="shorter"):
            read(open_repo(), key, start=start, length=length)


def test_no_block_is_larger_than_a_reader_expects(open_repo: OpenRepo) -> None:
    assert all(0 < len(block) <= BLOCK_SIZE for block in open_repo().get("model.safetensors"))


@pytest.mark.parametrize(
    "name", ["with space", "percent%41%2F", "hash#tag", "question?a=b&c", "plus+", "ü/日本語", "a'b\"c"]
)
@pytest.mark.parametrize("is_large", [False, True])
def test_an_unusual_name_is_asked_for_as_it_is(hub: Hub, open_repo: OpenRepo, name: str, is_large: bool) -> None:
    hub.add("org/odd", {name: HubFile(b"content", is_large), f"{name} folder/{name}": b"below"})
    storage = open_repo("org/odd")
    assert [info.key for info in storage.list("")] == sorted([name, f"{name} folder/{name}"])
    assert [info.key for info in open_repo("org/odd").list(f"{name} folder/")] == [f"{name} folder/{name}"]
    assert read(storage, name, start=1, length=3) == b"ont"


@pytest.mark.parametrize("key", ["", "..", "../up", "a//b", "/absolute", "folder/", "nul\0"])
def test_an_unsafe_key_is_refused_before_anything_is_asked(hub: Hub, open_repo: OpenRepo, key: str) -> None:
    storage = open_repo()
    for door in (lambda: storage.head(key), lambda: next(storage.get(key))):
        with pytest.raises(UnsafePathError):
            door()
    assert hub.requests == []


def test_a_reader_with_the_right_etag_reads_and_one_with_another_is_told(open_repo: OpenRepo) -> None:
    storage = open_repo()
    for key in ("config.json", "model.safetensors"):
        etag = storage.head(key).etag
        assert read(storage, key, start=1, length=2, etag=etag) == content_of(FILES[key])[1:3]
        with pytest.raises(SourceChangedError):
            read(storage, key, etag="0" * len(etag))


def test_a_large_file_is_asked_of_the_hub_once_however_many_ranges_are_read(hub: Hub, open_repo: OpenRepo) -> None:
    storage = open_repo(token=SecretStr(TOKEN))
    size = 100_000
    starts = range(0, len(WEIGHTS), size)
    barrier = threading.Barrier(8)

    def part(start: int) -> bytes:
        if start < 8 * size:
            barrier.wait(timeout=30)
        return read(storage, "model.safetensors", start=start, length=min(size, len(WEIGHTS) - start))

    with ThreadPoolExecutor(8) as pool:
        assert b"".join(pool.map(part, starts)) == WEIGHTS
    (resolved,) = hub.asked("hub", "/resolve/")
    assert resolved.range == ""  # an address could be signed for the range that was asked for
    assert len(hub.asked("cdn")) == len(starts)
    assert all(one.range for one in hub.asked("cdn"))


def test_a_reader_that_is_given_up_leaves_the_store_usable(open_repo: OpenRepo) -> None:
    storage = open_repo()
    for _ in range(20):
        reader = storage.get("model.safetensors")
        next(reader)
        reader.close()  # type: ignore[attr-defined]
    assert read(storage, "model.safetensors") == WEIGHTS


# Integrity.


@pytest.mark.parametrize("key", ["config.json", "model.safetensors"])
def test_a_whole_file_with_another_content_is_noticed_before_its_last_block(
    hub: Hub, open_repo: OpenRepo, key: str
) -> None:
    content = content_of(FILES[key])
    damaged = content[:-1] + bytes([content[-1] ^ 1])
    server, part = ("cdn", "/content/") if key == "model.safetensors" else ("hub", "/resolve-cache/")
    hub.faults.append(Fault(server, part, content=damaged))  # type: ignore[arg-type]
    got = bytearray()
    with pytest.raises(IntegrityError, match="digest"):
        for block in open_repo().get(key):
            got += block
    assert len(got) < len(content)


@pytest.mark.parametrize("key", ["config.json", "model.safetensors"])
@pytest.mark.parametrize("change", [-1, 1])
def test_a_file_of_another_size_than_listed_is_noticed(hub: Hub, open_repo: OpenRepo, key: str, change: int) -> None:
    content = content_of(FILES[key])
    other = content[:-1] if change < 0 else content + b"x"
    server, part = ("cdn", "/content/") if key == "model.safetensors" else ("hub", "/resolve-cache/")
    hub.faults.append(Fault(server, part, times=9, content=other))  # type: ignore[arg-type]
    with pytest.raises(SourceChangedError, match="not the file"):
        read(open_repo(), key, start=0, length=5)


@pytest.mark.parametrize(
    ("part", "key", "headers"),
    [
        ("/resolve/", "model.safetensors", {"X-Repo-Commit": "0" * 40}),
        ("/resolve/", "model.safetensors", {"X-Linked-Etag": f'"{"0" * 64}"'}),
        ("/resolve/", "model.safetensors", {"X-Linked-Size": "5"}),
        ("/resolve-cache/", "config.json", {"X-Repo-Commit": "0" * 40}),
        ("/resolve-cache/", "config.json", {"ETag": f'W/"{"0" * 40}"'}),
    ],
)
def test_an_answer_that_speaks_of_another_file_is_refused(
    hub: Hub, open_repo: OpenRepo, part: str, key: str, headers: dict[str, str | None]
) -> None:
    hub.faults.append(Fault("hub", part, headers=headers))
    with pytest.raises(SourceChangedError, match="not the file"):
        read(open_repo(), key)


@pytest.mark.parametrize("sent", ["bytes 0-9/{size}", "bytes 20-29/{size}", "nonsense", None])
def test_another_range_than_the_one_asked_for_is_refused(hub: Hub, open_repo: OpenRepo, sent: str | None) -> None:
    value = None if sent is None else sent.format(size=len(WEIGHTS))
    hub.faults.append(Fault("cdn", "/content/", headers={"Content-Range": value}))
    with pytest.raises(StorageError, match=r"another range|not said how many"):
        read(open_repo(), "model.safetensors", start=10, length=10)


def test_compressed_content_is_refused(hub: Hub, open_repo: OpenRepo) -> None:
    hub.faults.append(Fault("cdn", "/content/", headers={"Content-Encoding": "gzip"}))
    with pytest.raises(StorageError, match="compressed"):
        read(open_repo(), "model.safetensors")


def test_a_server_without_ranges_is_not_made_to_send_a_large_file_for_each_part(
    hub: Hub, open_repo: OpenRepo, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flexai.checkpoints.storage.hub.repository._MAX_SKIPPED", 1000)
    hub.faults.append(Fault("cdn", "/content/", times=9, without_ranges=True))
    assert read(open_repo(), "model.safetensors", start=1000, length=10) == WEIGHTS[1000:1010]
    with pytest.raises(StorageError, match="no ranges"):
        read(open_repo(), "model.safetensors", start=1001, length=10)


# Writing.


def test_a_repository_cannot_be_written_to(hub: Hub, open_repo: OpenRepo) -> None:
    storage: ObjectStorage = open_repo()
    body = BytesBody(b"x")
    for write in (
        lambda: storage.put("a", body),
        lambda: storage.copy(storage, "config.json", "a"),
        lambda: storage.delete(["config.json"]),
        lambda: storage.start_upload("a", size=1),
        lambda: storage.put_part("a", "1", number=1, offset=0, body=body),
        lambda: storage.complete_upload("a", "1", ()),
        lambda: storage.abort_upload("a", "1"),
    ):
        with pytest.raises(UsageError, match="read-only here"):
            write()
    assert list(storage.list_uploads("")) == []
    assert not storage.has_upload("a", "1")
    assert hub.requests == []
