"""The database of one deployment: pool, sessions, transactions.

- ``transaction()`` is the only way to write.  An exception in its block rolls back.  psycopg's
  errors leave the block as ``Transient`` or ``Fatal``; ``CommitUnknown`` (a ``Transient``) means
  that COMMIT was sent and its outcome is unknown.
- Every transaction has ``search_path`` set to the deployment's schema, and both
  ``idle_in_transaction_session_timeout`` and ``transaction_timeout``: a process that freezes
  within a transaction loses its locks after ``postgres.transaction_timeout`` seconds.  The latter
  needs PostgreSQL 17.  How that holds behind a pooler is in ``consumer.store.session``.
- ``synchronous_commit`` is on: a committed transaction survives a crash of the server, because
  the publisher compares its markers in Kafka with it.
- A server that refuses to write (after a failover) is left: every session to it is dropped, and
  only one that writes is connected to.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Protocol

import anyio
import psycopg
from psycopg import sql
from psycopg.pq import TransactionStatus
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from consumer.config.settings import PostgresSettings
from consumer.errors import Fatal, Transient
from consumer.metrics.labels import Service
from consumer.store import deployment, rights, routes
from consumer.store.errors import CommitUnknown, translate_commit, translated
from consumer.store.routes import Known
from consumer.store.schema import migrate, migrations, schema_of
from consumer.store.session import Session, SessionRules
from consumer.store.target import CONNECT_SECONDS, Target

Connection = Session

# The pool gives up an attempt to reconnect after these seconds; the next caller starts a new one.
_RECONNECT_TIMEOUT = 2
# Seconds after the server's own timeouts: these only notice a server that does not answer.
_GRACE = 5.0
_SESSION_SECONDS = CONNECT_SECONDS + _GRACE  # for a session of the pool
_FRESH_SECONDS = 2.0  # after its last use a session is not checked
_READ_SECONDS = 0.1  # for a notification of which the first bytes are here
_CHECK_SECONDS = 5.0  # for the answer of a session before it is given to a transaction

_POLL_SECONDS = 1.0

_PREPARED = "SELECT to_regclass('deployment')"
_NOW = "SELECT extract(epoch FROM clock_timestamp())"
_READ_ONLY = "SELECT current_setting('transaction_read_only')"


class Listener(Protocol):
    """Hears of notifications on one channel."""

    async def wait(self, seconds: float) -> bool:
        """Wait at most ``seconds``; tell whether it is time to look.

        Notifications since the last call count.  Raises ``Transient``.
        """

    async def heard(self, seconds: float) -> list[str]:
        """Wait like ``wait``, and return the payloads.  Raises ``Transient``."""


class Notifications(Listener):
    """A session of its own that listens.

    psycopg looks ten times a second whether it was interrupted; here the event loop waits for the
    socket, and psycopg reads what has come.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._read_first = True  # something may have come with the answer to LISTEN

    async def wait(self, seconds: float) -> bool:
        """Tell whether a notification came."""
        return bool(await self.heard(seconds))

    async def heard(self, seconds: float) -> list[str]:
        """Return the payloads of notifications."""
        with translated():
            if not (self._read_first or await _readable(self._connection.fileno(), seconds)):
                return []
            self._read_first = False
            notes = self._connection.notifies(timeout=_READ_SECONDS, stop_after=1)
            return [note.payload async for note in notes]


class Poll(Listener):
    """Behind a pooler nothing is heard: it is time to look every ``_POLL_SECONDS``."""

    async def wait(self, seconds: float) -> bool:
        """Pause, and say that it is time to look."""
        await asyncio.sleep(min(seconds, _POLL_SECONDS))
        return True

    async def heard(self, seconds: float) -> list[str]:
        """Pause, and hear nothing: who waits for something looks by itself."""
        await asyncio.sleep(seconds)
        return []


class Database:
    """A pool of sessions on one deployment's schema.

    Raises ``Fatal`` if ``postgres.dsn`` is missing or not a connection string.
    """

    def __init__(self, settings: PostgresSettings, prefix: str) -> None:
        if settings.dsn is None:
            raise Fatal("postgres.dsn is not set: set CHIVE_POSTGRES__DSN")
        self.schema = schema_of(prefix)
        self._timeout = settings.transaction_timeout
        self._rules = SessionRules(self.schema, self._timeout)
        patience = self._timeout + _GRACE
        self._target = Target(settings, "dsn", patience)
        self._direct = Target(settings, "direct_dsn", patience) if settings.direct_dsn else None
        self._doubted_at = -math.inf  # when a session failed, in monotonic seconds
        self._pool: AsyncConnectionPool[Connection] = AsyncConnectionPool(
            connection_class=Session,
            kwargs={"rules": self._rules, "target": self._target},
            min_size=1,
            max_size=settings.pool_size,
            open=False,
            timeout=_SESSION_SECONDS,
            check=self._answers,
            reconnect_timeout=_RECONNECT_TIMEOUT,
            name=self.schema,
        )

    @property
    def address(self) -> str:
        """Host, port and name of the database."""
        return self._target.address

    async def open(self) -> None:
        """Connect, bring the tables up to date, start the pool.

        Raises ``Transient`` if the server does not answer, ``Fatal`` if it is too old, refuses,
        or has tables of a newer program.
        """
        with translated():
            async with await self._connect() as connection:
                await migrate(connection, self.schema, migrations())
            await self._pool.open()

    async def attach(self) -> None:
        """Connect and start the pool without changing the tables.

        Raises ``Transient`` if the server does not answer, ``Fatal`` if it is too old, refuses, or
        has no tables.
        """
        with translated():
            async with await self._connect() as connection:
                async with connection.transaction():
                    await connection.begin()
                    found = await (await connection.execute(_PREPARED)).fetchone()
                if found is None or found[0] is None:
                    raise Fatal(
                        f"no tables in schema {self.schema}: nothing has run with this "
                        "kafka.topic_prefix"
                    )
            await self._pool.open()

    async def server(self) -> tuple[str, float]:
        """Return the server's address, database and version, and its Unix time, without the pool.

        Raises ``Transient`` if the server does not answer, ``Fatal`` if it is too old or refuses.
        """
        with translated():
            async with await self._connect() as connection:
                info = connection.info
                version = info.parameter_status("server_version")
                row = await (await connection.execute(_NOW)).fetchone()
                place = f"{info.host}:{info.port}/{info.dbname}"
                return f"{place}, PostgreSQL {version}", float(row[0]) if row else 0.0

    async def lacking(self) -> list[str]:
        """Return what our role will need to do and may not, a sentence each, without the pool.

        Raises ``Transient`` if the server does not answer, ``Fatal`` if it refuses.
        """
        with translated():
            async with await self._connect() as connection, connection.transaction():
                await connection.begin()
                return await rights.lacking(connection, self.schema, migrations())

    async def shard(self) -> str | None:
        """Return the shard that the tables have, None if nothing has run, without the pool.

        Raises ``Transient`` if the server does not answer, ``Fatal`` if it refuses.
        """
        with translated():
            async with await self._connect() as connection, connection.transaction():
                await connection.begin()
                return await deployment.shard_of_tables(connection)

    async def routes(self) -> Known | None:
        """Return the routes of events that are known, None if nothing has run, without the pool.

        Raises ``Transient`` if the server does not answer, ``Fatal`` if it refuses.
        """
        with translated():
            async with await self._connect() as connection, connection.transaction():
                await connection.begin()
                return await routes.read(connection)

    async def close(self) -> None:
        """Close all sessions."""
        await self._pool.close()

    async def ping(self) -> None:
        """Check that the server answers and can be written to.  Raises ``Transient``, ``Fatal``."""
        async with self.transaction() as connection:
            row = await (await connection.execute(_READ_ONLY)).fetchone()
            if row is not None and row[0] == "on":
                await self._leave(connection)
                raise Transient(f"PostgreSQL at {self.address} is read-only", Service.POSTGRES)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Connection]:
        """Open a transaction that commits when the block ends and rolls back when it raises.

        Raises ``Transient`` (``CommitUnknown`` if the outcome of COMMIT is unknown) or ``Fatal``
        for psycopg's errors and for a block that takes longer than the transaction's timeout.
        """
        with translated():
            connection = await self._session()
            try:
                async with _undone_on_error(connection), asyncio.timeout(self._timeout + _GRACE):
                    await connection.begin()
                    yield connection
                await _commit(connection, self._timeout + _GRACE)
            except psycopg.errors.ReadOnlySqlTransaction:
                await self._leave(connection)
                raise
            except (psycopg.OperationalError, CommitUnknown):
                self._doubted_at = time.monotonic()
                raise
            finally:
                connection.used = time.monotonic()
                await self._pool.putconn(connection)

    @asynccontextmanager
    async def listening(self, channel: str) -> AsyncIterator[Listener]:
        """Listen on this deployment's ``channel`` during the block.

        Raises ``Transient`` or ``Fatal`` for psycopg's errors, those of the block as well.
        """
        with translated():
            async with await self._connect(self._direct) as connection:
                if connection.pooled:
                    await connection.close()
                    yield Poll()
                else:
                    name = sql.Identifier(f"{self.schema}_{channel}")
                    await connection.execute(sql.SQL("LISTEN {}").format(name))
                    yield Notifications(connection)

    async def _connect(self, target: Target | None = None) -> Connection:
        return await Session.connect(
            rules=self._rules, target=target or self._target, autocommit=True
        )

    async def _session(self) -> Connection:
        try:
            return await self._pool.getconn()
        except PoolTimeout as error:
            if self._rules.refused:
                raise Fatal(f"PostgreSQL: {self._rules.failure}") from error
            why = self._rules.failure or "all of the pool are in use"
            raise Transient(
                f"PostgreSQL: no session in {_SESSION_SECONDS:g} s: {why}", Service.POSTGRES
            ) from error

    async def _answers(self, connection: Connection) -> None:
        """Raise if the session does not answer: the pool then gives another.

        One that was used a moment ago is not asked, unless another has failed since.
        """
        fresh = time.monotonic() - connection.used < _FRESH_SECONDS
        if not fresh or connection.used <= self._doubted_at:
            async with asyncio.timeout(_CHECK_SECONDS):
                await AsyncConnectionPool.check_connection(connection)

    async def _leave(self, connection: Connection) -> None:
        """Drop every session: the server that ``connection`` leads to refuses to write."""
        await connection.close()
        await self._pool.drain()


async def _readable(socket: int, seconds: float) -> bool:
    """Wait at most ``seconds``; tell whether something can be read, or the connection has ended."""
    loop, arrived = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(socket, arrived.set)
    try:
        with anyio.move_on_after(seconds):
            await arrived.wait()
    finally:
        loop.remove_reader(socket)
    return arrived.is_set()


@asynccontextmanager
async def _undone_on_error(connection: Connection) -> AsyncIterator[None]:
    try:
        yield
    except BaseException:
        await _rollback(connection)
        raise


async def _rollback(connection: Connection) -> None:
    try:
        async with asyncio.timeout(_GRACE):
            await connection.rollback()
    except (psycopg.Error, TimeoutError):
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
