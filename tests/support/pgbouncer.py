"""PgBouncer in front of a PostgreSQL; tests that ask for it are skipped without it."""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
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


def program() -> str | None:
    """Return where PgBouncer is installed; None if it is not."""
    return shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin")


@dataclass(frozen=True, slots=True)
class Pooler:
    """A PgBouncer at ``port`` that runs ``argv``, in front of the server of ``dsn``."""

    dsn: str
    port: int
    argv: tuple[str, ...]
    server: Server

    def through(self, dsn: str) -> str:
        """Return the address of a database through it."""
        at = urlsplit(dsn)
        return f"postgresql://{at.username}:any@{LOOPBACK}:{self.port}{at.path}"

    async def start(self) -> None:
        """Start it, and wait until it answers."""
        await self.server.start(self.argv)
        await self.server.wait_ready(self._answers, _READY_SECONDS)

    async def _answers(self) -> bool:
        try:
            async with await psycopg.AsyncConnection.connect(
                self.through(self.dsn), connect_timeout=5
            ):
                return True
        except psycopg.OperationalError:
            return False


@asynccontextmanager
async def pooling(
    installed: str, parent: Path, dsn: str, mode: str, size: int
) -> AsyncIterator[Pooler]:
    """Run the PgBouncer that is ``installed`` during the block."""
    with own_directory(parent, "pgbouncer", ports=1) as directory:
        port = int((directory / "ports.json").read_text().strip("[]"))
        config = directory / "pgbouncer.ini"
        config.write_text(_config(dsn, port, mode, size))
        user = postgres._system_user()
        for path in (directory, config):
            path.chmod(0o755)
        if user:
            os.chown(directory, user.uid, user.gid)
        server = Server("pgbouncer", directory, user=user, environment={"PATH": os.defpath})
        pooler = Pooler(dsn, port, (installed, str(config)), server)
        try:
            await pooler.start()
            yield pooler
        finally:
            server.kill()


@pytest.fixture
def pgbouncer(services: Services, server_directory: Path) -> Pooled:
    """Give what starts a PgBouncer for the length of a block."""
    found = program()
    if found is None:
        pytest.skip("PgBouncer is not installed: run 'make pgbouncer'")
    installed = found

    @asynccontextmanager
    async def start(mode: str, size: int) -> AsyncIterator[Callable[[str], str]]:
        dsn = services.postgres.dsn
        async with pooling(installed, server_directory, dsn, mode, size) as pooler:
            yield pooler.through

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
