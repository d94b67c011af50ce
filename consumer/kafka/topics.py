"""The topics of one deployment: names, partitions and configuration; create and check them.

Every record keyed by a DID lies on partition ``murmur2(DID) mod n``, which is Kafka's own default
for that key, so that any client finds it.  n comes from the settings, never from metadata.
All topics use LogAppendTime and zstd.  The small compacted ones have small segments, so that
reading them from the start stays quick.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import lru_cache
from typing import Any

from aiokafka.admin import NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import NoError, TopicAlreadyExistsError, for_code
from aiokafka.partitioner import murmur2

from consumer.errors import Fatal
from consumer.kafka.client import MAX_RECORD_BYTES, Client, deadline

_HOUR = 3_600_000  # milliseconds
_DAY = 24 * _HOUR
_MIB = 1024 * 1024


class Topic(StrEnum):
    """The topics, without the deployment's prefix."""

    FIREHOSE = "firehose"
    BACKFILL = "backfill"
    CURSOR = "cursor"
    CONTROL = "control"
    EVENTS = "events"
    OPERATIONS = "operations"
    PUBLISHED = "published"
    DEAD_LETTER = "dead-letter"


@dataclass(frozen=True, slots=True)
class TopicSpec:
    """What a topic must look like; ``config`` holds Kafka's own names and values."""

    name: str
    partitions: int
    config: Mapping[str, str] = field(default_factory=dict)


@lru_cache(maxsize=1 << 17)
def _hash(did: str) -> int:
    return int(murmur2(did.encode())) & 0x7FFFFFFF


def _deleted(after: int, segment: int) -> dict[str, str]:
    return {
        "cleanup.policy": "delete",
        "retention.ms": str(after),
        "segment.ms": str(segment),
    }


_LOG = _deleted(after=72 * _HOUR, segment=6 * _HOUR)
_COMMANDS = _deleted(after=7 * _DAY, segment=_DAY)
_DEAD_LETTERS = _deleted(after=30 * _DAY, segment=_DAY)
_MARKERS = {
    "cleanup.policy": "compact",
    "segment.bytes": str(_MIB),
    "segment.ms": str(_HOUR),
    "min.cleanable.dirty.ratio": "0.1",
}
_TABLE = {"cleanup.policy": "compact", "segment.ms": str(_DAY)}
_EVENTS = {
    **_TABLE,
    "min.compaction.lag.ms": str(7 * _DAY),
    "max.compaction.lag.ms": str(14 * _DAY),
    "delete.retention.ms": str(7 * _DAY),
}
_COMMON = {
    "message.timestamp.type": "LogAppendTime",
    "compression.type": "zstd",
    "max.message.bytes": str(MAX_RECORD_BYTES),
}


@dataclass(frozen=True, slots=True)
class Topics:
    """The topics of the deployment with ``prefix``, with ``partitions`` lanes."""

    prefix: str
    partitions: int

    def name(self, topic: Topic) -> str:
        """Return the topic's full name."""
        return f"{self.prefix}{topic}"

    def partition_of(self, did: str) -> int:
        """Return the partition of everything that is keyed by ``did``."""
        return _hash(did) % self.partitions

    def specs(self) -> tuple[TopicSpec, ...]:
        """Return what every topic must look like."""
        n = self.partitions
        table: tuple[tuple[Topic, int, dict[str, str]], ...] = (
            (Topic.FIREHOSE, n, _LOG),
            (Topic.BACKFILL, n, _LOG),
            (Topic.CURSOR, 1, _MARKERS),
            (Topic.CONTROL, 1, _COMMANDS),
            (Topic.EVENTS, n, _EVENTS),
            (Topic.OPERATIONS, 1, _TABLE),
            (Topic.PUBLISHED, n + 1, _MARKERS),
            (Topic.DEAD_LETTER, n, _DEAD_LETTERS),
        )
        return tuple(
            TopicSpec(self.name(topic), partitions, {**config, **_COMMON})
            for topic, partitions, config in table
        )

    async def ensure(self, client: Client) -> None:
        """Create the topics that do not exist, and check those that do.

        Raises ``Fatal`` if one has other partitions, another policy, another kind of timestamp
        or a smaller maximum size; ``Transient`` if Kafka is away.
        """
        specs = self.specs()
        async with client.admin() as admin, deadline(client.timeout, "preparing topics"):
            await _create(admin, specs, client.settings.replication_factor)
            await _await_leaders(admin, specs)
            await _check_config(admin, specs)


async def _create(admin: Any, specs: Iterable[TopicSpec], replication: int) -> None:
    present = {t["topic"]: len(t["partitions"]) for t in await admin.describe_topics()}
    for spec in specs:
        if present.get(spec.name, spec.partitions) != spec.partitions:
            raise Fatal(
                f"topic {spec.name} has {present[spec.name]} partitions, "
                f"the settings say {spec.partitions}: the number is fixed at creation"
            )
    durable = {"min.insync.replicas": str(replication - 1)} if replication > 2 else {}  # noqa: PLR2004 - with two replicas one may be away only if one is enough
    missing = [
        NewTopic(spec.name, spec.partitions, replication, topic_configs={**spec.config, **durable})
        for spec in specs
        if spec.name not in present
    ]
    if missing:
        response = await admin.create_topics(missing)
        for name, code, *message in response.topic_errors:
            error = for_code(code)
            # Another process may create the same topics at the same time.
            if error not in (NoError, TopicAlreadyExistsError):
                raise error(f"{name}: {' '.join(map(str, message))}")


async def _await_leaders(admin: Any, specs: Iterable[TopicSpec]) -> None:
    names = [spec.name for spec in specs]
    while True:
        described = await admin.describe_topics(names)
        if all(
            t["partitions"] and all(p["leader"] >= 0 for p in t["partitions"]) for t in described
        ):
            return
        await asyncio.sleep(0.05)


async def _check_config(admin: Any, specs: Iterable[TopicSpec]) -> None:
    wanted = {spec.name: spec for spec in specs}
    resources = [ConfigResource(ConfigResourceType.TOPIC, name) for name in wanted]
    for response in await admin.describe_configs(resources):
        for _code, _message, _kind, name, entries in response.resources:
            _compare(wanted[name], {entry[0]: entry[1] for entry in entries})


def _compare(spec: TopicSpec, actual: Mapping[str, str]) -> None:
    """Raise ``Fatal`` if ``actual`` differs where correctness rests on it; the rest is tuning."""
    for key in ("cleanup.policy", "message.timestamp.type"):
        if actual.get(key) != spec.config[key]:
            raise Fatal(
                f"topic {spec.name} has {key} = {actual.get(key)}, it must be {spec.config[key]}"
            )
    if int(actual.get("max.message.bytes", 0)) < MAX_RECORD_BYTES:
        raise Fatal(
            f"topic {spec.name} has max.message.bytes = {actual.get('max.message.bytes')}, "
            f"at least {MAX_RECORD_BYTES} is needed"
        )
