"""The cases, by name."""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.bench import Bench
from benchmarks.cases import (
    again,
    commands,
    fetch_again,
    flows,
    gcs,
    growth,
    killing,
    local,
    networks,
    overhead,
    processes,
    providers,
    returning,
    training,
    transfers,
    watching,
)

CASES: dict[str, Callable[[Bench], None]] = {
    "push-large": transfers.push_large,
    "push-shards": transfers.push_shards,
    "fetch-large": transfers.fetch_large,
    "fetch-shards": transfers.fetch_shards,
    "push-small": transfers.push_small,
    "fetch-small": transfers.fetch_small,
    "wan": networks.wan,
    "far": networks.far,
    "tls": networks.tls,
    "tls-wan": networks.tls_wan,
    "thin": networks.thin,
    "busy": networks.busy,
    "push-again": again.push_again,
    "push-changed": again.push_changed,
    "fetch-again": fetch_again.fetch_again,
    "local-push": local.local_push,
    "same-provider": providers.same_provider,
    "between-providers": providers.between_providers,
    "gcs": gcs.gcs,
    "real-servers": transfers.real_push_fetch,
    "overhead": overhead.overhead,
    "processes": processes.processes,
    "plan": overhead.plan,
    "memory": local.memory,
    "growth": growth.growth,
    "commands": commands.commands,
    "upkeep": commands.upkeep,
    "flows-files": flows.files,
    "flows-many": flows.many,
    "flows-shards": flows.shards,
    "watching": watching.watching,
    "training-stall": training.stall,
    "training-interference": training.interference,
    "training-lost": killing.lost,
    "training-back": returning.back,
}
