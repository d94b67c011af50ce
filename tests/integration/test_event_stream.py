"""Events from one moment to another, on a real Kafka."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Sequence

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.admin import RecordsToDelete

from consumer.cli.event_stream import Span, records
from consumer.kafka.client import Client
from consumer.kafka.reader import Record, TopicPartition
from consumer.kafka.topics import Topic, Topics
from consumer.kafka.transaction import OutRecord, TransactionalProducer
from consumer.kafka.writer import Writer
from tests.support.eventually import eventually
from tests.support.kafka import committed

pytestmark = [pytest.mark.services, pytest.mark.timeout(180)]


def places(topics: Topics, topic: Topic = Topic.EVENTS) -> list[TopicPartition]:
    return [TopicPartition(topics.name(topic), number) for number in range(2)]


async def write(client: Client, place: TopicPartition, value: bytes) -> None:
    async with await TransactionalProducer.open(client, "writer") as producer:
        await producer.commit([OutRecord(*place, b"k", value)])


async def read(client: Client, where: Sequence[TopicPartition], span: Span) -> list[bytes]:
    async with asyncio.timeout(60):
        return sorted([each.value or b"" async for each in records(client, where, span)])


async def moments(
    client: Client, topics: Topics, topic: Topic = Topic.EVENTS
) -> dict[bytes, float]:
    """Return when the brokers took each value, in Unix seconds."""
    found = await committed(client, topics.name(topic), range(2))
    return {record.value or b"": record.timestamp / 1000 for record in found}


async def test_spans_meet_without_a_gap_or_a_repetition(client: Client, topics: Topics) -> None:
    here, there = places(topics)
    for value in (b"1", b"2", b"3"):
        await write(client, here, value)
        await asyncio.sleep(0.005)  # another millisecond
    await write(client, there, b"4")
    at = await moments(client, topics)
    both = [here, there]
    assert await read(client, both, Span()) == [b"1", b"2", b"3", b"4"]
    assert await read(client, both, Span(0, at[b"2"])) == [b"1"]
    assert await read(client, both, Span(at[b"2"], at[b"4"])) == [b"2", b"3"]
    assert await read(client, both, Span(at[b"2"], None)) == [b"2", b"3", b"4"]
    # No record of either partition is so late: there is nothing, at once.
    assert await read(client, both, Span(at[b"4"] + 0.001, None)) == []
    assert await read(client, both, Span(at[b"4"] + 0.001, at[b"4"] + 0.002)) == []
    assert await read(client, both, Span(math.inf, None)) == []


async def test_it_goes_on_until_a_moment_to_come(client: Client, topics: Topics) -> None:
    here, there = places(topics)
    await write(client, here, b"before")
    until = time.time() + 8
    reading = asyncio.create_task(read(client, [here, there], Span(0, until)))
    await write(client, there, b"meanwhile")
    assert not reading.done()
    assert await reading == [b"before", b"meanwhile"]
    assert time.time() >= until


async def test_what_was_open_at_the_end_is_waited_for(client: Client, topics: Topics) -> None:
    here, _ = places(topics)
    producer = AIOKafkaProducer(
        bootstrap_servers=client.settings.bootstrap_servers, transactional_id="slow"
    )
    await producer.start()
    try:
        async with producer.transaction():
            await producer.send_and_wait(here.topic, b"open", b"k", here.partition)
            await asyncio.sleep(0.01)
            reading = asyncio.create_task(read(client, [here], Span(0, time.time())))
            assert await asyncio.wait([reading], timeout=2) == (set(), {reading})
    finally:
        await producer.stop()
    assert await reading == [b"open"]


async def test_a_partition_whose_beginning_is_gone(client: Client, topics: Topics) -> None:
    here, _ = places(topics, Topic.FIREHOSE)  # of the others Kafka deletes no beginning
    for value in (b"1", b"2"):
        await write(client, here, value)
    at = await moments(client, topics, Topic.FIREHOSE)
    async with client.admin() as admin:
        await admin.delete_records({here: RecordsToDelete(before_offset=2)})
    assert await read(client, [here], Span(at[b"1"], None)) == [b"2"]
    assert await read(client, [here], Span(0, at[b"1"])) == []


async def test_without_an_end_it_goes_on(client: Client, topics: Topics) -> None:
    here, _ = places(topics)
    found: list[Record] = []

    async def follow() -> None:
        async for record in records(client, [here], Span(math.inf, math.inf)):
            found.append(record)  # noqa: PERF401  looked at meanwhile

    async with await Writer.open(client) as writer:
        await writer.write(OutRecord(*here, b"k", b"old"))
        following = asyncio.create_task(follow())
        try:

            async def heard() -> bool:
                await writer.write(OutRecord(*here, b"k", b"new"))
                return bool(found)

            await eventually(heard, what="what comes")
        finally:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)
    assert {record.value for record in found} == {b"new"}
