"""Faults of servers, as they happen in the field: each is produced, ended, and proves itself."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any

import psutil
import psycopg
from aiokafka import AIOKafkaProducer

from consumer.embedded.process import Server
from consumer.errors import Fatal
from tests.support.cluster import Cluster
from tests.support.pgbouncer import Pooler
from tests.support.proxy import TcpProxy

_ROUNDS = 5
_KILL_BACKENDS = (
    "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
    "WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
)
_RELOAD = "SELECT pg_reload_conf()"


@dataclass(frozen=True, slots=True)
class Fault:
    """``produce`` makes the fault, waits while it lasts, ends it, and raises if there was none.

    ``holds_up``: commits must have been late because of it.
    """

    name: str
    produce: Callable[[], Awaitable[None]]
    holds_up: bool = True


def _sure(happened: object, what: str) -> None:
    if not happened:
        raise Fatal(f"the fault did not happen: {what}")


def stopped(name: str, server: Any, seconds: float) -> Fault:
    """Stop an embedded server in order, and start it again at the same address."""

    async def produce() -> None:
        await server.stop()
        _sure(server.server.exit_status is not None, "the server runs")
        await asyncio.sleep(seconds)
        await server.start()

    return Fault(f"{name} stopped for {seconds:.0f} s", produce)


def frozen(name: str, server: Server, seconds: float) -> Fault:
    """Let a server and its children stand still: connections stay, and nothing answers."""

    async def produce() -> None:
        with _standing(server) as processes:
            await asyncio.sleep(seconds)
            _sure(all(each.status() == psutil.STATUS_STOPPED for each in processes), "it runs")

    return Fault(f"{name} frozen for {seconds:.0f} s", produce)


@contextmanager
def _standing(server: Server) -> Iterator[Sequence[psutil.Process]]:
    parent = psutil.Process(server.pid)
    processes = [parent, *parent.children(recursive=True)]
    for each in processes:
        each.send_signal(signal.SIGSTOP)
    try:
        yield processes
    finally:
        for each in processes:
            each.send_signal(signal.SIGCONT)


def killed_backends(dsn: str) -> Fault:
    """End all sessions of PostgreSQL, five times."""

    async def produce() -> None:
        for _ in range(_ROUNDS):
            async with _administering(dsn) as ask:
                _sure(await ask(_KILL_BACKENDS), "no session was ended")
            await asyncio.sleep(1)

    return Fault(f"PostgreSQL's sessions killed {_ROUNDS} times in {_ROUNDS} s", produce, False)


def read_only(dsn: str, seconds: float) -> Fault:
    """Let PostgreSQL take no writes, as a primary that was demoted."""

    async def produce() -> None:
        async with _administering(dsn) as ask:
            await ask("ALTER SYSTEM SET default_transaction_read_only = on")
            await ask(_RELOAD)
            try:
                await asyncio.sleep(seconds)
            finally:
                await ask("ALTER SYSTEM RESET default_transaction_read_only")
                await ask(_RELOAD)

    return Fault(f"PostgreSQL read-only for {seconds:.0f} s", produce)


@asynccontextmanager
async def _administering(dsn: str) -> AsyncIterator[Callable[[str], Awaitable[Any]]]:
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:

        async def ask(statement: str) -> Any:
            cursor = await connection.execute(statement.encode())
            row = await cursor.fetchone() if cursor.description else None
            return row and row[0]

        yield ask


def open_transaction(bootstrap_servers: str, topic: str, seconds: float) -> Fault:
    """Leave a transaction of somebody else open on one partition."""

    async def produce() -> None:
        producer = AIOKafkaProducer(
            bootstrap_servers=bootstrap_servers, transactional_id="somebody-elses"
        )
        await producer.start()
        try:
            await producer.begin_transaction()
            await producer.send_and_wait(topic, b"{}", partition=0)
            await asyncio.sleep(seconds)
            await producer.abort_transaction()
        finally:
            await producer.stop()

    return Fault(f"a foreign transaction open for {seconds:.0f} s on a partition", produce)


def relay_cut(proxy: TcpProxy, seconds: float) -> Fault:
    """Break the connection to the relay, and refuse new ones."""

    async def produce() -> None:
        cut = proxy.cut
        await proxy.stop()
        _sure(proxy.cut > cut, "no connection was cut")
        await asyncio.sleep(seconds)
        await proxy.start()

    return Fault(f"the relay cut off, refusing for {seconds:.0f} s", produce)


def killed(name: str, server: Server, start: Callable[[], Awaitable[None]]) -> Fault:
    """Kill a process with SIGKILL; what watches over it starts it again at once."""

    async def produce() -> None:
        server.kill()
        _sure(server.exit_status == -signal.SIGKILL, f"it ended with {server.exit_status}")
        await start()

    return Fault(f"{name} killed with SIGKILL, and started again", produce, False)


def killed_broker(cluster: Cluster) -> Fault:
    """Kill one of three brokers, which stays away."""

    async def produce() -> None:
        server = cluster.brokers[0].server
        server.kill()
        _sure(server.exit_status == -signal.SIGKILL, "the broker runs")

    return Fault("one of three Kafka brokers killed", produce, False)


def restarted_pooler(pooler: Pooler) -> Fault:
    """Kill PgBouncer, and start it again."""

    async def produce() -> None:
        pooler.server.kill()
        _sure(pooler.server.exit_status == -signal.SIGKILL, "it runs")
        await pooler.start()

    return Fault("PgBouncer (transaction mode) killed, and started again", produce, False)
