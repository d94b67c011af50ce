"""The guarded producer on a real Kafka: all or nothing, one at a time, bounded in time."""

from __future__ import annotations

import asyncio
import gc
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from consumer.errors import Fatal, Transient
from consumer.kafka.client import MAX_RECORD_BYTES, Client
from consumer.kafka.topics import Topic, Topics
from consumer.kafka.transaction import Fenced, OutcomeUnknown, OutRecord, TransactionalProducer
from tests.support.deployment import Deployment
from tests.support.eventually import eventually
from tests.support.kafka import client_through, committed, configure, values
from tests.support.proxy import TcpProxy

pytestmark = pytest.mark.services


@asynccontextmanager
async def nothing_left_behind() -> AsyncIterator[None]:
    """Fail on tasks that outlive the block, and on exceptions that were never retrieved."""
    loop = asyncio.get_running_loop()
    complaints: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _, context: complaints.append(context))
    before = _driver_tasks()
    try:
        yield

        def ended() -> bool:
            assert _driver_tasks() - before == set()
            return True

        await eventually(ended, what="all tasks of aiokafka ended", deadline=10)
        gc.collect()
        await asyncio.sleep(0)
        assert complaints == []
    finally:
        loop.set_exception_handler(None)


def _driver_tasks() -> set[asyncio.Task[Any]]:
    def is_drivers(task: asyncio.Task[Any]) -> bool:
        code = getattr(task.get_coro(), "cr_code", None)
        return code is not None and "aiokafka" in code.co_filename

    return set(filter(is_drivers, asyncio.all_tasks()))


def record(topics: Topics, value: bytes, partition: int = 0) -> OutRecord:
    return OutRecord(topics.name(Topic.FIREHOSE), partition, b"k", value, (("h", b"1"),))


async def firehose(client: Client, topics: Topics) -> list[bytes | None]:
    return values(await committed(client, topics.name(Topic.FIREHOSE)))


async def test_records_keep_order_key_and_headers(client: Client, topics: Topics) -> None:
    async with await TransactionalProducer.open(client, "p") as producer:
        await producer.commit([record(topics, b"%d" % i, i % 4) for i in range(40)])
        await producer.commit([OutRecord(topics.name(Topic.FIREHOSE), 0, b"gone", None)])
        await producer.commit([])
    found = await committed(client, topics.name(Topic.FIREHOSE))
    in_first = [r for r in found if r.partition == 0]
    assert [r.value for r in in_first] == [b"%d" % i for i in range(0, 40, 4)] + [None]
    assert in_first[0].key == b"k"
    assert list(in_first[0].headers) == [("h", b"1")]
    assert len(found) == 41


async def test_more_than_one_batch_to_a_partition(client: Client, topics: Topics) -> None:
    blobs = [os.urandom(1_500_000) for _ in range(8)]
    async with await TransactionalProducer.open(client, "p") as producer:
        await producer.commit([record(topics, blob) for blob in blobs])
    assert await firehose(client, topics) == blobs


async def test_the_largest_record_fits_and_a_larger_one_harms_nothing(
    client: Client, topics: Topics
) -> None:
    async with await TransactionalProducer.open(client, "p") as producer:
        with pytest.raises(Fatal, match="too large"):
            await producer.commit([record(topics, b"x"), record(topics, b"y" * MAX_RECORD_BYTES)])
        # What the network can send at most: a frame, its headers and its DID.
        largest = os.urandom(5_000_000) + b"z" * 2_000
        await producer.commit([record(topics, largest)])
    assert await firehose(client, topics) == [largest]


async def test_a_record_that_kafka_refuses_fails_the_whole_transaction(
    client: Client, topics: Topics
) -> None:
    await configure(client, topics.name(Topic.DEAD_LETTER), {"max.message.bytes": "1000"})
    async with await TransactionalProducer.open(client, "p") as producer:
        refused = OutRecord(topics.name(Topic.DEAD_LETTER), 0, b"k", os.urandom(5_000))
        with pytest.raises((Fatal, Transient)):
            await producer.commit([record(topics, b"must not appear"), refused])
        with pytest.raises(OutcomeUnknown):
            await producer.commit([record(topics, b"nor this")])
    async with await TransactionalProducer.open(client, "p") as producer:
        await producer.commit([record(topics, b"good")])
    assert await firehose(client, topics) == [b"good"]


async def test_a_second_producer_fences_the_first(client: Client, topics: Topics) -> None:
    async with nothing_left_behind():
        first = await TransactionalProducer.open(client, "p")
        await first.commit([record(topics, b"first")])
        second = await TransactionalProducer.open(client, "p")
        with pytest.raises(Fenced):
            await first.commit([record(topics, b"lost")])
        await second.commit([record(topics, b"second")])
        with pytest.raises(OutcomeUnknown):
            await first.commit([record(topics, b"dead")])
        await first.close()
        await second.close()
    assert await firehose(client, topics) == [b"first", b"second"]


async def test_fenced_between_the_records_and_their_commit(
    client: Client, topics: Topics, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = await TransactionalProducer.open(client, "p")
    taken_over: list[TransactionalProducer] = []
    commit = first._producer.commit_transaction

    async def late_commit() -> None:
        taken_over.append(await TransactionalProducer.open(client, "p"))
        await commit()

    monkeypatch.setattr(first._producer, "commit_transaction", late_commit)
    with pytest.raises(Fenced):
        await first.commit([record(topics, b"aborted")])
    await taken_over[0].commit([record(topics, b"good")])
    await first.close()
    await taken_over[0].close()
    assert await firehose(client, topics) == [b"good"]


async def test_other_names_do_not_fence(client: Client, topics: Topics) -> None:
    async with (
        await TransactionalProducer.open(client, "p") as one,
        await TransactionalProducer.open(client, "q") as other,
    ):
        await one.commit([record(topics, b"1")])
        await other.commit([record(topics, b"2")])
        await one.commit([record(topics, b"3")])


async def test_the_durable_state_is_what_was_committed(client: Client, topics: Topics) -> None:
    cursor = topics.name(Topic.CURSOR)

    def say(key: bytes, value: bytes | None) -> OutRecord:
        return OutRecord(cursor, 0, key, value)

    async with await TransactionalProducer.open(client, "p") as producer:
        assert await producer.durable(cursor, 0) == {}
        await producer.commit([say(b"a", b"1"), say(b"b", b"1")])
        await producer.commit([say(b"a", b"2"), say(b"b", None)])
        assert await producer.durable(cursor, 0) == {b"a": b"2"}
    async with await TransactionalProducer.open(client, "p") as producer:
        assert await producer.durable(cursor, 0) == {b"a": b"2"}


async def test_kafka_stalls_during_a_commit(
    client: Client, topics: Topics, deployment: Deployment, kafka_proxy: TcpProxy
) -> None:
    """The outcome is unknown in bounded time, and a successor reads what has become of it."""
    through = client_through(kafka_proxy, deployment)
    cursor = topics.name(Topic.CURSOR)
    async with nothing_left_behind():
        producer = await TransactionalProducer.open(through, "p")
        await producer.commit([record(topics, b"1"), OutRecord(cursor, 0, b"a", b"1")])
        kafka_proxy.stall()
        with pytest.raises(OutcomeUnknown):
            await producer.commit([record(topics, b"2"), OutRecord(cursor, 0, b"a", b"2")])
        assert kafka_proxy.held > 0
        await producer.close()
    async with await TransactionalProducer.open(client, "p") as successor:
        kafka_proxy.resume()
        durable = int((await successor.durable(cursor, 0))[b"a"])
        await successor.commit([record(topics, b"successor")])
    expected = [b"%d" % i for i in range(1, durable + 1)]
    assert await firehose(client, topics) == [*expected, b"successor"]


async def test_kafka_is_gone(topics: Topics, deployment: Deployment, kafka_proxy: TcpProxy) -> None:
    through = client_through(kafka_proxy, deployment)
    async with nothing_left_behind():
        producer = await TransactionalProducer.open(through, "p")
        await kafka_proxy.stop()
        with pytest.raises(OutcomeUnknown):
            await producer.commit([record(topics, b"1")])
        await producer.close()
        for _ in range(3):
            with pytest.raises(Transient):
                await TransactionalProducer.open(through, "p")


async def test_cancelled_in_mid_commit_it_is_dead(
    client: Client, topics: Topics, deployment: Deployment, kafka_proxy: TcpProxy
) -> None:
    through = client_through(kafka_proxy, deployment)
    async with nothing_left_behind():
        producer = await TransactionalProducer.open(through, "p")
        kafka_proxy.stall()
        commit = asyncio.create_task(producer.commit([record(topics, b"1")]))
        await eventually(lambda: kafka_proxy.held > 0, what="request held")
        commit.cancel()
        await asyncio.wait([commit])
        assert commit.cancelled()
        with pytest.raises(OutcomeUnknown):
            await producer.commit([record(topics, b"2")])
        await producer.close()
        kafka_proxy.resume()
    async with await TransactionalProducer.open(client, "p") as successor:
        await successor.commit([record(topics, b"3")])
    assert await firehose(client, topics) == [b"3"]
