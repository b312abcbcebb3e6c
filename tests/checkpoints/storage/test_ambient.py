"""Stores that are named by a URL alone: what is known of the service behind it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from flexai.checkpoints.storage.ambient import s3_bucket


@pytest.fixture(autouse=True)
def no_variables_of_this_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for variable in [variable for variable in os.environ if variable.startswith("AWS_")]:
        monkeypatch.delenv(variable)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "aws-config"))


def test_aws_is_known_to_have_conditional_writes() -> None:
    assert s3_bucket("my-bucket").capabilities.conditional_put


@pytest.mark.parametrize("variable", ["AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"])
def test_of_another_service_nothing_is_known(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    monkeypatch.setenv(variable, "http://127.0.0.1:9")
    assert not s3_bucket("my-bucket").capabilities.conditional_put
    monkeypatch.setenv("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "true")
    assert s3_bucket("my-bucket").capabilities.conditional_put


def test_the_endpoint_and_the_region_are_looked_for_where_the_sdk_looks(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def found() -> tuple[str, str]:
        service = s3_bucket("my-bucket").service
        return service.endpoint_url, service.region

    assert found() == ("", "")
    (tmp_path / "aws-config").write_text(
        "[default]\nregion = eu-north-1\nendpoint_url = http://default\n"
        "[profile lab]\nservices = lab\nendpoint_url = http://lab\n"
        "[services lab]\ns3 =\n  endpoint_url = http://s3.lab\n"
    )
    assert found() == ("http://default", "eu-north-1")
    monkeypatch.setenv("AWS_PROFILE", "lab")
    assert found() == ("http://s3.lab", "")
    monkeypatch.setenv("AWS_PROFILE", "nobodys")
    assert found() == ("", "")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://all")
    monkeypatch.setenv("AWS_PROFILE", "lab")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-1")
    assert found() == ("http://all", "eu-west-1")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://s3")
    monkeypatch.setenv("AWS_REGION", "eu-west-2")
    assert found() == ("http://s3", "eu-west-2")
