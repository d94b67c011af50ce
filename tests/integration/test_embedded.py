"""The embedded servers: ready when they say so, durable, and gone when they should be."""

from __future__ import annotations

from pathlib import Path
from uuid import UUID

import psycopg
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from consumer.embedded.jars import cache_home
from consumer.embedded.kafka import EmbeddedKafka
from consumer.embedded.postgres import EmbeddedPostgres
from consumer.errors import Fatal
from tests.support.deployment import Deployment
from tests.support.proxy import TcpProxy


async def _create_topic(servers: str, name: str) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=servers)
    await admin.start()
    try:
        await admin.create_topics([NewTopic(name, 1, 1)])
    finally:
        await admin.close()


async def _produce(servers: str, topic: str, *values: bytes) -> None:
    async with AIOKafkaProducer(bootstrap_servers=servers) as producer:
        for value in values:
            await producer.send_and_wait(topic, value)


async def _read(servers: str, topic: str, count: int) -> list[bytes]:
    consumer = AIOKafkaConsumer(topic, bootstrap_servers=servers, auto_offset_reset="earliest")
    async with consumer:
        return [(await consumer.getone()).value for _ in range(count)]


async def test_kafka_keeps_its_records_through_a_restart_and_a_kill(
    own_kafka: EmbeddedKafka,
) -> None:
    address = own_kafka.bootstrap_servers
    await _create_topic(address, "kept")
    await _produce(address, "kept", b"one")
    await own_kafka.stop()
    await own_kafka.start()
    assert own_kafka.bootstrap_servers == address
    await _produce(address, "kept", b"two")
    own_kafka.server.kill()
    assert own_kafka.server.exit_status == -9
    await own_kafka.start()
    assert await _read(address, "kept", 2) == [b"one", b"two"]


async def test_postgres_keeps_its_rows_through_a_restart_and_a_kill(
    own_postgres: EmbeddedPostgres,
) -> None:
    async with await psycopg.AsyncConnection.connect(own_postgres.dsn) as connection:
        await connection.execute("CREATE TABLE kept AS SELECT 1 AS n")
    await own_postgres.stop()
    await own_postgres.start()
    async with await psycopg.AsyncConnection.connect(own_postgres.dsn) as connection:
        await connection.execute("INSERT INTO kept VALUES (2)")
    own_postgres.server.kill()
    assert own_postgres.server.exit_status == -9
    await own_postgres.start()
    async with await psycopg.AsyncConnection.connect(own_postgres.dsn) as connection:
        rows = await (await connection.execute("SELECT n FROM kept ORDER BY n")).fetchall()
    assert rows == [(1,), (2,)]


async def test_a_broker_that_cannot_start_says_why(server_directory: Path) -> None:
    directory = server_directory / "broken"
    (directory / "data").mkdir(parents=True)  # never formatted
    kafka = EmbeddedKafka(directory, cache_home())
    with pytest.raises(
        Fatal, match=r"the embedded kafka ended with status 1(?s:.*)meta\.properties"
    ):
        await kafka.start()


async def test_the_proxy_cuts_stalls_and_restores_kafka(
    deployment: Deployment, kafka_proxy: TcpProxy
) -> None:
    through = f"127.0.0.1:{kafka_proxy.port}"
    topic = f"{deployment.prefix}proxied"
    await _create_topic(deployment.bootstrap_servers, topic)
    async with AIOKafkaProducer(bootstrap_servers=through, request_timeout_ms=2000) as producer:
        await producer.send_and_wait(topic, b"before")
        cut = kafka_proxy.cut
        await kafka_proxy.stop()
        assert kafka_proxy.cut > cut
        sending = await producer.send(topic, b"during")
        await kafka_proxy.start()
        await sending
    assert await _read(deployment.bootstrap_servers, topic, 2) == [b"before", b"during"]


async def test_the_proxy_stops_and_restores_postgres(
    deployment: Deployment, postgres_proxy: TcpProxy
) -> None:
    dsn = deployment.dsn_through(postgres_proxy)
    connection = await psycopg.AsyncConnection.connect(dsn)
    await postgres_proxy.stop()
    with pytest.raises(psycopg.OperationalError):
        await connection.execute("SELECT 1")
    with pytest.raises(psycopg.OperationalError):
        await psycopg.AsyncConnection.connect(dsn)
    await postgres_proxy.start()
    async with await psycopg.AsyncConnection.connect(dsn) as again:
        await again.execute("SELECT 1")
    await connection.close()


async def test_a_cluster_id_may_begin_with_a_dash(
    server_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("uuid.uuid4", lambda: UUID(bytes=b"\xfb" * 16))
    kafka = EmbeddedKafka(server_directory / "dashed", cache_home())
    try:
        await kafka.start()
        properties = (server_directory / "dashed").rglob("meta.properties")
        assert any("cluster.id=-" in found.read_text() for found in properties)
    finally:
        await kafka.stop()
