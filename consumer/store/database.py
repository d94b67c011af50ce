"""The database of one deployment: pool, sessions, transactions.

- ``transaction()`` is the only way to write.  An exception in its block rolls back.  psycopg's
  errors leave the block as ``Transient`` or ``Fatal``; ``CommitUnknown`` (a ``Transient``) means
  that COMMIT was sent and its outcome is unknown.
- Every session has ``search_path`` set to the deployment's schema, and both
  ``idle_in_transaction_session_timeout`` and ``transaction_timeout``: a process that freezes
  within a transaction loses its locks after ``postgres.transaction_timeout`` seconds.  The latter
  needs PostgreSQL 17.
- ``synchronous_commit`` is on: a committed transaction survives a crash of the server, because
  the publisher compares its markers in Kafka with it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo
from psycopg.pq import TransactionStatus
from psycopg_pool import AsyncConnectionPool

from consumer.config.settings import PostgresSettings
from consumer.errors import Fatal
from consumer.metrics import Service
from consumer.store.errors import CommitUnknown, translate_commit, translated
from consumer.store.schema import migrate, migrations, schema_of

Connection = psycopg.AsyncConnection[tuple[Any, ...]]

_MIN_SERVER = 170000  # as the server reports its version
_CONNECT_TIMEOUT = 10  # seconds
# The pool gives up an attempt to reconnect after these seconds; the next caller starts a new one.
_RECONNECT_TIMEOUT = 2
# Seconds after the server's own timeouts: these only notice a server that does not answer.
_GRACE = 5.0

_SESSION = """
SELECT set_config('search_path', %(schema)s, false),
       set_config('idle_in_transaction_session_timeout', %(timeout)s, false),
       set_config('transaction_timeout', %(timeout)s, false),
       set_config('synchronous_commit', 'on', false),
       set_config('jit', 'off', false)
"""

_PREPARED = "SELECT to_regclass('deployment')"


def _dsn(settings: PostgresSettings) -> str:
    if settings.dsn is None:
        raise Fatal("postgres.dsn is not set: set CHIVE_POSTGRES__DSN")
    try:
        return make_conninfo(
            settings.dsn.get_secret_value(),
            connect_timeout=_CONNECT_TIMEOUT,
            keepalives_idle=15,
            keepalives_interval=5,
            keepalives_count=3,
            tcp_user_timeout=int((settings.transaction_timeout + _GRACE) * 1000),
        )
    except psycopg.ProgrammingError:
        # libpq quotes the string in its message, and with it the password.
        raise Fatal(
            "postgres.dsn is not a connection string: write postgresql://user:password@host/database"
        ) from None


class Listener:
    """One session that listens on one channel."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def wait(self, seconds: float) -> bool:
        """Wait at most ``seconds`` for a notification; tell whether one came.

        Notifications since the last call count.  Raises ``Transient``.
        """
        return bool(await self.heard(seconds))

    async def heard(self, seconds: float) -> list[str]:
        """Wait like ``wait``, and return the payloads.  Raises ``Transient``."""
        with translated():
            notes = self._connection.notifies(timeout=seconds, stop_after=1)
            return [note.payload async for note in notes]


class Database:
    """A pool of sessions on one deployment's schema.

    Raises ``Fatal`` if ``postgres.dsn`` is missing or not a connection string.
    """

    def __init__(self, settings: PostgresSettings, prefix: str) -> None:
        self.schema = schema_of(prefix)
        self._dsn = _dsn(settings)
        self._timeout = settings.transaction_timeout
        self._pool: AsyncConnectionPool[Connection] = AsyncConnectionPool(
            self._dsn,
            min_size=1,
            max_size=settings.pool_size,
            open=False,
            configure=self._configure,
            timeout=_CONNECT_TIMEOUT + _GRACE,
            check=AsyncConnectionPool.check_connection,
            reconnect_timeout=_RECONNECT_TIMEOUT,
            name=self.schema,
        )

    async def open(self) -> None:
        """Connect, bring the tables up to date, start the pool.

        Raises ``Transient`` if the server does not answer, ``Fatal`` if it is too old, refuses,
        or has tables of a newer program.
        """
        with translated():
            async with await self._connect() as connection:
                _require_version(connection.info.server_version)
                await connection.execute("SET transaction_timeout = 0")
                await migrate(connection, self.schema, migrations())
            await self._pool.open()

    async def attach(self) -> None:
        """Connect and start the pool without changing the tables.

        Raises ``Transient`` if the server does not answer, ``Fatal`` if it is too old, refuses, or
        has no tables.
        """
        with translated():
            async with await self._connect() as connection:
                _require_version(connection.info.server_version)
                found = await (await connection.execute(_PREPARED)).fetchone()
                if found is None or found[0] is None:
                    raise Fatal(
                        f"no tables in schema {self.schema}: nothing has run with this "
                        "kafka.topic_prefix"
                    )
            await self._pool.open()

    async def server(self) -> str:
        """Return the server's address, database and version, without the pool.

        Raises ``Transient`` if the server does not answer, ``Fatal`` if it is too old or refuses.
        """
        with translated():
            async with await self._connect() as connection:
                info = connection.info
                _require_version(info.server_version)
                version = info.parameter_status("server_version")
                return f"{info.host}:{info.port}/{info.dbname}, PostgreSQL {version}"

    async def close(self) -> None:
        """Close all sessions."""
        await self._pool.close()

    async def ping(self) -> None:
        """Check that the server answers.  Raises ``Transient`` or ``Fatal``."""
        async with self.transaction() as connection:
            await connection.execute("SELECT 1")

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Connection]:
        """Open a transaction that commits when the block ends and rolls back when it raises.

        Raises ``Transient`` (``CommitUnknown`` if the outcome of COMMIT is unknown) or ``Fatal``
        for psycopg's errors and for a block that takes longer than the transaction's timeout.
        """
        with translated():
            connection = await self._pool.getconn()
            try:
                async with _undone_on_error(connection), asyncio.timeout(self._timeout + _GRACE):
                    yield connection
                await _commit(connection, self._timeout + _GRACE)
            finally:
                await self._pool.putconn(connection)

    @asynccontextmanager
    async def listening(self, channel: str) -> AsyncIterator[Listener]:
        """Listen on this deployment's ``channel`` during the block.

        Raises ``Transient`` or ``Fatal`` for psycopg's errors, those of the block as well.
        """
        with translated():
            async with await self._connect() as connection:
                name = sql.Identifier(f"{self.schema}_{channel}")
                await connection.execute(sql.SQL("LISTEN {}").format(name))
                yield Listener(connection)

    async def _connect(self) -> Connection:
        connection = await psycopg.AsyncConnection.connect(self._dsn, autocommit=True)
        await self._configure(connection)
        return connection

    async def _configure(self, connection: Connection) -> None:
        milliseconds = str(int(self._timeout * 1000))
        await connection.execute(_SESSION, {"schema": self.schema, "timeout": milliseconds})
        if not connection.autocommit:
            await connection.commit()


def _require_version(version: int) -> None:
    if version < _MIN_SERVER:
        raise Fatal(
            f"PostgreSQL is version {version // 10000}, version 17 or newer is needed: "
            "update the server"
        )


@asynccontextmanager
async def _undone_on_error(connection: Connection) -> AsyncIterator[None]:
    try:
        yield
    except BaseException:
        await _rollback(connection)
        raise


async def _rollback(connection: Connection) -> None:
    try:
        await connection.rollback()
    except psycopg.Error:
        await connection.close()  # then the server rolls back


async def _commit(connection: Connection, bound: float) -> None:
    """Commit within ``bound`` seconds; without an answer the outcome is unknown."""
    if connection.info.transaction_status == TransactionStatus.INERROR:
        await _rollback(connection)
        raise Fatal("a transaction went on after a failed statement: this is a bug")
    try:
        async with asyncio.timeout(bound):
            await connection.commit()
    except psycopg.Error as error:
        raise translate_commit(error) from error
    except TimeoutError as error:
        await connection.close()
        raise CommitUnknown(
            "PostgreSQL: COMMIT was not answered in time", Service.POSTGRES
        ) from error
