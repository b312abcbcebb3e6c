"""The least connection of each kind, of the kind's own options and the examples of its fields."""

from __future__ import annotations

from typing import Any

from flexai.blocks import PROVIDERS
from flexai.checkpoints.storage.kinds import KINDS, SecretOption


def least_fields(provider: str, secret: str = "secret") -> dict[str, Any]:
    """What a connection of the kind cannot do without; every secret of its options is ``secret``."""
    kind, fields = KINDS[provider], PROVIDERS[provider].model_fields
    needed = [name for name, option in kind.options.items() if option.is_required] + list(kind.one_of[:1])
    values: dict[str, Any] = {name: (fields[name].examples or [""])[0] for name in needed}
    for name, option in kind.options.items():
        if isinstance(option, SecretOption) and (option.is_required or option.beside in values):
            values[name] = secret
    return values
