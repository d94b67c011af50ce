"""Kafka as tests look at it: this deployment's client, and everything committed to a topic."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.structs import ConsumerRecord

from consumer.kafka.client import Client
from consumer.kafka.reader import PartitionReader, Record, TopicPartition
from consumer.kafka.topics import Topics
from tests.support.deployment import PARTITIONS, Deployment
from tests.support.eventually import eventually
from tests.support.proxy import LOOPBACK, TcpProxy

TIMEOUT = 10.0


def client_of(deployment: Deployment, *, timeout: float = TIMEOUT) -> Client:
    """Return a client of the deployment that gives up after ``timeout`` seconds."""
    return Client(deployment.kafka(request_timeout=timeout))


def client_through(proxy: TcpProxy, deployment: Deployment, *, timeout: float = 4.0) -> Client:
    """Return a client of the deployment that reaches Kafka only through ``proxy``."""
    return Client(
        deployment.kafka(bootstrap_servers=f"{LOOPBACK}:{proxy.port}", request_timeout=timeout)
    )


def topics_of(deployment: Deployment) -> Topics:
    return Topics.of(deployment.kafka())


async def committed(
    client: Client, topic: str, partitions: Iterable[int] = range(PARTITIONS)
) -> list[Record]:
    """Return every committed record of ``topic``, each partition in order."""
    places = [TopicPartition(topic, partition) for partition in partitions]
    found: dict[TopicPartition, list[Record]] = {place: [] for place in places}
    async with await PartitionReader.open(client, dict.fromkeys(places)) as reader:
        async for page in reader.until_end():
            for record in page:
                found[TopicPartition(record.topic, record.partition)].append(record)
    return [record for place in places for record in found[place]]


def recorded(key: bytes | None, value: bytes | None, **headers: bytes) -> Record:
    """Return a record as the reader gives it, appended to events/3 at offset 7 in 1970."""
    record: Record = ConsumerRecord(
        *("events", 3, 7, 1_001, 1, key, value, None, 0, 0), tuple(headers.items())
    )
    return record


def values(records: Sequence[Record]) -> list[bytes | None]:
    return [record.value for record in records]


async def config_of(client: Client, topic: str) -> dict[str, str]:
    """Return the effective configuration of ``topic``."""
    async with client.admin() as admin:
        resource = ConfigResource(ConfigResourceType.TOPIC, topic)
        (response,) = await admin.describe_configs([resource])
    return {entry[0]: entry[1] for *_, entries in response.resources for entry in entries}


async def configure(client: Client, topic: str, config: Mapping[str, str]) -> None:
    """Give ``topic`` exactly this configuration beside Kafka's defaults, and see it in force."""
    async with client.admin() as admin:
        await admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, dict(config))])

    async def in_force() -> bool:
        return config.items() <= (await config_of(client, topic)).items()

    await eventually(in_force, what=f"configuration of {topic}")
