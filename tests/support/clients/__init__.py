"""Other people's Kafka clients: each reads a whole topic, with the settings that the guide gives.

The programs beside this module, one for each client, take a broker, a topic and its number of
partitions.  For each committed record they print a line: partition, offset, key, SHA-256 of the
value (``-`` for a tombstone), headers.  They end when every partition had its record ``end``.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition

from consumer.embedded.jars import cache_home, kafka_jars
from tests.support import npm
from tests.support.clients.lines import END, line

_HERE = Path(__file__).parent
_ROOT = _HERE.parents[2]
_ENOUGH = 180.0  # seconds for a program, its build included

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
    _need("javac")
    # Java compiles a single file itself.
    jars = ":".join(map(str, await kafka_jars(cache_home())))
    command = ["java", "-cp", jars, "Read.java", servers, topic, str(partitions)]
    return await _printed(_HERE / "java", *command)


async def read_with_franz_go(servers: str, topic: str, partitions: int) -> list[str]:
    _need("go")
    command = ["go", "run", "-mod=readonly", ".", servers, topic, str(partitions)]
    return await _printed(_HERE / "go", *command)


async def _python(module: str, servers: str, topic: str, partitions: int) -> list[str]:
    command = [sys.executable, "-m", f"{__name__}.{module}", servers, topic, str(partitions)]
    return await _printed(_ROOT, *command)


async def _node(package: str, servers: str, topic: str, partitions: int) -> list[str]:
    _need("npm")
    place = await npm.installed(_HERE / package)
    return await _printed(place, "node", "read.mjs", servers, topic, str(partitions))


def _need(program: str) -> None:
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed")


async def _printed(folder: Path, *command: str) -> list[str]:
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        *command, cwd=folder, stdout=pipe, stderr=pipe, env={**os.environ, "GOFLAGS": ""}
    )
    try:
        async with asyncio.timeout(_ENOUGH):
            out, err = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, err.decode()[-2000:]
    return out.decode().splitlines()
