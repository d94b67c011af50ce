"""Common Kafka clients read ``chive.events`` as it is written: record for record what we read."""

from __future__ import annotations

import os

import pytest

from consumer.kafka.client import MAX_RECORD_BYTES, Client
from consumer.kafka.topics import Topic
from consumer.kafka.transaction import OutRecord, TransactionalProducer
from simulator.network import Mix, Network
from tests.support import clients
from tests.support.clients.lines import END, line
from tests.support.deployment import PARTITIONS
from tests.support.worker import WorkerHarness

pytestmark = [pytest.mark.services, pytest.mark.timeout(300)]

CLIENTS: dict[str, clients.Read] = {
    "aiokafka": clients.read_with_aiokafka,
    "franz-go": clients.read_with_franz_go,
    "java": clients.read_with_java,
    "kafka-python": clients.read_with_kafka_python,
    "kafkajs": clients.read_with_kafkajs,
    "librdkafka": clients.read_with_librdkafka,
    "platformatic": clients.read_with_platformatic,
}
# Of what one producer has aborted within a fetch, they leave out the last transaction only.
LET_THROUGH = {"platformatic"}
ABORTED = b"aborted"
# Noise, so that it is as large in Kafka and in a fetch as a record can be.
LARGEST = MAX_RECORD_BYTES - 64 * 1024


async def write(harness: WorkerHarness) -> None:
    """Fill the topic: a network's events, an aborted transaction, the largest record, the ends."""
    network = Network(3, accounts=8, mix=Mix(sync=0.01, identity=0.01))
    harness.keys = network.keys
    async with harness.fetching(), harness.working():
        await harness.publish(network.introduce(10))
        await harness.publish(network.frames(300))
        await harness.settled()
    topic = harness.topics.name(Topic.EVENTS)
    await abort(harness.client, topic)
    large = OutRecord(topic, 1, b"large", os.urandom(LARGEST))
    ends = [OutRecord(topic, n, END, b"") for n in range(PARTITIONS)]
    async with await TransactionalProducer.open(harness.client, "test-writer") as producer:
        await producer.commit([large, *ends])


async def abort(client: Client, topic: str) -> None:
    """Write to every partition, twice, what no reader of committed records may see."""
    producer = client.producer(client.scoped("test-aborted"))
    await producer.start()
    try:
        for _ in range(2):
            await producer.begin_transaction()
            for partition in range(PARTITIONS):
                await producer.send_and_wait(topic, ABORTED, key=ABORTED, partition=partition)
            await producer.abort_transaction()
    finally:
        await producer.stop()


@pytest.mark.parametrize("name", CLIENTS)
async def test_a_client_reads_what_we_read(name: str, harness: WorkerHarness) -> None:
    await write(harness)
    topic = harness.topics.name(Topic.EVENTS)
    found = await CLIENTS[name](harness.deployment.bootstrap_servers, topic, PARTITIONS)
    ours = [
        line(one.partition, one.offset, one.key or b"", one.value, one.headers)
        for one in await harness.committed(Topic.EVENTS)
    ]
    assert len(ours) > 300
    aborted = [each for each in found if each.split()[2] == ABORTED.decode()]
    assert len(aborted) == (PARTITIONS if name in LET_THROUGH else 0)
    found = [each for each in found if each not in aborted]
    assert sorted(found) == sorted(ours)
    for partition in range(PARTITIONS):
        start = f"{partition} "
        order = [each for each in found if each.startswith(start)]
        assert order == [each for each in ours if each.startswith(start)]
