"""PgBouncer between the deployment and PostgreSQL: nothing is lost, and nothing lands elsewhere."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import psycopg
import pytest
from pydantic import SecretStr

from consumer.config.settings import PostgresSettings
from consumer.store import lookups, status
from consumer.store.database import Database, Notifications, Poll
from consumer.store.rows import LookupRequest
from tests.support.accounts import Accounts
from tests.support.consumer import Start
from tests.support.deployment import Deployment
from tests.support.pgbouncer import Pooled

pytestmark = [pytest.mark.services, pytest.mark.timeout(300)]

_TASKS, _ROUNDS = 6, 25
_UNKNOWN = "did:plc:" + "z" * 24


@asynccontextmanager
async def opened(dsn: str, prefix: str, direct: str | None = None) -> AsyncIterator[Database]:
    settings = PostgresSettings(
        dsn=SecretStr(dsn), direct_dsn=SecretStr(direct) if direct else None, pool_size=_TASKS
    )
    database = Database(settings, prefix)
    await database.open()
    try:
        yield database
    finally:
        await database.close()


async def write_many(database: Database, relay: str) -> None:
    """Write with several tasks, each its own rows, and often enough to be prepared directly."""

    async def write(task: int) -> None:
        for number in range(_ROUNDS):
            async with database.transaction() as connection:
                await status.mirror_cursor(connection, f"{relay}/{task}", number, None, 1)

    async with asyncio.TaskGroup() as group:
        for task in range(_TASKS):
            group.create_task(write(task))


async def written(dsn: str, schema: str) -> set[str]:
    async with await psycopg.AsyncConnection.connect(dsn) as connection:
        query = f'SELECT relay, seq FROM "{schema}".cursors'  # noqa: S608 - our own schema
        rows = await (await connection.execute(query.encode())).fetchall()
    assert {seq for _, seq in rows} == {_ROUNDS - 1}
    return {relay for relay, _ in rows}


async def test_two_deployments_behind_one_pool_write_each_into_its_own_tables(
    pgbouncer: Pooled, deployment: Deployment
) -> None:
    async with AsyncExitStack() as stack:
        through = await stack.enter_async_context(pgbouncer("transaction", 2))
        dsn = through(deployment.dsn)
        one, two = [
            await stack.enter_async_context(opened(dsn, prefix)) for prefix in ("one.", "two.")
        ]
        rude = await stack.enter_async_context(
            await psycopg.AsyncConnection.connect(dsn, autocommit=True, prepare_threshold=None)
        )
        over = asyncio.Event()

        async def leave_settings_behind() -> int:
            """Leave the other's schema in the server's sessions; return how often it was met."""
            met = 0
            while not over.is_set():
                row = await (await rude.execute("SHOW search_path")).fetchone()
                met += row == ("two",)
                await rude.execute("SET search_path = two")
            return met

        rudeness = asyncio.create_task(leave_settings_behind())
        await asyncio.gather(write_many(one, "wss://one"), write_many(two, "wss://two"))
        over.set()
        assert await rudeness > 0

        async with one.transaction() as connection:
            assert connection.pooled
            shown = await (await connection.execute("SHOW transaction_timeout")).fetchone()
            assert shown == ("1min",)
        assert not (await (await rude.execute("SELECT FROM pg_prepared_statements")).fetchall())
    for name in ("one", "two"):
        assert await written(deployment.dsn, name) == {f"wss://{name}/{n}" for n in range(_TASKS)}


async def test_notifications_are_heard_past_the_pooler_or_replaced_by_looking(
    pgbouncer: Pooled, deployment: Deployment
) -> None:
    async with pgbouncer("transaction", 2) as through:
        dsn = through(deployment.dsn)
        async with opened(dsn, "one.") as database, database.listening("lookups") as listener:
            assert isinstance(listener, Poll)
            assert await listener.wait(60)
        async with (
            opened(dsn, "one.", deployment.dsn) as database,
            database.listening(lookups.CHANNEL) as listener,
        ):
            assert isinstance(listener, Notifications)
            async with database.transaction() as connection:
                await lookups.request(connection, [LookupRequest(_UNKNOWN, "identity", 0)])
            assert await listener.wait(60)


@pytest.mark.parametrize("size", [2, 20])
async def test_session_mode_works_also_with_a_small_pool(
    pgbouncer: Pooled, deployment: Deployment, size: int
) -> None:
    async with pgbouncer("session", size) as through:
        began = time.monotonic()
        async with opened(through(deployment.dsn), "one.") as database:
            await write_many(database, "wss://one")
        assert time.monotonic() - began < 120
    assert await written(deployment.dsn, "one") == {f"wss://one/{n}" for n in range(_TASKS)}


async def test_a_direct_session_has_its_settings_and_prepares_its_statements(
    deployment: Deployment,
) -> None:
    async with opened(deployment.dsn, "one.") as database, database.transaction() as connection:
        assert not connection.pooled
        for number in range(_ROUNDS):
            await status.mirror_cursor(connection, "wss://one", number, None, 1)
        found = await connection.execute("SELECT FROM pg_prepared_statements")
        assert await found.fetchall()


async def test_commands_are_carried_out_behind_a_pooler(
    pgbouncer: Pooled, deployment: Deployment, accounts: Accounts, consumer: Start
) -> None:
    async with pgbouncer("transaction", 2) as through:
        environment = accounts.environment(deployment)
        environment["CHIVE_POSTGRES__DSN"] = through(deployment.dsn)
        fetcher = await consumer("run", "--role", "fetcher", env=environment)
        await fetcher.saying("lane_claimed", deadline=90)
        sync = await consumer("sync", _UNKNOWN, env=environment)
        assert await sync.ended(90) == 1, sync
        assert "DidNotFound" in sync.out
        assert await fetcher.stopped() == 0
