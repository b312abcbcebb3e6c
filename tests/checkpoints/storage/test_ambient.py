"""Stores that are named by a URL alone: what is known of the service behind it."""

from __future__ import annotations

import pytest

from flexai.checkpoints.storage.ambient import s3_bucket


@pytest.fixture(autouse=True)
def no_variables_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS"):
        monkeypatch.delenv(variable, raising=False)


def test_aws_is_known_to_have_conditional_writes() -> None:
    assert s3_bucket("my-bucket").capabilities.conditional_put


@pytest.mark.parametrize("variable", ["AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"])
def test_of_another_service_nothing_is_known(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    monkeypatch.setenv(variable, "http://127.0.0.1:9")
    assert not s3_bucket("my-bucket").capabilities.conditional_put
    monkeypatch.setenv("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "true")
    assert s3_bucket("my-bucket").capabilities.conditional_put
