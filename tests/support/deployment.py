"""A deployment of its own for each test: fresh topics, a fresh database, settings for both."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
import pytest
from aiokafka.admin import AIOKafkaAdminClient
from psycopg import sql
from pydantic import SecretStr

from consumer.config.settings import KafkaSettings, PostgresSettings, Settings, WorkerSettings
from tests.support.proxy import LOOPBACK, TcpProxy
from tests.support.services import Services

PARTITIONS = 4


@dataclass(frozen=True, slots=True)
class Deployment:
    """Names that no other test uses, on the shared servers."""

    bootstrap_servers: str
    prefix: str
    dsn: str
    data_dir: Path
    routes: Mapping[str, str] = field(default_factory=dict, kw_only=True)

    def settings(self, **sections: Any) -> Settings:
        """Return settings of this deployment; ``sections`` replace whole sections.

        Lanes say nothing of themselves, so that a test sees what it caused alone.
        """
        defaults: dict[str, Any] = {
            "worker": WorkerSettings(progress_every=0),
            "kafka": self.kafka(),
            "postgres": self.postgres(),
            "data_dir": self.data_dir,
        }
        return Settings(**{**defaults, **sections})

    def kafka(self, **values: Any) -> KafkaSettings:
        """Return its Kafka settings, with ``values`` on top."""
        defaults: dict[str, Any] = {
            "bootstrap_servers": self.bootstrap_servers,
            "topic_prefix": self.prefix,
            "partitions": PARTITIONS,
            "routes": self.routes,
        }
        return KafkaSettings(**{**defaults, **values})

    def postgres(self, **values: Any) -> PostgresSettings:
        """Return its PostgreSQL settings, with ``values`` on top."""
        return PostgresSettings(**{"dsn": SecretStr(self.dsn), **values})

    def environment(self) -> dict[str, str]:
        """Return the same settings as environment variables, for a subprocess."""
        return {
            "CHIVE_KAFKA__BOOTSTRAP_SERVERS": self.bootstrap_servers,
            "CHIVE_KAFKA__TOPIC_PREFIX": self.prefix,
            "CHIVE_KAFKA__PARTITIONS": str(PARTITIONS),
            "CHIVE_KAFKA__ROUTES": ",".join(f"{k}={v}" for k, v in self.routes.items()),
            "CHIVE_POSTGRES__DSN": self.dsn,
            "CHIVE_DATA_DIR": str(self.data_dir),
            "CHIVE_GATEWAY__BIND": "127.0.0.1:0",
        }

    def dsn_through(self, proxy: TcpProxy) -> str:
        """Return the database's address through ``proxy``."""
        credentials, _, rest = self.dsn.rpartition("@")
        return f"{credentials}@{LOOPBACK}:{proxy.port}/{rest.partition('/')[2]}"


@asynccontextmanager
async def deployed(services: Services, data_dir: Path) -> AsyncIterator[Deployment]:
    """Give topics and a database during the block; both are removed afterwards."""
    name = f"t{secrets.token_hex(6)}"
    server = services.postgres.dsn
    await _execute(server, sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    yield Deployment(
        bootstrap_servers=services.kafka.bootstrap_servers,
        prefix=f"{name}.",
        dsn=f"{server.rpartition('/')[0]}/{name}",
        data_dir=data_dir,
    )
    drop = sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name))
    await _execute(server, drop)
    await _delete_topics(services.kafka.bootstrap_servers, f"{name}.")


@pytest.fixture
async def deployment(services: Services, tmp_path: Path) -> AsyncIterator[Deployment]:
    """Give the test its own topics and database."""
    async with deployed(services, tmp_path / "data") as deployment:
        yield deployment


async def _execute(dsn: str, statement: sql.Composed) -> None:
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
        await connection.execute(statement)


async def _delete_topics(bootstrap_servers: str, prefix: str) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap_servers)
    await admin.start()
    try:
        topics = [topic for topic in await admin.list_topics() if topic.startswith(prefix)]
        if topics:
            await admin.delete_topics(topics)
    finally:
        await admin.close()
