"""Reading partitions from positions of our own, on a real Kafka."""

from __future__ import annotations

import pytest
from aiokafka.admin import RecordsToDelete

from consumer.errors import Fatal, Transient
from consumer.kafka.client import Client
from consumer.kafka.compacted import CompactedPartition
from consumer.kafka.reader import OffsetExpired, PartitionReader, Record, TopicPartition
from consumer.kafka.topics import Topic, Topics
from consumer.kafka.transaction import OutRecord, TransactionalProducer
from tests.support.deployment import Deployment
from tests.support.eventually import eventually
from tests.support.kafka import client_through, values
from tests.support.proxy import TcpProxy

pytestmark = pytest.mark.services


def place(topics: Topics, partition: int = 0) -> TopicPartition:
    return TopicPartition(topics.name(Topic.FIREHOSE), partition)


async def write(client: Client, place: TopicPartition, *transactions: list[bytes]) -> None:
    async with await TransactionalProducer.open(client, "writer") as producer:
        for values_ in transactions:
            await producer.commit([OutRecord(*place, b"k", value) for value in values_])


async def read(reader: PartitionReader, count: int, *places: TopicPartition) -> list[Record]:
    found: list[Record] = []

    async def enough() -> bool:
        found.extend(await reader.fetch(*places, wait=0.2))
        return len(found) >= count

    await eventually(enough, what=f"{count} records")
    return found


async def test_goes_on_where_the_owner_left_off(client: Client, topics: Topics) -> None:
    here = place(topics)
    await write(client, here, [b"1", b"2"], [b"3"], [b"4"])
    async with await PartitionReader.open(client, {here: None}) as reader:
        first = await read(reader, 4)
    assert values(first) == [b"1", b"2", b"3", b"4"]
    async with await PartitionReader.open(client, {here: first[1].offset + 1}) as reader:
        assert values(await read(reader, 2)) == [b"3", b"4"]
        assert await reader.fetch(wait=0.1) == []


async def test_log_append_time_is_the_brokers(client: Client, topics: Topics) -> None:
    here = place(topics)
    await write(client, here, [b"1"], [b"2"])
    async with await PartitionReader.open(client, {here: None}) as reader:
        first, second = await read(reader, 2)
    assert 0 < first.timestamp <= second.timestamp


async def test_the_position_passes_transaction_markers(client: Client, topics: Topics) -> None:
    here = place(topics)
    await write(client, here, [b"1"], [b"2"])
    async with await PartitionReader.open(client, {here: None}) as reader:
        await read(reader, 2)
        earliest, latest = (await reader.bounds())[here]
        assert (earliest, latest) == (0, 4)

        async def at_the_end() -> bool:
            assert await reader.fetch(wait=0.1) == []
            return await reader.position(here) == latest

        await eventually(at_the_end, what="position behind the last marker")


async def test_a_limit_and_one_partition_at_a_time(client: Client, topics: Topics) -> None:
    here, there = place(topics, 0), place(topics, 1)
    await write(client, here, [b"%d" % i for i in range(10)])
    await write(client, there, [b"x"])
    async with await PartitionReader.open(client, {here: None, there: None}) as reader:
        assert values(await read(reader, 1, there)) == [b"x"]
        taken: list[bytes | None] = []
        while len(taken) < 10:
            records = await reader.fetch(here, wait=5, limit=4)
            assert 0 < len(records) <= 4
            taken += values(records)
        assert taken == [b"%d" % i for i in range(10)]
        reader.seek(here, 8)
        assert values(await read(reader, 2, here)) == [b"8", b"9"]


async def test_an_open_transaction_holds_readers_back(client: Client, topics: Topics) -> None:
    here = place(topics)
    producer = await TransactionalProducer.open(client, "writer")
    driver = producer._producer
    await driver.begin_transaction()
    await driver.send_and_wait(here.topic, b"open", b"k", partition=0)
    async with await PartitionReader.open(client, {here: None}) as reader:
        assert (await reader.bounds())[here] == (0, 0)
        assert await reader.fetch(wait=0.3) == []
        successor = await TransactionalProducer.open(client, "writer")
        await successor.commit([OutRecord(*here, b"k", b"good")])
        assert values(await read(reader, 1)) == [b"good"]
        await successor.close()
    await producer.close()


async def test_a_position_that_retention_has_passed(client: Client, topics: Topics) -> None:
    here = place(topics)
    await write(client, here, [b"%d" % i for i in range(10)])
    async with client.admin() as admin:
        await admin.delete_records({here: RecordsToDelete(before_offset=6)})
    async with await PartitionReader.open(client, {here: 2}) as reader:
        with pytest.raises(OffsetExpired) as lost:
            await reader.fetch(wait=10)
        assert (lost.value.wanted, lost.value.earliest) == (2, 6)
        reader.seek(here, lost.value.earliest)
        assert values(await read(reader, 4)) == [b"6", b"7", b"8", b"9"]


async def test_a_position_beyond_the_end(client: Client, topics: Topics) -> None:
    here = place(topics)
    await write(client, here, [b"1"])
    async with await PartitionReader.open(client, {here: 1_000}) as reader:
        with pytest.raises(Fatal, match="ends at offset 2, the stored position is 1000"):
            await reader.fetch(wait=10)


async def test_compacted_reading_ends_at_its_barrier_and_not_before(
    client: Client, topics: Topics
) -> None:
    cursor = topics.name(Topic.CURSOR)
    async with await TransactionalProducer.open(client, "writer") as producer:
        for i in range(5):
            await producer.commit([OutRecord(cursor, 0, b"k", b"%d" % i)])
            assert await producer.durable(cursor, 0) == {b"k": b"%d" % i}
    impatient = Client(client.settings.model_copy(update={"request_timeout": 1.0}))
    async with await CompactedPartition.open(impatient, cursor, 0) as read:
        with pytest.raises(Transient):
            await read.read_to(b"never")


async def test_opening_and_reading_while_kafka_is_away(
    client: Client, topics: Topics, deployment: Deployment, kafka_proxy: TcpProxy
) -> None:
    here = place(topics)
    await write(client, here, [b"1"])
    through = client_through(kafka_proxy, deployment)
    async with await PartitionReader.open(through, {here: None}) as reader:
        assert values(await read(reader, 1)) == [b"1"]
        await kafka_proxy.stop()
        with pytest.raises(Transient):
            await PartitionReader.open(through, {here: None})
        assert await reader.fetch(wait=0.2) == []
        await write(client, here, [b"2"])
        await kafka_proxy.start()
        assert values(await read(reader, 1)) == [b"2"]
