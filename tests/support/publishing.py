"""A publisher of one lane, on real Kafka and PostgreSQL."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any
from uuid import uuid4

from consumer import metrics
from consumer.kafka.client import Client
from consumer.kafka.reader import TopicPartition
from consumer.kafka.topics import Topic
from consumer.lanes.outgoing import Outgoing
from consumer.lanes.publisher import Pace, Publisher
from consumer.store import lanes, outbox
from consumer.store.deployment import Deployment as Recorded
from consumer.store.deployment import check
from consumer.store.rows import RELEASED, Lane, OutRow
from tests.support.deployment import Deployment
from tests.support.eventually import eventually
from tests.support.harness import Harness
from tests.support.kafka import committed

LANE = 2


EPRINT, NODE = "pub.chive.eprint.submission", "pub.chive.graph.node"


# Small transactions, prompt looks: many boundaries in little time.
PACE = Pace(transaction_rows=7, trim_every=0.0, look_every=0.1)


@dataclass
class PublisherHarness(Harness):
    """One lane of a deployment, decided on by the test."""

    lane: Lane
    decided: int = 0

    def publisher(self, pace: Pace = PACE, client: Client | None = None) -> Publisher:
        return Publisher(client or self.client, self.topics, self.database, pace)

    @asynccontextmanager
    async def publishing(
        self, pace: Pace = PACE, client: Client | None = None
    ) -> AsyncIterator[Outgoing]:
        """Publish the lane as a new process would; at the end, all that was handed over."""
        publisher = self.publisher(pace, client)
        async with publisher.publishing(self.lane, undecided=True) as outgoing:
            yield outgoing
            assert await outgoing.published(30)

    async def publish_forever(self, pace: Pace = PACE) -> None:
        """Publish the lane until cancelled; raise what the publisher died of."""
        async with self.publisher(pace).publishing(self.lane, undecided=True) as outgoing:
            await outgoing.lost()

    async def claim(self) -> Lane:
        """Claim the lane, whichever owner it has."""
        async with self.database.transaction() as connection:
            await lanes.create(connection, LANE)
            seen = await lanes.read(connection, LANE)
            assert seen is not None
            claimed = await lanes.claim(connection, LANE, seen.token, uuid4())
        assert claimed is not None
        self.lane = claimed
        return claimed

    async def decide(self, count: int) -> list[OutRow]:
        """Commit ``count`` rows, as a batch of the worker does, and return them."""
        stamp = uuid4()
        rows = [replace(row(self.decided + i), stamp=stamp) for i in range(1, count + 1)]
        async with self.database.transaction() as connection:
            seen = await lanes.read(connection, LANE)
            assert seen is not None
            await outbox.append(connection, {LANE: rows})
            new = replace(seen, last_out_seq=self.decided + count)
            assert await lanes.advance(connection, [seen], [new])
        self.decided += count
        return rows

    async def waiting(self) -> int:
        async with self.database.transaction() as connection:
            return (await outbox.depth(connection)).get(LANE, 0)

    async def published(self) -> list[Any]:
        """Return everything a read_committed reader sees, by topic and partition."""
        return [
            record
            for name in (*self.topics.event_topics, self.topics.name(Topic.DEAD_LETTER))
            for record in await committed(self.client, name)
        ]

    def topics_of(self, row: OutRow) -> tuple[str, ...]:
        """Return the topics that the row goes to."""
        if row.topic != Topic.EVENTS:
            return (self.topics.name(row.topic),)
        return self.topics.event_routes().of(row.key)


@asynccontextmanager
async def claimed(
    deployment: Deployment, routes: Mapping[str, str]
) -> AsyncIterator[PublisherHarness]:
    """Open a deployment with ``routes``, of which the test owns a lane."""
    deployment = replace(deployment, routes=routes)
    async with PublisherHarness.opened(deployment, lane=Lane(LANE, RELEASED)) as harness:
        async with harness.database.transaction() as connection:
            await check(connection, recorded(harness))
        await harness.claim()
        yield harness


def row(out_seq: int) -> OutRow:
    topic = "dead-letter" if out_seq % 10 == 0 else "events"
    value = None if out_seq % 5 == 3 else b"value %d" % out_seq
    headers = (("reason", b"test"),) if topic == "dead-letter" else ()
    return OutRow(out_seq, topic, out_seq % 3, key_of(out_seq // 2), headers, value)


def key_of(number: int) -> bytes:
    """Return the key of a record of one of two collections, or of an account's event."""
    if number % 3 == 0:
        return b"did:plc:%d#account" % number
    return b"at://did:plc:a/%s/%d" % ((EPRINT, NODE)[number % 2].encode(), number)


def recorded(harness: PublisherHarness) -> Recorded:
    return Recorded("a cluster", harness.topics.prefix, harness.topics.partitions)


def sequence(records: Sequence[Any]) -> list[int]:
    return [int(dict(record.headers)["out_seq"]) for record in records]


async def exactly_once(harness: PublisherHarness) -> None:
    """Assert that every decided row is in Kafka once, in order per partition, as decided."""
    found = await harness.published()
    rows = [row(out_seq) for out_seq in range(1, harness.decided + 1)]
    assert sorted((record.topic, *sequence([record])) for record in found) == sorted(
        (topic, row.out_seq) for row in rows for topic in harness.topics_of(row)
    )
    places: dict[TopicPartition, list[int]] = {}
    for record in found:
        (out_seq,) = sequence([record])
        expected = row(out_seq)
        assert (record.key, record.value) == (expected.key, expected.value)
        assert record.partition == expected.partition
        headers = (*expected.headers, ("lane", b"%d" % LANE), ("out_seq", b"%d" % out_seq))
        assert tuple(record.headers) == headers
        places.setdefault(TopicPartition(record.topic, record.partition), []).append(out_seq)
    assert all(order == sorted(order) for order in places.values())


async def all_trimmed(harness: PublisherHarness) -> None:
    await eventually(lambda: empty(harness), what="an empty outbox", deadline=90)


async def empty(harness: PublisherHarness) -> bool:
    return await harness.waiting() == 0


def count_of(outcome: str) -> float:
    labels = {"role": "publisher", "outcome": outcome}
    return metrics.REGISTRY.get_sample_value("chive_transactions_total", labels) or 0.0
