from __future__ import annotations

import logging
import threading
import traceback
from pathlib import Path

import pytest
from pydantic import SecretStr

from flexai.checkpoints.errors import (
    AccessDeniedError,
    CheckpointError,
    NotFoundError,
    SettingsError,
    StorageError,
    StorageUnavailableError,
)
from flexai.checkpoints.storage.hub.client import Token
from flexai.checkpoints.storage.hub.repository import HubStorage
from flexai.checkpoints.storage.protocol import BLOCK_SIZE
from tests.servers.hub import Fault, Hub, HubFile, serve_hub

from .hub_samples import CONFIG, FILES, TOKEN, WEIGHTS, OpenRepo, Waits, content_of, read

# Failures that pass.


@pytest.mark.parametrize("reset", [False, True])
@pytest.mark.parametrize("cut", [0, 1, BLOCK_SIZE + 1, len(WEIGHTS) - 1])
def test_a_transfer_that_breaks_off_goes_on_where_it_stopped(
    hub: Hub, open_repo: OpenRepo, waits: Waits, cut: int, reset: bool
) -> None:
    hub.faults.append(Fault("cdn", "/content/", cut=cut, reset=reset))
    assert read(open_repo(), "model.safetensors") == WEIGHTS
    first, second = hub.asked("cdn")
    assert first.range == f"bytes=0-{len(WEIGHTS) - 1}"
    assert int(second.range.removeprefix("bytes=").partition("-")[0]) <= cut
    assert len(waits.seconds) == 1


def test_a_transfer_that_ends_early_without_saying_how_long_it_is_goes_on(hub: Hub, open_repo: OpenRepo) -> None:
    hub.faults.append(Fault("cdn", "/content/", cut=BLOCK_SIZE, headers={"Content-Length": None}))
    assert read(open_repo(), "model.safetensors") == WEIGHTS


def test_a_transfer_that_gets_a_little_further_each_time_gets_there(
    hub: Hub, open_repo: OpenRepo, waits: Waits
) -> None:
    hub.faults.append(Fault("cdn", "/content/", times=3, cut=BLOCK_SIZE))
    storage = HubStorage("org/model", endpoint=hub.endpoint, policy=waits.policy(attempts=2))
    assert read(storage, "model.safetensors") == WEIGHTS
    assert len(waits.seconds) == 3


def test_a_transfer_that_gets_nowhere_is_given_up(hub: Hub, open_repo: OpenRepo, waits: Waits) -> None:
    hub.faults.append(Fault("cdn", "/content/", times=99, cut=0))
    with pytest.raises(StorageUnavailableError, match="broke off"):
        read(open_repo(), "model.safetensors")
    assert len(hub.asked("cdn")) == 4
    assert len(waits.seconds) == 3


@pytest.mark.parametrize("part", ["/revision/", "/tree/", "/resolve/", "/resolve-cache/"])
@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_a_hub_that_is_out_of_order_for_a_while_is_asked_again(
    hub: Hub, open_repo: OpenRepo, waits: Waits, part: str, status: int
) -> None:
    hub.faults.append(Fault("hub", part, times=2, status=status))
    storage = open_repo()
    assert read(storage, "config.json") == CONFIG
    assert read(storage, "model.safetensors") == WEIGHTS
    assert len(waits.seconds) == 2


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"Retry-After": "7"}, 7),
        ({"RateLimit": '"resolvers";r=0;t=55'}, 56),
        ({"RateLimit": '"resolvers";r=0;t=55', "Retry-After": "1"}, 56),
        ({"RateLimit": '"resolvers";r=12;t=55', "Retry-After": "9"}, 9),
        ({"RateLimit": "nonsense"}, 0),
        ({}, 0),
    ],
)
@pytest.mark.parametrize("server", ["hub", "cdn"])
def test_a_wait_that_is_asked_for_is_kept(
    hub: Hub, open_repo: OpenRepo, waits: Waits, server: str, headers: dict[str, str | None], seconds: float
) -> None:
    part = "/tree/" if server == "hub" else "/content/"
    hub.faults.append(Fault(server, part, status=429, headers=headers))  # type: ignore[arg-type]
    assert read(open_repo(), "model.safetensors", start=1, length=2) == WEIGHTS[1:3]
    (waited,) = waits.seconds
    assert seconds <= waited < max(seconds, 0.5) + 0.001


def test_a_hub_that_stays_out_of_order_is_given_up(hub: Hub, open_repo: OpenRepo) -> None:
    hub.faults.append(Fault("hub", "/revision/", times=99, status=429, headers={"Retry-After": "1"}))
    with pytest.raises(StorageUnavailableError, match="too many requests") as raised:
        open_repo().commit
    assert raised.value.retry_after == 1
    assert len(hub.asked("hub")) == 4


def test_a_hub_that_does_not_run_is_unavailable(waits: Waits) -> None:
    with serve_hub() as hub:
        endpoint = hub.endpoint
    with pytest.raises(StorageUnavailableError, match="failed or broke off"):
        HubStorage("org/model", endpoint=endpoint, policy=waits.policy()).commit


def test_a_hub_that_does_not_answer_is_not_waited_for_forever(hub: Hub, open_repo: OpenRepo) -> None:
    hub.silence = threading.Event()
    try:
        with pytest.raises(StorageUnavailableError, match="in time"):
            open_repo(read_timeout=0.05).commit
    finally:
        hub.silence.set()


def test_an_address_that_has_expired_is_asked_for_again(hub: Hub, open_repo: OpenRepo, waits: Waits) -> None:
    storage = open_repo(token=SecretStr(TOKEN))
    assert read(storage, "model.safetensors", start=0, length=10) == WEIGHTS[:10]
    hub.expire_signatures()
    assert read(storage, "model.safetensors", start=10, length=10) == WEIGHTS[10:20]
    assert read(storage, "model.safetensors", start=20, length=10) == WEIGHTS[20:30]
    assert len(hub.asked("hub", "/resolve/")) == 2
    assert len(hub.asked("cdn")) == 4
    assert waits.seconds == []


def test_an_address_that_is_refused_as_soon_as_it_is_given_is_not_asked_for_forever(
    hub: Hub, open_repo: OpenRepo
) -> None:
    hub.faults.append(Fault("cdn", "/content/", times=99, status=403))
    with pytest.raises(AccessDeniedError, match="refused it"):
        read(open_repo(), "model.safetensors")
    assert len(hub.asked("cdn")) == 2


# Tokens and repositories that need one.


@pytest.mark.parametrize(
    "token", [SecretStr(TOKEN), lambda: TOKEN, SecretStr(f" {TOKEN}\n")], ids=["secret", "call", "spaces"]
)
def test_a_private_repository_is_read_with_a_token_that_goes_to_the_hub_alone(
    hub: Hub, open_repo: OpenRepo, token: Token
) -> None:
    hub.add("org/private", FILES, is_private=True)
    storage = open_repo("org/private", token=token)
    assert {info.key: read(storage, info.key) for info in storage.list("")} == {
        key: content_of(file) for key, file in FILES.items()
    }
    assert {one.authorization for one in hub.asked("hub")} == {f"Bearer {TOKEN}"}
    assert {one.authorization for one in hub.asked("cdn")} == {""}


def test_a_netrc_of_the_user_is_sent_nowhere(
    hub: Hub, open_repo: OpenRepo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password netrc-secret\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    assert read(open_repo(), "model.safetensors") == WEIGHTS
    assert {one.authorization for one in hub.requests} == {""}
    assert read(open_repo(token=SecretStr(TOKEN)), "model.safetensors") == WEIGHTS
    assert {one.authorization for one in hub.asked("cdn")} == {""}


def test_a_private_or_missing_repository_is_not_found(hub: Hub, open_repo: OpenRepo) -> None:
    hub.add("org/private", FILES, is_private=True)
    for repo in ("org/private", "org/missing"):
        with pytest.raises(NotFoundError, match=f"no public repository {repo}") as raised:
            open_repo(repo).commit
        assert "token" in raised.value.hint
        with pytest.raises(NotFoundError, match="may read") as raised:
            open_repo(repo, token=SecretStr("hf_Stranger")).commit
        assert "permissions" in raised.value.hint


def test_a_gated_repository_says_where_to_accept_its_terms(hub: Hub, open_repo: OpenRepo) -> None:
    hub.add("org/gated", FILES, is_gated=True)
    for token in (None, SecretStr("hf_Stranger")):
        for key in ("config.json", "model.safetensors"):
            with pytest.raises(AccessDeniedError, match="org/gated is gated") as raised:
                read(open_repo("org/gated", token=token), key)
            assert f"{hub.endpoint}/org/gated" in raised.value.hint
            assert ("give the connection a token" in raised.value.hint) == (token is None)
    assert read(open_repo("org/gated", token=SecretStr(TOKEN)), "model.safetensors") == WEIGHTS


def test_a_token_that_the_hub_does_not_know_is_told_from_a_missing_repository(hub: Hub, open_repo: OpenRepo) -> None:
    with pytest.raises(AccessDeniedError, match="token"):
        open_repo(token=SecretStr("hf_Unknown")).commit


def test_a_disabled_repository_is_refused(hub: Hub, open_repo: OpenRepo) -> None:
    hub.add("org/disabled", FILES, is_disabled=True)
    with pytest.raises(AccessDeniedError, match="disabled"):
        open_repo("org/disabled").commit


def test_a_refusal_for_another_reason_quotes_the_hub(hub: Hub, open_repo: OpenRepo) -> None:
    headers: dict[str, str | None] = {"X-Error-Message": "Your IP is not allowed here."}
    hub.faults.append(Fault("hub", "/revision/", status=403, headers=headers))
    with pytest.raises(AccessDeniedError, match=r"Your IP is not allowed here$"):
        open_repo().commit


@pytest.mark.parametrize("token", ["", " ", "two words", "line\nbreak", "ünïcode", "nul\0"])
def test_a_token_that_can_be_none_is_refused_without_being_shown(hub: Hub, open_repo: OpenRepo, token: str) -> None:
    with pytest.raises(SettingsError, match="token") as raised:
        open_repo(token=SecretStr(token)).commit
    assert not token.strip() or token not in str(raised.value)
    assert hub.requests == []


def test_a_missing_revision_is_not_found(open_repo: OpenRepo) -> None:
    with pytest.raises(NotFoundError, match="no revision 'v9'"):
        open_repo(revision="v9").commit


@pytest.mark.parametrize("key", ["missing.txt", "onnx", "onnx/missing", "missing/file", "config.json/file"])
def test_a_missing_file_is_not_found(open_repo: OpenRepo, key: str) -> None:
    with pytest.raises(NotFoundError, match="has no file"):
        open_repo().head(key)
    with pytest.raises(NotFoundError, match="has no file"):
        read(open_repo(), key)
    with pytest.raises(NotFoundError, match="has no file"):
        read(open_repo(), key, length=0)


# Redirects.

HOSTILE = [
    "http://169.254.169.254/latest/meta-data/iam/security-credentials/",
    "http://2852039166/",
    "http://[::ffff:169.254.169.254]/",
    "http://metadata.google.internal/",
    "file:///etc/passwd",
    "ftp://127.0.0.1/",
    "http://user:password@127.0.0.1/",
    "http://127.0.0.1:99999/",
    "http://[::1",
    "",
    "http://%31%36%39.254.169.254/latest/",
    "http://metadata%2egoogle.internal/",
    "http://169.254.169.254\\.huggingface.co/",
    "http://huggingface.co\\@169.254.169.254/",
    "//169.254.169.254\\@huggingface.co/",
    "http://0xa9.0376.43518/",
    "http://[::ffff:a9fe:a9fe]/",
    "http://169.254.169.254./",
    # In UTF-8, as a server sends it.
    "http://１６９.254.169.254/".encode().decode("latin-1"),
    "http://169。254。169。254/".encode().decode("latin-1"),
    "http://metadata.google.internal\t/",
]


@pytest.mark.parametrize("location", HOSTILE)
@pytest.mark.parametrize("key", ["config.json", "model.safetensors"])
def test_a_redirect_to_where_nothing_should_be_asked_is_refused(
    hub: Hub, open_repo: OpenRepo, location: str, key: str
) -> None:
    headers: dict[str, str | None] = {"Location": location or None}
    hub.faults.append(Fault("hub", "/resolve/", status=302, headers=headers))
    with pytest.raises(StorageError, match="redirects to"):
        read(open_repo(token=SecretStr(TOKEN)), key)


def test_a_redirect_of_the_second_host_is_judged_as_well(hub: Hub, open_repo: OpenRepo) -> None:
    hub.faults.append(Fault("cdn", "/content/", status=302, headers={"Location": HOSTILE[0]}))
    with pytest.raises(StorageError, match="refused"):
        read(open_repo(), "model.safetensors")


def test_a_redirect_of_the_second_host_back_to_the_hub_is_followed(hub: Hub, open_repo: OpenRepo) -> None:
    commit = hub.repositories[0].revisions["main"]
    place = f"{hub.endpoint}/api/resolve-cache/models/org/model/{commit}/model.safetensors"
    hub.repositories[0].commits[commit]["copy.bin"] = HubFile(WEIGHTS)
    hub.faults.append(
        Fault("cdn", "/content/", status=302, headers={"Location": place.replace("model.safetensors", "copy.bin")})
    )
    hub.faults.append(Fault("hub", "copy.bin", headers={"ETag": None}))
    assert read(open_repo(), "model.safetensors") == WEIGHTS


@pytest.mark.parametrize("server", ["hub", "cdn"])
def test_redirects_in_a_circle_are_left(hub: Hub, open_repo: OpenRepo, server: str) -> None:
    part = "/resolve/" if server == "hub" else "/content/"
    for key in ("model.safetensors", "config.json") if server == "hub" else ("model.safetensors",):
        hub.faults = [Fault(server, part, times=99, status=302, headers={"Location": "?again"})]  # type: ignore[arg-type]
        with pytest.raises(StorageError, match="more than"):
            read(open_repo(), key)
    assert len(hub.asked(server)) < 20  # type: ignore[arg-type]


def test_a_mirror_that_serves_large_files_itself_is_read_from(hub: Hub, open_repo: OpenRepo) -> None:
    hub.serves_large_files = True
    storage = open_repo(token=SecretStr(TOKEN))
    assert read(storage, "model.safetensors") == WEIGHTS
    assert read(storage, "model.safetensors", start=7, length=9) == WEIGHTS[7:16]
    assert hub.asked("cdn") == []


# Secrets.


def test_no_secret_is_in_any_error_log_line_or_representation(
    hub: Hub, open_repo: OpenRepo, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    hub.add("org/private", FILES, is_private=True)
    hub.add("org/gated", FILES, is_gated=True)
    signature = hub.sign(HubFile(WEIGHTS).sha256)
    hub.readers["hf_CanaryStranger"] = set()
    seen = []

    def fail(repo: str, key: str, token: str, *faults: Fault) -> None:
        hub.faults = list(faults)
        storage = open_repo(repo, token=SecretStr(token))
        seen.extend([repr(storage), storage.location])
        try:
            read(storage, key)
        except CheckpointError as error:
            seen.extend([error.message, error.hint, repr(error), "".join(traceback.format_exception(error))])
            link: BaseException | None = error
            while link is not None:  # hidden from print, not from a reader who looks
                seen.extend([repr(link), str(link)])
                link = link.__cause__ or link.__context__
        else:
            pytest.fail("nothing failed")

    def content(**fault: object) -> Fault:
        return Fault("cdn", "/content/", times=99, **fault)  # type: ignore[arg-type]

    fail("org/missing", "config.json", TOKEN)
    fail("org/private", "config.json", "hf_CanaryStranger")
    fail("org/gated", "config.json", "hf_CanaryStranger")
    fail("org/model", "config.json", "hf_CanaryUnknown")
    fail("org/model", "config.json", "hf_Canary with\nbreak")
    fail("org/model", "missing", TOKEN)
    for status in (302, 400, 403, 404, 416, 418, 429, 500):
        fail("org/model", "model.safetensors", TOKEN, content(status=status))
        fail("org/model", "model.safetensors", TOKEN, Fault("hub", "/resolve/", times=99, status=status))
    fail("org/model", "model.safetensors", TOKEN, content(cut=0, reset=True))
    fail("org/model", "model.safetensors", TOKEN, content(cut=0))
    fail("org/model", "model.safetensors", TOKEN, content(content=bytes(len(WEIGHTS))))
    fail("org/model", "model.safetensors", TOKEN, content(cut=0, headers={"Content-Length": "many"}))
    fail("org/model", "model.safetensors", TOKEN, content(status=302, headers={"Location": f"http://0/?{signature}"}))

    logged = [record.getMessage() for record in caplog.records]
    assert any("/content/" in line for line in logged)
    for text in seen + logged:
        assert "Canary" not in text
        assert signature not in text
