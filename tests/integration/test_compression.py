"""Which codec the batches have that Kafka keeps, and that any can be read beside any other."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from consumer.config.types import Codec
from consumer.kafka.client import Client
from consumer.kafka.topics import READ_BY_OTHERS, Topic, Topics
from consumer.kafka.transaction import OutRecord, TransactionalProducer
from tests.support.deployment import PARTITIONS, Deployment
from tests.support.kafka import committed, values

pytestmark = pytest.mark.services

NUMBERS: dict[Codec, int] = {"none": 0, "gzip": 1, "snappy": 2, "lz4": 3, "zstd": 4}
ZSTD = NUMBERS["zstd"]
_HEAD = struct.Struct(">qiibIh")  # of a batch: offset, length, epoch, magic, CRC, attributes
_COUNTED_FROM = 12  # what the length counts
_CODEC, _CONTROL = 0x07, 0x20  # attributes


@pytest.fixture
def logs(server_directory: Path) -> Path:
    """Return where the broker keeps its partitions."""
    return server_directory / "kafka" / "data"


def kept(logs: Path, name: str) -> list[int]:
    """Return the codecs of the batches of records that the broker keeps of a topic, in order."""
    files = sorted(file for n in range(PARTITIONS) for file in logs.glob(f"{name}-{n}/*.log"))
    assert files
    return [codec for file in files for codec in codecs(file.read_bytes())]


def codecs(segment: bytes) -> Iterator[int]:
    at = 0
    while at + _HEAD.size <= len(segment):
        _, length, *_, attributes = _HEAD.unpack_from(segment, at)
        if length <= 0:
            return  # space that was reserved
        if not attributes & _CONTROL:
            yield attributes & _CODEC
        at += _COUNTED_FROM + length


def records(topics: Topics, topic: Topic, text: bytes) -> list[OutRecord]:
    return [OutRecord(topics.name(topic), 0, b"%d" % n, text * 100) for n in range(5)]


async def write(deployment: Deployment, codec: Codec, *written: OutRecord) -> None:
    client = Client(deployment.kafka(compression=codec))
    async with await TransactionalProducer.open(client, "p") as producer:
        await producer.commit(written)


@pytest.mark.parametrize("codec", NUMBERS)
async def test_one_transaction_writes_each_topic_in_its_codec(
    codec: Codec, deployment: Deployment, client: Client, topics: Topics, logs: Path
) -> None:
    every = {topic: records(topics, topic, topic.encode()) for topic in Topic}
    await write(deployment, codec, *(one for each in every.values() for one in each))
    for topic, written in every.items():
        name = topics.name(topic)
        assert kept(logs, name) == [NUMBERS[codec] if topic in READ_BY_OTHERS else ZSTD]
        found = await committed(client, name, [0])
        assert [(record.key, record.value) for record in found] == [
            (record.key, record.value) for record in written
        ]


async def test_what_was_written_keeps_its_codec(
    deployment: Deployment, client: Client, topics: Topics, logs: Path
) -> None:
    for codec in NUMBERS:
        await write(deployment, codec, *records(topics, Topic.EVENTS, codec.encode()))
    name = topics.name(Topic.EVENTS)
    assert kept(logs, name) == list(NUMBERS.values())
    expected = [codec.encode() * 100 for codec in NUMBERS for _ in range(5)]
    assert values(await committed(client, name)) == expected
