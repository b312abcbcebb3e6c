"""Where the server of ``flexai up`` listens."""

from __future__ import annotations

import pytest

from flexai.checkpoints.errors import ConflictError
from flexai.cli.orchestration.server import listen


def test_servers_that_are_started_at_one_moment_listen_on_ports_of_their_own() -> None:
    with listen(None) as one, listen(None) as other:
        assert one.getsockname() != other.getsockname()
        with pytest.raises(ConflictError, match=f"port {one.getsockname()[1]} "):
            listen(one.getsockname()[1])


def test_a_port_that_was_given_up_can_be_had_again() -> None:
    with listen(None) as one:
        port = one.getsockname()[1]
    with listen(port) as again:
        assert again.getsockname()[1] == port
