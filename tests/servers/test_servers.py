"""The servers of the tests start once for all processes of a run, and stop with it."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import threading
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
import requests

from .fixtures import GCSServer, S3Server
from .lease import Lease
from .local import LocalServer


@pytest.fixture(params=["seaweedfs", "juicefs", "rclone", "moto", "swift"])
def s3_server(request: pytest.FixtureRequest) -> S3Server:
    server: S3Server = request.getfixturevalue(request.param)
    return server


def test_an_s3_server_is_there_with_its_buckets(s3_server: S3Server) -> None:
    buckets = {bucket["Name"] for bucket in s3_server.client().list_buckets()["Buckets"]}
    assert buckets >= {s3_server.bucket, s3_server.other_bucket}


def test_the_gcs_server_is_there_with_its_buckets(fake_gcs: GCSServer) -> None:
    answer = requests.get(f"{fake_gcs.url}/storage/v1/b?project=lab", timeout=30).json()
    assert {bucket["name"] for bucket in answer["items"]} >= {fake_gcs.bucket, fake_gcs.other_bucket}


def test_a_server_ends_when_the_last_process_of_its_run_is_killed(tmp_path: Path) -> None:
    run = textwrap.dedent("""
        import os, signal
        from tests.servers.lease import Lease
        print(Lease.begin().directory, Lease.join().server("fake_gcs").url, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    """)
    root = Path(__file__).resolve().parents[2]
    environment = {**os.environ, "TMPDIR": str(tmp_path), "PYTHONPATH": str(root)}
    killed = subprocess.run(
        [sys.executable, "-c", run], capture_output=True, text=True, env=environment, cwd=root, check=False
    )
    directory, url = killed.stdout.split()
    wait_for_keepers = [sys.executable, "-c", "import fcntl, sys; fcntl.flock(open(sys.argv[1], 'a'), fcntl.LOCK_EX)"]
    subprocess.run([*wait_for_keepers, f"{directory}/keepers"], check=True, timeout=60)
    with pytest.raises(requests.ConnectionError):
        requests.get(url, timeout=30)


def test_a_server_of_this_process_ends_with_the_connections_that_its_clients_leave_open() -> None:
    served: list[threading.Thread] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            served.append(threading.current_thread())
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *arguments: object) -> None:
            """Say nothing."""

    server = LocalServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    with requests.Session() as session:
        assert session.get(f"http://127.0.0.1:{server.server_port}", timeout=30).status_code == 200
        assert served[0].is_alive(), "the client may ask again"
        server.shutdown()
        thread.join()
        server.server_close()
        served[0].join(30)
        assert not served[0].is_alive()


def test_prefect_in_this_process_keeps_what_it_knows_in_the_folder_of_the_run(lease: Lease) -> None:
    from prefect.settings import PREFECT_HOME

    assert PREFECT_HOME.value().is_relative_to(lease.directory)
