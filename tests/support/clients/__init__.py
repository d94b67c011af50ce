"""Other people's Kafka clients: each reads a whole topic, with the settings that the guide gives.

The programs beside this module, one for each client, take a broker, a topic and its number of
partitions.  For each committed record they print a line: partition, offset, key, SHA-256 of the
value (``-`` for a tombstone), headers.  They end when every partition had its record ``end``.
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

from aiokafka import AIOKafkaConsumer, TopicPartition

from consumer.embedded.jars import cache_home, kafka_jars
from tests.support import npm
from tests.support.clients.lines import END, line
from tests.support.programs import need, printed

_HERE = Path(__file__).parent
_ROOT = _HERE.parents[2]

Read = Callable[[str, str, int], Awaitable[list[str]]]


async def read_with_aiokafka(servers: str, topic: str, partitions: int) -> list[str]:
    places = [TopicPartition(topic, number) for number in range(partitions)]
    consumer = AIOKafkaConsumer(bootstrap_servers=servers, isolation_level="read_committed")
    found: list[str] = []
    ended: set[int] = set()
    await consumer.start()
    try:
        consumer.assign(places)
        await consumer.seek_to_beginning(*places)
        while len(ended) < partitions:
            one = await consumer.getone()
            found.append(line(one.partition, one.offset, one.key, one.value, one.headers))
            ended |= {one.partition} if one.key == END else set()
    finally:
        await consumer.stop()
    return found


async def read_with_kafka_python(servers: str, topic: str, partitions: int) -> list[str]:
    return await _python("kafka_python", servers, topic, partitions)


async def read_with_librdkafka(servers: str, topic: str, partitions: int) -> list[str]:
    return await _python("librdkafka", servers, topic, partitions)


async def read_with_kafkajs(servers: str, topic: str, partitions: int) -> list[str]:
    return await _node("kafkajs", servers, topic, partitions)


async def read_with_platformatic(servers: str, topic: str, partitions: int) -> list[str]:
    return await _node("platformatic", servers, topic, partitions)


async def read_with_java(servers: str, topic: str, partitions: int) -> list[str]:
    need("javac")
    # Java compiles a single file itself.
    jars = ":".join(map(str, await kafka_jars(cache_home())))
    command = ["java", "-cp", jars, "Read.java", servers, topic, str(partitions)]
    return await printed(_HERE / "java", *command)


async def read_with_franz_go(servers: str, topic: str, partitions: int) -> list[str]:
    need("go")
    command = ["go", "run", "-mod=readonly", ".", servers, topic, str(partitions)]
    return await printed(_HERE / "go", *command)


async def _python(module: str, servers: str, topic: str, partitions: int) -> list[str]:
    command = [sys.executable, "-m", f"{__name__}.{module}", servers, topic, str(partitions)]
    return await printed(_ROOT, *command)


async def _node(package: str, servers: str, topic: str, partitions: int) -> list[str]:
    need("npm")
    place = await npm.installed(_HERE / package)
    return await printed(place, "node", "read.mjs", servers, topic, str(partitions))
