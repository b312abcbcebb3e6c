"""Which flags of ``flexai storage create`` each kind of provider takes, and what each sets of a connection."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from flexai.checkpoints.errors import UsageError


@dataclass(frozen=True, slots=True)
class Secret:
    """A secret of a connection, and the flag that says where it is."""

    flag: str
    parameter: str
    what: str
    """How people call it."""
    beside: str = ""
    """The field that is of no use without it: where that is given, the secret is asked for."""
    one_word: bool = True


@dataclass(frozen=True, slots=True)
class ProviderFlags:
    """Which flags a kind of provider takes, by the connection's field that each one sets."""

    form: str
    """How its flags are used."""
    required: Mapping[str, str] = field(default_factory=dict)
    optional: Mapping[str, str] = field(default_factory=dict)
    one_of: Sequence[str] = ()
    """Fields of which one has to be given."""
    secrets: Mapping[str, Secret] = field(default_factory=dict)
    """Fields that no flag sets by its value."""

    @property
    def flags(self) -> dict[str, str]:
        """The flags whose values are fields."""
        return {**self.required, **self.optional}

    def flag(self, name: str) -> str:
        """The flag that sets a field of the connection."""
        return self.secrets[name].flag if name in self.secrets else self.flags.get(name, name or "connection")


_SECRET_KEY = {
    "secret_access_key": Secret("--secret-from", "secret_from", "secret access key", beside="access_key_id"),
}
_KEY = {
    "access_key_id": "--access-key-id",
    "credentials_block": "--credentials-block",
    "ca_bundle": "--ca-bundle",
}
_EITHER_KEY = ("access_key_id", "credentials_block")
_TYPED_KEY = "--access-key-id ID --secret-from SOURCE"

PROVIDERS: Mapping[str, ProviderFlags] = {
    "s3": ProviderFlags(
        form=f"--provider s3 [--region REGION] [--endpoint-url URL] [{_TYPED_KEY}]",
        optional={
            "region": "--region",
            "endpoint_url": "--endpoint-url",
            "addressing_style": "--addressing-style",
            "profile": "--profile",
            "anonymous": "--anonymous",
            **_KEY,
        },
        secrets=_SECRET_KEY,
    ),
    "r2": ProviderFlags(
        form=f"--provider r2 --account-id ID {_TYPED_KEY}",
        required={"account_id": "--account-id"},
        optional={"jurisdiction": "--jurisdiction", **_KEY},
        one_of=_EITHER_KEY,
        secrets=_SECRET_KEY,
    ),
    "minio": ProviderFlags(
        form=f"--provider minio --endpoint-url URL {_TYPED_KEY}",
        required={"endpoint_url": "--endpoint-url"},
        optional={"region": "--region", "addressing_style": "--addressing-style", **_KEY},
        one_of=_EITHER_KEY,
        secrets=_SECRET_KEY,
    ),
    "gcs": ProviderFlags(
        form="--provider gcs [--project PROJECT] [--service-account-from SOURCE | --anonymous] [--endpoint-url URL]",
        optional={
            "project": "--project",
            "anonymous": "--anonymous",
            "endpoint_url": "--endpoint-url",
            "credentials_block": "--credentials-block",
            "ca_bundle": "--ca-bundle",
        },
        secrets={
            "service_account_info": Secret(
                "--service-account-from", "service_account_from", "service account's key", one_word=False
            )
        },
    ),
    "huggingface": ProviderFlags(
        form="--provider huggingface [--token-from SOURCE] [--endpoint-url URL]",
        optional={
            "endpoint_url": "--endpoint-url",
            "credentials_block": "--credentials-block",
            "repo_type": "--repo-type",
        },
        secrets={"token": Secret("--token-from", "token_from", "token")},
    ),
    "local": ProviderFlags(form="--provider local --root DIRECTORY", required={"root": "--root"}),
}


def form_of(name: str, provider: str) -> str:
    """The right form of the command."""
    return f"flexai storage create {name} {PROVIDERS[provider].form}"


def check_flags(name: str, provider: str, given: Mapping[str, object]) -> None:
    """Raise UsageError for flags that the provider does not take, or that it needs and are not there.

    ``given`` has the parameters of the command that were given a value.
    """
    known = PROVIDERS[provider]
    parameters = {*known.flags, *(secret.parameter for secret in known.secrets.values())}
    form = form_of(name, provider)
    for parameter in given:
        if parameter not in parameters:
            flag = f"--{parameter.replace('_', '-')}"
            raise UsageError(f"{flag} and --provider {provider} cannot be used together", hint=form)
    for field_name, flag in known.required.items():
        if field_name not in given:
            raise UsageError(f"--provider {provider} needs {flag}", hint=form)
    for secret in known.secrets.values():
        if secret.parameter in given and secret.beside and secret.beside not in given:
            raise UsageError(f"{secret.flag} needs {known.flags[secret.beside]}", hint=form)
    if known.one_of and not any(one in given for one in known.one_of):
        wanted = " or ".join(known.flags[one] for one in known.one_of)
        raise UsageError(f"--provider {provider} needs {wanted}", hint=form)
