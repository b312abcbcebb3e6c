from __future__ import annotations

import random
import uuid
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import pytest

from flexai.checkpoints.storage.ambient import gcs_bucket, s3_bucket
from tests.chaos.processes import Processes
from tests.chaos.stage import Bucket, Stage
from tests.servers.fixtures import GCSServer, S3Server
from tests.servers.postgresql import PostgreSQL
from tests.support.fixtures import fast_path, home_template, no_settings_of_this_machine
from tests.support.machine import copy_home

__all__ = ["fast_path", "home_template", "no_settings_of_this_machine"]


@pytest.fixture(scope="session")
def processes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Processes]:
    """What starts processes of the program."""
    with Processes(tmp_path_factory.mktemp("output")) as made:
        yield made


@pytest.fixture
def chance() -> random.Random:
    """Another seed every time, told where a test fails."""
    seed = random.SystemRandom().getrandbits(32)
    print(f"seed {seed}")
    return random.Random(seed)


NewStage = Callable[[], Stage]


@pytest.fixture
def new_stage(processes: Processes, fast_path: Path, home_template: Path) -> NewStage:
    """Makes stages with an empty catalog, in a file of the home folder, and an empty store."""
    numbers = count(1)

    def make() -> Stage:
        stage = Stage(fast_path / f"stage-{next(numbers)}", processes)
        copy_home(home_template, stage.root)
        return stage

    return make


@pytest.fixture
def postgresql_stage(
    processes: Processes, fast_path: Path, home_template: Path, postgresql: PostgreSQL
) -> Iterator[Stage]:
    """A stage whose catalog is a PostgreSQL database."""
    name = postgresql.create_database()
    stage = Stage(fast_path / "stage", processes, database_url=postgresql.url(name))
    copy_home(home_template, stage.root)
    (stage.root / "home" / "catalog.db").unlink()
    # It belongs to the template's catalog.
    (stage.root / "home" / "store" / "store.json").unlink()
    yield stage
    postgresql.drop_database(name)


@pytest.fixture
def bucket_of_s3(seaweedfs: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    """A bucket on SeaweedFS, the test's own; its address and keys are in the environment."""
    environment = {
        "AWS_ENDPOINT_URL": seaweedfs.url,
        "AWS_ACCESS_KEY_ID": seaweedfs.access_key_id,
        "AWS_SECRET_ACCESS_KEY": seaweedfs.secret_access_key,
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    name = f"chaos-{uuid.uuid4().hex[:12]}"
    client = seaweedfs.client()
    client.create_bucket(Bucket=name)
    storage = s3_bucket(name)
    yield Bucket("s3", storage, name, environment)
    storage.service.close()
    # With all that is in it: SeaweedFS gives the disk back only for a whole bucket.
    client.delete_bucket(Bucket=name)
    client.close()


@pytest.fixture
def bucket_of_gcs(fake_gcs: GCSServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    """A bucket on fake-gcs-server, shared by all tests; its address is in the environment."""
    environment = {"STORAGE_EMULATOR_HOST": fake_gcs.url}
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", fake_gcs.url)
    storage = gcs_bucket(fake_gcs.bucket)
    yield Bucket("gs", storage, fake_gcs.bucket, environment)
    storage.service.close()


@pytest.fixture
def s3_stage(processes: Processes, fast_path: Path, home_template: Path, bucket_of_s3: Bucket) -> Stage:
    """A stage whose store lies in a bucket of S3."""
    stage = Stage(fast_path / "stage", processes, bucket=bucket_of_s3)
    copy_home(home_template, stage.root)
    return stage


@pytest.fixture
def gcs_stage(processes: Processes, fast_path: Path, home_template: Path, bucket_of_gcs: Bucket) -> Stage:
    """A stage whose store lies in a bucket of Google Cloud Storage."""
    stage = Stage(fast_path / f"stage-{uuid.uuid4().hex[:8]}", processes, bucket=bucket_of_gcs)
    copy_home(home_template, stage.root)
    return stage


@pytest.fixture
def s3_and_postgresql_stage(postgresql_stage: Stage, bucket_of_s3: Bucket) -> Stage:
    """A stage as a team has it: the store in a bucket, the catalog in PostgreSQL."""
    postgresql_stage.bucket = bucket_of_s3
    return postgresql_stage
