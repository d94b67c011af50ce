"""Readers that share one consumer, on a real Kafka."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count

import pytest
from aiokafka.admin import RecordsToDelete

from consumer.errors import Transient
from consumer.kafka import shared
from consumer.kafka.client import Client
from consumer.kafka.reader import OffsetExpired, Record, TopicPartition
from consumer.kafka.shared import Feed, SharedReader
from consumer.kafka.topics import Topic, Topics
from consumer.kafka.transaction import OutRecord, TransactionalProducer
from tests.support.deployment import Deployment
from tests.support.eventually import eventually
from tests.support.kafka import client_through, values
from tests.support.proxy import TcpProxy

pytestmark = pytest.mark.services


def place(topics: Topics, partition: int) -> TopicPartition:
    return TopicPartition(topics.name(Topic.FIREHOSE), partition)


async def write(client: Client, *records: tuple[TopicPartition, bytes]) -> None:
    async with await TransactionalProducer.open(client, "writer") as producer:
        await producer.commit([OutRecord(*where, b"k", value) for where, value in records])


async def taken(feed: Feed, where: TopicPartition, most: int) -> list[Record]:
    """Take ``most`` records as they come."""
    found: list[Record] = []

    async def enough() -> bool:
        found.extend(feed.take(where, most - len(found), 10**9))
        if len(found) < most:
            await feed.wait(0.2)
        return len(found) == most

    await eventually(enough, what=f"{most} records")
    return found


@pytest.fixture
def numbers() -> Iterator[int]:
    return count(1)


async def test_each_feed_has_its_own_and_others_come_and_go(client: Client, topics: Topics) -> None:
    one, two = place(topics, 0), place(topics, 1)
    await write(client, (one, b"1"), (two, b"a"), (one, b"2"))
    reader = SharedReader(client)
    async with reader.feeding({one: 0}) as first:
        assert values(await taken(first, one, 1)) == [b"1"]
        async with reader.feeding({two: 0}) as second:
            await write(client, (one, b"3"), (two, b"b"))
            assert values(await taken(second, two, 2)) == [b"a", b"b"]
            assert values(await taken(first, one, 2)) == [b"2", b"3"]
        await write(client, (one, b"4"), (two, b"c"))
        assert values(await taken(first, one, 1)) == [b"4"]
        assert not first.holds(one)
    async with reader.feeding({two: 0}) as again:
        assert values(await taken(again, two, 3)) == [b"a", b"b", b"c"]


async def test_nothing_is_lost_or_repeated_while_feeds_come_and_go(
    client: Client, topics: Topics, numbers: Iterator[int]
) -> None:
    steady, others = place(topics, 0), [place(topics, n) for n in (1, 2, 3)]
    reader = SharedReader(client)
    got: list[Record] = []
    async with reader.feeding({steady: 0}) as feed:
        for other in others * 5:
            sent = [b"%d" % next(numbers) for _ in range(20)]
            async with reader.feeding({other: 0}):
                await write(client, *((steady, value) for value in sent))
            got += feed.take(steady, 7, 10**9)
        got += await taken(feed, steady, 300 - len(got))
    assert values(got) == [b"%d" % n for n in range(1, 301)]


async def test_a_feed_holds_about_its_bound(
    client: Client, topics: Topics, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that nobody takes from holds up neither memory nor the others."""
    monkeypatch.setattr(shared, "_HELD", 1_000)
    idle, busy = place(topics, 0), place(topics, 1)
    reader = SharedReader(client)
    async with reader.feeding({idle: 0}) as left, reader.feeding({busy: 0}) as used:
        for n in range(30):
            await write(client, (idle, bytes(600)), (busy, b"%d" % n))
            assert values(await taken(used, busy, 1)) == [b"%d" % n]
        held = left.take(idle, 30, 10**9)
        assert 2 <= len(held) < 10
        assert len(await taken(left, idle, 30 - len(held))) == 30 - len(held)


async def test_what_retention_deleted_ends_one_feed_alone(client: Client, topics: Topics) -> None:
    expired, other = place(topics, 0), place(topics, 1)
    await write(client, *((expired, b"%d" % n) for n in range(5)), (other, b"x"))
    async with client.admin() as admin:
        await admin.delete_records({expired: RecordsToDelete(before_offset=3)})
    reader = SharedReader(client)
    async with reader.feeding({other: 0}) as good, reader.feeding({expired: 0}) as bad:
        with pytest.raises(OffsetExpired, match="starts at offset 3"):
            await taken(bad, expired, 1)
        assert values(await taken(good, other, 1)) == [b"x"]
        await write(client, (other, b"y"))
        assert values(await taken(good, other, 1)) == [b"y"]


async def test_kafka_away_ends_the_feeds_and_the_next_begin_anew(
    client: Client, topics: Topics, deployment: Deployment, kafka_proxy: TcpProxy
) -> None:
    here = place(topics, 0)
    reader = SharedReader(client_through(kafka_proxy, deployment))
    await write(client, (here, b"1"))
    async with reader.feeding({here: 0}) as feed:
        assert values(await taken(feed, here, 1)) == [b"1"]
    await kafka_proxy.stop()
    with pytest.raises(Transient):
        async with reader.feeding({here: 0}):
            pass
    await kafka_proxy.start()
    async with reader.feeding({here: 0}) as feed:
        assert values(await taken(feed, here, 1)) == [b"1"]
