"""An alert: a run that fails on purpose, and a person who is told."""

from __future__ import annotations

import json
import threading
import uuid
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from prefect.blocks.notifications import CustomWebhookNotificationBlock
from prefect.blocks.system import Secret
from pydantic import SecretStr

from flexai.checkpoints.errors import UsageError
from flexai.flows.alert import alert
from tests.servers.prefect import PrefectServer


@pytest.fixture
def inbox() -> Iterator[tuple[str, list[str]]]:
    """The address of a service that takes messages, and what it has taken."""
    taken: list[str] = []

    class Service(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            taken.append(json.loads(self.rfile.read(int(self.headers["Content-Length"])))["text"])
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Service)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", taken
    server.shutdown()
    server.server_close()
    thread.join()


def test_an_alert_fails_and_says_why(caplog: pytest.LogCaptureFixture) -> None:
    state = alert.fn("2 damaged contents", {"checkpoints": ["mistral-500"]})
    assert (state.is_failed(), state.message) == (True, "2 damaged contents")
    assert "mistral-500" in caplog.text


def test_an_alert_tells_a_notification_block(prefect_api: PrefectServer, inbox: tuple[str, list[str]]) -> None:
    address, taken = inbox
    name = f"alert-{uuid.uuid4().hex[:8]}"
    block = CustomWebhookNotificationBlock(name="test", url=address, json_data={"text": "{{subject}}: {{body}}"})
    block.save(name)
    state = alert("2 damaged contents", {"checkpoints": ["mistral-500"]}, f"custom-webhook/{name}", return_state=True)
    assert state.is_failed()
    (message,) = taken
    assert message.startswith("2 damaged contents: 2 damaged contents") and "mistral-500" in message


def test_a_block_that_sends_no_notifications_is_refused(prefect_api: PrefectServer) -> None:
    name = f"secret-{uuid.uuid4().hex[:8]}"
    Secret(value=SecretStr("x")).save(name)
    with pytest.raises(UsageError):
        alert.fn("2 damaged contents", {}, f"secret/{name}")
