"""PgBouncer in front of the process's PostgreSQL; tests that ask for it are skipped without it."""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest

from consumer.embedded import postgres
from consumer.embedded.process import Server
from tests.support.proxy import LOOPBACK
from tests.support.services import Services, own_directory

_READY_SECONDS = 30.0

Pooled = Callable[[str, int], AbstractAsyncContextManager[Callable[[str], str]]]
"""Starts a PgBouncer with this mode and pool size; gives what turns a DSN into one through it."""


@pytest.fixture
def pgbouncer(services: Services, server_directory: Path) -> Pooled:
    """Give what starts a PgBouncer for the length of a block."""
    found = shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin")
    if found is None:
        pytest.skip("PgBouncer is not installed: run 'make pgbouncer'")
    program = found

    @asynccontextmanager
    async def start(mode: str, size: int) -> AsyncIterator[Callable[[str], str]]:
        with own_directory(server_directory, "pgbouncer", ports=1) as directory:
            port = int((directory / "ports.json").read_text().strip("[]"))
            config = directory / "pgbouncer.ini"
            config.write_text(_config(services.postgres.dsn, port, mode, size))
            user = postgres._system_user()
            for path in (directory, config):
                path.chmod(0o755)
            if user:
                os.chown(directory, user.uid, user.gid)
            server = Server("pgbouncer", directory, user=user, environment={"PATH": os.defpath})

            def through(dsn: str) -> str:
                at = urlsplit(dsn)
                return f"postgresql://{at.username}:any@{LOOPBACK}:{port}{at.path}"

            async def answers() -> bool:
                try:
                    async with await psycopg.AsyncConnection.connect(
                        through(services.postgres.dsn), connect_timeout=5
                    ):
                        return True
                except psycopg.OperationalError:
                    return False

            try:
                await server.start([program, str(config)])
                await server.wait_ready(answers, _READY_SECONDS)
                yield through
            finally:
                server.kill()

    return start


def _config(dsn: str, port: int, mode: str, size: int) -> str:
    at = urlsplit(dsn)
    return f"""\
[databases]
* = host={at.hostname} port={at.port} user={at.username} password={at.password}
[pgbouncer]
listen_addr = {LOOPBACK}
listen_port = {port}
unix_socket_dir =
auth_type = any
pool_mode = {mode}
default_pool_size = {size}
max_client_conn = 200
"""
