"""PostgreSQL's primary dies under load, and its standby is promoted: nothing is lost."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
import pytest

from consumer.embedded import postgres
from consumer.embedded.postgres import EmbeddedPostgres, binaries
from tests.field.network import Network
from tests.field.product import Product
from tests.field.test_brokers import accounts, one_more, traffic
from tests.support.deployment import Deployment
from tests.support.eventually import eventually
from tests.support.services import own_directory

pytestmark = [pytest.mark.services, pytest.mark.timeout(400)]


async def asked(server: EmbeddedPostgres, *statements: str) -> Any:
    """Carry out statements; return the first value of the last one's first row."""
    async with await psycopg.AsyncConnection.connect(server.dsn, autocommit=True) as connection:
        for statement in statements:
            cursor = await connection.execute(statement.encode())
        row = await cursor.fetchone()
        return row and row[0]


@pytest.fixture
async def standby(
    own_postgres: EmbeddedPostgres, server_directory: Path
) -> AsyncIterator[EmbeddedPostgres]:
    """Give a standby of the test's own PostgreSQL, for which each of its transactions waits."""
    with own_directory(server_directory, "standby", ports=1) as directory:
        process = await asyncio.create_subprocess_exec(
            *(str(binaries() / "pg_basebackup"), "--dbname", own_postgres.dsn),
            *("--pgdata", str(directory / "data")),
            *("--write-recovery-conf", "--checkpoint", "fast"),
            stderr=asyncio.subprocess.PIPE,
        )
        _, errors = await process.communicate()
        assert process.returncode == 0, errors.decode()
        shutil.copy(own_postgres.server.log.parent / "password", directory)
        if user := postgres._system_user():
            for path in (directory, *directory.rglob("*")):
                os.chown(path, user.uid, user.gid)
        standby = EmbeddedPostgres(directory)
        try:
            await standby.start()
            await asked(
                own_postgres,
                "ALTER SYSTEM SET synchronous_standby_names = '*'",
                "SELECT pg_reload_conf()",
            )

            async def followed() -> bool:
                state = await asked(own_postgres, "SELECT sync_state FROM pg_stat_replication")
                return bool(state == "sync")

            await eventually(followed, what="the standby follows", deadline=60)
            yield standby
        finally:
            await standby.stop()


def both(one: EmbeddedPostgres, other: EmbeddedPostgres) -> str:
    """Return a DSN that names both servers."""
    credentials, _, rest = one.dsn.partition("@")
    place, _, name = rest.partition("/")
    second = other.dsn.partition("@")[2].partition("/")[0]
    return f"{credentials}@{place},{second}/{name}"


async def test_the_promoted_standby_is_found_and_written_to(
    deployment: Deployment,
    network: Network,
    own_postgres: EmbeddedPostgres,
    standby: EmbeddedPostgres,
) -> None:
    two = replace(deployment, dsn=both(own_postgres, standby))
    async with Product.opened(two, network=network) as product, product.running():
        repos = await accounts(product)
        async with traffic(product, repos):
            await one_more(product, repos)
            own_postgres.server.kill()
            assert await asked(standby, "SELECT pg_is_in_recovery()")
            await asked(standby, "SELECT pg_promote()")
            await one_more(product, repos)
        await product.agrees(*repos)
    assert not await asked(standby, "SELECT pg_is_in_recovery()")
