"""The Kafka and PostgreSQL of one deployment: found, waited for, prepared and checked.

Without ``kafka.bootstrap_servers`` and ``postgres.dsn`` they are the embedded ones of
``data_dir``: ``run`` starts them, everything else attaches to those that run.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TypeVar

import structlog
from pydantic import SecretStr

from consumer import metrics
from consumer.config.settings import Settings
from consumer.embedded import EmbeddedStack, running
from consumer.errors import Fatal, Transient
from consumer.kafka.client import Client
from consumer.kafka.provision import ensure
from consumer.kafka.topics import Topics
from consumer.metrics.labels import Service
from consumer.runtime.lifecycle import Backoff
from consumer.runtime.logs import Outage
from consumer.runtime.tasks import Stopped, unless_stopped, wait_for_stop
from consumer.scope import Scope
from consumer.shard import Shard
from consumer.store import deployment
from consumer.store.database import Database
from consumer.store.deployment import Deployment

T = TypeVar("T")

_COORDINATOR_SECONDS = 10.0  # for those of a new cluster to appear

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Services:
    """What every role needs; ``settings`` name the servers that are really used."""

    settings: Settings
    client: Client
    topics: Topics
    database: Database

    async def kafka_answers(self) -> None:
        """Raise ``Transient`` if Kafka does not answer, or has no coordinators."""
        await self.client.require_coordinators()


def is_embedded(settings: Settings) -> bool:
    """Tell whether the servers are those of ``data_dir``."""
    return settings.kafka.bootstrap_servers is None and settings.postgres.dsn is None


def at(settings: Settings, bootstrap_servers: str, dsn: str) -> Settings:
    """Return ``settings`` with the addresses of the servers."""
    kafka = settings.kafka.model_copy(update={"bootstrap_servers": bootstrap_servers})
    postgres = settings.postgres.model_copy(update={"dsn": SecretStr(dsn)})
    return settings.model_copy(update={"kafka": kafka, "postgres": postgres})


def attached(settings: Settings) -> Settings:
    """Return settings that name running servers.  Raises ``Fatal`` if nothing runs."""
    if not is_embedded(settings):
        return settings
    found = running(settings.data_dir)
    if found is None:
        raise Fatal(
            f"nothing runs in {settings.data_dir}: start it with 'python -m consumer run', "
            "or set kafka.bootstrap_servers and postgres.dsn"
        )
    return at(settings, found.bootstrap_servers, found.dsn)


Say = Callable[[str | None], None]
"""Is told why something is waited for, and None when it is there."""


def _unsaid(_reason: str | None) -> None:
    pass


async def waited_for(
    service: str, attempt: Callable[[], Awaitable[T]], stop: asyncio.Event, say: Say = _unsaid
) -> T:
    """Return the result of ``attempt``, repeated while it raises ``Transient``."""
    outage, backoff = Outage(_log, service), Backoff(longest=5.0)
    while True:
        try:
            result = await unless_stopped(stop, _awaited(attempt))
        except Transient as error:
            outage.again(error)
            say(str(error))
            metrics.WAITS.labels(service).inc()
            if await wait_for_stop(stop, backoff.pause()):
                raise Stopped from None
        else:
            outage.over()
            say(None)
            return result


async def _awaited(attempt: Callable[[], Awaitable[T]]) -> T:
    return await attempt()


@asynccontextmanager
async def stack_of(settings: Settings, stop: asyncio.Event) -> AsyncIterator[Settings]:
    """Give settings that name servers: those given, or embedded ones that run during the block.

    If an embedded one ends by itself, ``stop`` is set and the block ends with its ``Fatal``.
    """
    if not is_embedded(settings):
        yield settings
        return
    stack = EmbeddedStack(settings.data_dir, settings.cache_dir)
    await waited_for(Service.EMBEDDED, stack.__aenter__, stop)
    watch = asyncio.create_task(_watched(stack, stop), name="embedded_stack")
    try:
        yield at(settings, stack.bootstrap_servers, stack.dsn)
    finally:
        watch.cancel()
        await asyncio.wait({watch})
        await stack.__aexit__(None, None, None)
        if not watch.cancelled():
            raise watch.result()


async def _watched(stack: EmbeddedStack, stop: asyncio.Event) -> Fatal:
    fatal = await stack.ended()
    _log.error("embedded_stack_ended", reason=str(fatal))
    stop.set()
    return fatal


def scope_of(settings: Settings) -> Scope:
    """Return what ``settings`` want; of ``scope.dids`` those of the shard."""
    scope, shard = settings.scope, Shard.parse(settings.scope.shard)
    named = frozenset(filter(shard.has, scope.dids))
    return Scope(scope.collections, scope.repos, scope.history, named, shard)


def kafka_of(settings: Settings) -> tuple[Client, Topics]:
    """Return the cluster and the topics that ``settings`` name."""
    kafka = settings.kafka
    return Client(kafka), Topics.of(kafka)


@asynccontextmanager
async def answering(settings: Settings, what: str) -> AsyncIterator[None]:
    """Give the block of a command ``commands.deadline`` seconds.

    Raises ``Transient`` that names ``what`` the command waits for.
    """
    seconds = settings.commands.deadline
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError:
        raise Transient(
            f"no answer in {seconds:g} s, waiting for {what}; 'consumer check' asks each server"
        ) from None


@asynccontextmanager
async def read_only(settings: Settings) -> AsyncIterator[Services]:
    """Give both servers as they are; nothing is waited for, created or changed."""
    async with _brief(settings, Database.attach) as services:
        yield services


@asynccontextmanager
async def preparing(settings: Settings) -> AsyncIterator[Services]:
    """Give both servers with tables and topics made where they are missing; nothing is checked."""
    async with _brief(settings, Database.open) as services:
        await ensure(services.client, services.topics)
        yield services


@asynccontextmanager
async def _brief(
    settings: Settings, begin: Callable[[Database], Awaitable[None]]
) -> AsyncIterator[Services]:
    client, topics = kafka_of(settings)
    database = Database(settings.postgres, settings.kafka.topic_prefix)
    try:
        async with answering(settings, f"PostgreSQL at {database.address}"):
            await begin(database)
        yield Services(settings, client, topics, database)
    finally:
        await database.close()


@asynccontextmanager
async def opened(
    settings: Settings, stop: asyncio.Event, say: Say = _unsaid
) -> AsyncIterator[Services]:
    """Wait for both servers, check that they belong together, prepare tables and topics."""
    prefix, partitions = settings.kafka.topic_prefix, settings.kafka.partitions
    shard = settings.scope.shard
    client, topics = kafka_of(settings)

    database = Database(settings.postgres, prefix)  # one, that knows how long it has been refused
    try:
        await waited_for(Service.POSTGRES, database.open, stop, say)
        cluster = await waited_for(Service.KAFKA, client.cluster_id, stop, say)

        async def check() -> None:
            async with database.transaction() as connection:
                await deployment.check(connection, Deployment(cluster, prefix, partitions, shard))

        await waited_for(Service.POSTGRES, check, stop, say)
        await waited_for(Service.KAFKA, lambda: ensure(client, topics), stop, say)
        await waited_for(
            Service.KAFKA, lambda: client.require_coordinators(_COORDINATOR_SECONDS), stop, say
        )
        yield Services(settings, client, topics, database)
    finally:
        await database.close()
