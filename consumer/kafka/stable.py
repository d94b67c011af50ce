"""Transactions that were left open: what they hold back, and since when.

A reader of committed records sees a partition up to its last stable offset, where the oldest open
transaction begins.  An abandoned transaction hides everything after it from readers until its
producer's timeout, which may be 15 minutes; nothing looks late meanwhile, because lag counts
what can be read.  So the last stable offset is compared with the high watermark, and the record in
between says by its timestamp how long it has been waiting.

Our own transactions take a second, and are aborted after ``kafka.transaction_timeout``.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import structlog

from consumer import metrics
from consumer.errors import Transient
from consumer.kafka.client import Client, deadline, release
from consumer.kafka.reader import PartitionReader, TopicPartition
from consumer.kafka.topics import Topic, Topics
from consumer.metrics.labels import Service
from consumer.runtime.tasks import wait_for_stop

OPEN_SECONDS = 10.0
"""A transaction that is open for longer counts as left open."""

_EVERY_SECONDS = 10.0
_REPEAT_SECONDS = 60.0
_READ_SECONDS = 5.0  # for the first record of every open transaction together

_Views = tuple[Any, Any]

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class OpenTransaction:
    """The oldest open transaction of a partition.

    It begins at ``offset``, at ``since`` (Unix seconds); ``waiting`` offsets cannot be read.
    """

    place: TopicPartition
    offset: int
    waiting: int
    since: float

    def __str__(self) -> str:
        return (
            f"a transaction on {self.place.topic}-{self.place.partition} has been open for "
            f"{time.time() - self.since:,.0f} s and holds back {self.waiting:,} offsets"
        )


def places_of(topics: Topics, *only: Topic) -> list[TopicPartition]:
    """Return all partitions of the deployment, or those of ``only`` some of its topics."""
    names = {topics.name(topic) for topic in only}
    return [
        TopicPartition(spec.name, partition)
        for spec in topics.specs()
        if spec.name in names or not only
        for partition in range(spec.partitions)
    ]


async def left_open(
    client: Client, places: Iterable[TopicPartition], longer_than: float = OPEN_SECONDS
) -> list[OpenTransaction]:
    """Return the transactions that have been open on ``places`` for ``longer_than`` seconds.

    Raises ``Transient`` or ``Fatal``.
    """
    async with _views(client) as views:
        return await _left_open(client, views, list(places), longer_than)


async def _left_open(
    client: Client, views: _Views, places: list[TopicPartition], longer_than: float
) -> list[OpenTransaction]:
    held = await _held_back(client, views, places) if places else {}
    if not held:
        return []
    begun = {place: stable for place, (stable, _) in held.items()}
    found = []
    async with await PartitionReader.open(client, begun, committed=False) as reader:
        give_up = time.monotonic() + _READ_SECONDS
        while begun and time.monotonic() < give_up:
            for record in await reader.fetch(*begun, wait=0.5):
                place = TopicPartition(record.topic, record.partition)
                if begun.pop(place, None) is not None:
                    stable, end = held[place]
                    found.append(
                        OpenTransaction(place, stable, end - stable, record.timestamp / 1000)
                    )
    old = time.time() - longer_than
    return sorted((each for each in found if each.since <= old), key=lambda each: each.place)


@asynccontextmanager
async def _views(client: Client) -> AsyncIterator[_Views]:
    """Give a consumer of committed records, and one of all."""
    async with AsyncExitStack() as stack:
        views = client.consumer(), client.consumer(committed=False)
        for consumer in views:
            stack.push_async_callback(release, consumer)
            try:
                async with deadline(client.timeout, "asking for offsets"):
                    await consumer.start()
            except Transient as error:
                raise await client.explained(error) from error
        yield views


async def _held_back(
    client: Client, views: _Views, places: list[TopicPartition]
) -> dict[TopicPartition, tuple[int, int]]:
    """Return last stable offset and high watermark of the partitions in which they differ."""
    async with deadline(client.timeout, "asking for offsets"):
        stable, high = [await consumer.end_offsets(places) for consumer in views]
    return {each: (stable[each], high[each]) for each in places if stable[each] < high[each]}


class OpenTransactions:
    """Watches a deployment's topics, or some of them, for transactions that were left open."""

    def __init__(self, client: Client, topics: Topics, *only: Topic) -> None:
        self._client = client
        self._places = places_of(topics, *only)
        self._topics = {spec.name: spec.topic for spec in topics.specs()}
        self._found: dict[TopicPartition, OpenTransaction] = {}
        self._said: dict[TopicPartition, float] = {}

    async def run(self, stop: asyncio.Event) -> None:
        """Look every few seconds until told to stop.  Raises ``Transient`` or ``Fatal``."""
        try:
            async with _views(self._client) as views:
                while not stop.is_set():
                    found = await _left_open(self._client, views, self._places, OPEN_SECONDS)
                    self._note(found)
                    await wait_for_stop(stop, _EVERY_SECONDS)
        finally:
            self._note([])

    async def check(self) -> None:
        """Raise ``Transient`` that names what is held back, if anything is."""
        if self._found:
            raise Transient("; ".join(map(str, self._found.values())), Service.KAFKA)

    def _note(self, found: list[OpenTransaction]) -> None:
        now = time.monotonic()
        for over in self._found.keys() - {each.place for each in found}:
            del self._said[over]
            _log.info("transaction_over", topic=over.topic, partition=over.partition)
        self._found = {each.place: each for each in found}
        oldest = dict.fromkeys(self._topics.values(), 0.0)
        for each in found:
            topic, partition = each.place
            age = time.time() - each.since
            oldest[self._topics[topic]] = max(age, oldest[self._topics[topic]])
            if now - self._said.get(each.place, -_REPEAT_SECONDS) >= _REPEAT_SECONDS:
                self._said[each.place] = now
                _log.warning(
                    "transaction_open",
                    topic=topic,
                    partition=partition,
                    offset=each.offset,
                    waiting=each.waiting,
                    seconds=round(age),
                )
        for name, age in oldest.items():
            metrics.OPEN_TRANSACTION.labels(name).set(age)
