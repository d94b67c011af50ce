"""The real Kafka and PostgreSQL: one of each for each process of the run.

A process of pytest-xdist runs its tests one after the other and starts its servers when a test
first asks for them, so no test ever shares a server with another that runs at the same time.
Tests that stop or kill a server ask for one of their own (``own_kafka``, ``own_postgres``)
or put a proxy in front of the process's.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from consumer.embedded.jars import cache_home
from consumer.embedded.kafka import EmbeddedKafka
from consumer.embedded.postgres import EmbeddedPostgres
from tests.support.oldest_kafka import wanted
from tests.support.proxy import TcpProxy, reserve


@dataclass(frozen=True, slots=True)
class Services:
    """The servers of a process.  ``kafka_proxy`` leads to the same broker as ``kafka``."""

    kafka: EmbeddedKafka
    postgres: EmbeddedPostgres
    kafka_proxy: TcpProxy


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test that needs the servers."""
    for item in items:
        if {"services", "own_kafka", "own_postgres"} & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.services)


@pytest.fixture(scope="session")
def server_directory() -> Iterator[Path]:
    """Give a directory that PostgreSQL's user may pass, unlike pytest's own."""
    directory = Path(tempfile.mkdtemp(prefix="chive-tests-"))
    yield directory
    shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(scope="session")
async def services(server_directory: Path) -> AsyncIterator[Services]:
    """Start the process's Kafka and PostgreSQL."""
    proxy = TcpProxy()
    kafka = EmbeddedKafka(
        server_directory / "kafka", cache_home(), proxied_port=proxy.port, release=wanted()
    )
    postgres = EmbeddedPostgres(server_directory / "postgres", durable=False)
    try:
        await asyncio.gather(kafka.start(), postgres.start())
        assert kafka.proxied_upstream is not None
        proxy.upstream = kafka.proxied_upstream
        yield Services(kafka, postgres, proxy)
    finally:
        await proxy.close()
        await asyncio.gather(kafka.stop(), postgres.stop())


@pytest.fixture
async def kafka_proxy(services: Services) -> AsyncIterator[TcpProxy]:
    """Put a proxy in front of the process's Kafka: bootstrap from ``127.0.0.1:<port>``."""
    await services.kafka_proxy.start()
    yield services.kafka_proxy
    await services.kafka_proxy.stop()


@pytest.fixture
async def postgres_proxy(services: Services) -> AsyncIterator[TcpProxy]:
    """Put a proxy in front of the process's PostgreSQL; see ``Deployment.dsn_through``."""
    upstream = int(services.postgres.dsn.rsplit(":", 1)[1].partition("/")[0])
    async with TcpProxy(upstream) as proxy:
        yield proxy


@contextmanager
def own_directory(parent: Path, name: str, ports: int) -> Iterator[Path]:
    """Give a server a directory and ports that no other process takes while it is stopped."""
    directory = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=parent))
    reserved = [reserve(0) for _ in range(ports)]
    chosen = [socket.getsockname()[1] for socket in reserved]
    (directory / "ports.json").write_text(json.dumps(chosen))
    try:
        yield directory
    finally:
        for socket in reserved:
            socket.close()
        shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture
async def own_kafka(server_directory: Path) -> AsyncIterator[EmbeddedKafka]:
    """Start a Kafka that the test may stop, kill and start again, at the same address."""
    with own_directory(server_directory, "kafka", ports=3) as directory:
        kafka = EmbeddedKafka(directory, cache_home(), release=wanted())
        try:
            await kafka.start()
            yield kafka
        finally:
            await kafka.stop()


@pytest.fixture
async def own_postgres(server_directory: Path) -> AsyncIterator[EmbeddedPostgres]:
    """Start a PostgreSQL that the test may stop, kill and start again, at the same address."""
    with own_directory(server_directory, "postgres", ports=1) as directory:
        postgres = EmbeddedPostgres(directory)
        try:
            await postgres.start()
            yield postgres
        finally:
            await postgres.stop()
