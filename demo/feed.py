"""``chive.events`` as it grows, for the live view."""

from __future__ import annotations

import time
from collections import Counter, deque
from typing import Any

import orjson

from consumer.kafka.client import Client
from consumer.kafka.reader import PartitionReader, Record, TopicPartition
from consumer.kafka.topics import Topic, Topics
from consumer.tail.cursor import seconds

_POLL = 0.3
_WINDOW = 5.0  # seconds over which rate and lag are averaged
_NEWEST = 12  # events shown

Json = dict[str, Any]


class Feed:
    """Follow the events and keep what the view shows.

    ``lag`` is how long events took from the PDS's frame to the topic, in seconds.
    """

    def __init__(self, client: Client, topics: Topics) -> None:
        self.counts: Counter[str] = Counter()
        self.newest: deque[Json] = deque(maxlen=_NEWEST)
        self._client = client
        self._topics = topics
        self._seen: deque[tuple[float, float]] = deque()  # when we read it, its lag

    @property
    def total(self) -> int:
        """How many events have come."""
        return self.counts.total()

    @property
    def rate(self) -> float:
        """Events per second, lately."""
        return len(self._recent()) / _WINDOW

    @property
    def lag(self) -> float | None:
        """Seconds from frame to topic, lately; None when nothing came."""
        lags = [lag for _, lag in self._recent()]
        return sum(lags) / len(lags) if lags else None

    async def run(self) -> None:
        """Follow the topic, which must exist, until cancelled."""
        name = self._topics.name(Topic.EVENTS)
        places = [TopicPartition(name, partition) for partition in range(self._topics.partitions)]
        async with await PartitionReader.open(self._client, dict.fromkeys(places)) as reader:
            while True:
                for record in await reader.fetch(wait=_POLL):
                    self._take(record)

    def _take(self, record: Record) -> None:
        if record.value is None:
            return
        event: Json = orjson.loads(record.value)
        if "did" not in event:
            return  # a lane speaks of itself
        self.counts[kind_of(event)] += 1
        self.newest.append(event)
        if (sent := seconds(event["time"])) is not None:
            self._seen.append((time.monotonic(), max(0.0, record.timestamp / 1000 - sent)))

    def _recent(self) -> deque[tuple[float, float]]:
        oldest = time.monotonic() - _WINDOW
        while self._seen and self._seen[0][0] < oldest:
            self._seen.popleft()
        return self._seen


def kind_of(event: Json) -> str:
    """Return what is counted: a record's action, or the type of another event."""
    return str(event["action"] if event["type"] == "record" else event["type"])
