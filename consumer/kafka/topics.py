"""The topics of one deployment: names, partitions and configuration.

Every record keyed by a DID lies on partition ``murmur2(DID) mod n``, which is Kafka's own default
for that key, so that any client finds it.  n comes from the settings, never from metadata.
Events go to one topic, or by ``routes`` to several that are alike.  All topics use LogAppendTime.
Those that only we read are in zstd; those that others read have the codec of the setting
``kafka.compression``, and take what is written (``producer``), so that a change of the setting
counts from then on.  The small compacted ones have small segments, so that reading them from the
start stays quick.

Correctness rests on the policy, the kind of timestamp, the largest size and the partitions; they
are demanded.  The rest is how topics are created, and advice for those that others have made.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import lru_cache
from typing import Self

from aiokafka.partitioner import murmur2

from consumer.config.settings import KafkaSettings, TopicSettings
from consumer.config.types import Codec, TopicName
from consumer.errors import Fatal
from consumer.events.routes import Routes
from consumer.kafka.client import MAX_RECORD_BYTES

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


READ_BY_OTHERS = frozenset({Topic.EVENTS, Topic.OPERATIONS, Topic.DEAD_LETTER})

MIN_INSYNC = "min.insync.replicas"
_SIZE = "max.message.bytes"


@dataclass(frozen=True, slots=True)
class TopicSpec:
    """How a topic is created, with ``config`` in Kafka's own names and values.

    ``demanded``: what it must have if others have made it.
    """

    topic: str
    name: str
    partitions: int
    replicas: int
    config: Mapping[str, str]
    demanded: Mapping[str, str]

    @property
    def advised(self) -> dict[str, str]:
        """What of ``config`` is not demanded."""
        return {key: value for key, value in self.config.items() if key not in self.demanded}

    def breaches(self, actual: Mapping[str, str]) -> list[str]:
        """Return what is demanded and not so in ``actual``, a sentence each."""
        return [
            f"topic {self.name} has {key} = {actual.get(key)}, it must be {demand(key, value)}"
            for key, value in self.demanded.items()
            if not _meets(key, actual.get(key), value)
        ]


def demand(key: str, value: str) -> str:
    """Return what is demanded of ``key``, for people."""
    return f"at least {value}" if key == _SIZE else value


def _meets(key: str, actual: str | None, demanded: str) -> bool:
    if key == _SIZE:
        return actual is not None and actual.isdecimal() and int(actual) >= int(demanded)
    return actual == demanded


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
_DEMANDED_OF_ALL = {
    "message.timestamp.type": "LogAppendTime",
    _SIZE: str(MAX_RECORD_BYTES),
}
_POLICY = "cleanup.policy"


@dataclass(frozen=True, slots=True)
class Topics:
    """The topics of the deployment with ``prefix``, with ``partitions`` lanes.

    ``changes`` are the settings of single topics, and of ``all``; ``compression`` is the codec of
    those that others read.  ``routes``: the topics of events by patterns of collections.
    """

    prefix: str
    partitions: int
    replication_factor: int = 1
    changes: Mapping[TopicName, TopicSettings] = field(default_factory=dict)
    compression: Codec = "gzip"
    routes: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, settings: KafkaSettings) -> Self:
        """Return the topics that ``settings`` name."""
        return cls(
            settings.topic_prefix,
            settings.partitions,
            settings.replication_factor,
            settings.topics,
            settings.compression,
            settings.routes,
        )

    @property
    def routed(self) -> tuple[str, ...]:
        """The topics of events beside ``events``, without the prefix."""
        return tuple(sorted({*self.routes.values()} - {Topic.EVENTS}))

    @property
    def event_topics(self) -> tuple[str, ...]:
        """The topics of events by their full names, first that of events without a route."""
        return tuple(map(self.name, (Topic.EVENTS, *self.routed)))

    def event_routes(self) -> Routes:
        """Return the routes of events to topics by their full names."""
        named = {pattern: self.name(topic) for pattern, topic in self.routes.items()}
        return Routes(named, self.name(Topic.EVENTS))

    def name(self, topic: str) -> str:
        """Return the topic's full name."""
        return f"{self.prefix}{topic}"

    def codecs(self) -> dict[str, Codec]:
        """Return the codec of what is written to each topic, by its full name."""
        return {
            self.name(topic): self.compression if self._is_read_by_others(topic) else "zstd"
            for topic in (*Topic, *self.routed)
        }

    def _is_read_by_others(self, topic: str) -> bool:
        return topic in READ_BY_OTHERS or topic in self.routed

    def partition_of(self, did: str) -> int:
        """Return the partition of everything that is keyed by ``did``."""
        return _hash(did) % self.partitions

    def specs(self) -> tuple[TopicSpec, ...]:
        """Return how every topic is created, and what is demanded of it.

        Raises ``Fatal`` if the settings change what is demanded.
        """
        n = self.partitions
        table: tuple[tuple[str, int, dict[str, str]], ...] = (
            (Topic.FIREHOSE, n, _LOG),
            (Topic.BACKFILL, n, _LOG),
            (Topic.CURSOR, 1, _MARKERS),
            (Topic.CONTROL, 1, _COMMANDS),
            (Topic.EVENTS, n, _EVENTS),
            (Topic.OPERATIONS, 1, _TABLE),
            (Topic.PUBLISHED, n + 1, _MARKERS),
            (Topic.DEAD_LETTER, n, _DEAD_LETTERS),
            *((topic, n, _EVENTS) for topic in self.routed),
        )
        return tuple(self._spec(*each) for each in table)

    def _spec(self, topic: str, partitions: int, built_in: Mapping[str, str]) -> TopicSpec:
        default = TopicSettings()
        like = [Topic.EVENTS] if topic in self.routed else []
        changes = [self.changes.get(each, default) for each in ("all", *like, topic)]
        factors = [each.replication_factor for each in changes if each.replication_factor]
        replicas = [self.replication_factor, *factors][-1]
        demanded = {_POLICY: built_in[_POLICY], **_DEMANDED_OF_ALL}
        # With two replicas one may be away only if one is enough.
        kept_as = "producer" if self._is_read_by_others(topic) else "zstd"
        config = {**built_in, **demanded, "compression.type": kept_as}
        config[MIN_INSYNC] = str(max(replicas - 1, 1))
        for change in changes:
            config |= change.config
        # An empty value leaves it to the broker.
        config = {key: value for key, value in config.items() if value}
        for key in demanded.keys() & config.keys():
            if not _meets(key, config[key], demanded[key]):
                raise Fatal(
                    f"kafka.topics.{topic}.config: {key} must be {demand(key, demanded[key])}"
                )
        return TopicSpec(topic, self.name(topic), partitions, replicas, config, demanded)
