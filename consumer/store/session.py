"""One session with PostgreSQL: how it is connected, and its settings.

A direct session gets its settings once, when it connects.  Behind a pooler that hands the server's
sessions from transaction to transaction (PgBouncer's transaction mode, RDS Proxy) neither settings
nor prepared statements stay with the client: there each transaction sets its own settings, and no
statement is prepared.

A pooler is recognized without being told of: it gives its clients cancellation keys of its own, so
the process id that the connection was announced with is not the one of the server's process.  In
which mode it works is not asked: what is right for transactions is right for sessions too.
"""

from __future__ import annotations

import asyncio
import os
import time
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Self

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.errors import InvalidPassword

from consumer.errors import Fatal

CONNECT_SECONDS = 10
"""For a connection to one host, and then for the first answer."""

_REFUSED_SECONDS = 60.0
# libpq gives no SQLSTATE for a connection that was refused: the text of 28P01.
_REFUSED = "password authentication failed"

_PROCESS = "SELECT pg_backend_pid()"
_SETTINGS = """
SELECT set_config('search_path', %(schema)s, %(local)s),
       set_config('idle_in_transaction_session_timeout', %(timeout)s, %(local)s),
       set_config('transaction_timeout', %(timeout)s, %(local)s),
       set_config('synchronous_commit', 'on', %(local)s),
       set_config('jit', 'off', %(local)s)
"""


@dataclass(slots=True)
class SessionRules:
    """What all sessions of a deployment have in common.

    ``timeout`` of a transaction in seconds.  ``failure``: why the last attempt to connect failed,
    empty once one has succeeded.  ``refused_since``: when the server began to refuse our password.
    """

    schema: str
    timeout: float
    failure: str = ""
    refused_since: float | None = None

    def connected(self) -> None:
        """Note that an attempt to connect has succeeded."""
        self.failure, self.refused_since = "", None

    def failed(self, error: psycopg.Error) -> psycopg.Error:
        """Note why an attempt failed, and return the error to raise.

        A password that has been refused for a minute will not be taken: ``InvalidPassword``.
        """
        self.failure = " ".join(str(error).split()) or type(error).__name__
        if _REFUSED not in self.failure:
            self.refused_since = None
            return error
        now = time.monotonic()
        self.refused_since = now if self.refused_since is None else self.refused_since
        return InvalidPassword(self.failure) if self.refused else error

    @property
    def refused(self) -> bool:
        """Tell whether the password has been refused for a minute."""
        since = self.refused_since
        return since is not None and time.monotonic() - since >= _REFUSED_SECONDS


class Session(psycopg.AsyncConnection[tuple[Any, ...]]):
    """A connection that knows whether a pooler is in between."""

    pooled = False
    _rules: SessionRules

    @classmethod
    async def connect(  # type: ignore[override]  # the pool passes on what it was given
        cls, conninfo: str = "", *, rules: SessionRules, **options: Any
    ) -> Self:
        """Connect, and apply what ``rules`` say.  Raises psycopg's errors."""
        try:
            session = await super().connect(conninfo, **options)
            await session._begin(rules)  # noqa: SLF001 - our own
        except psycopg.Error as error:
            raise rules.failed(error) from error
        rules.connected()
        return session

    def together(self) -> AbstractAsyncContextManager[object]:
        """Send the statements of the block in one go, where there is no pooler."""
        return nullcontext() if self.pooled else self.pipeline()

    async def begin(self) -> None:
        """Apply the settings to the transaction that begins, if the session does not have them."""
        if self.pooled:
            await self._apply(local=True)

    async def _begin(self, rules: SessionRules) -> None:
        self._rules = rules
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                row = await (await self.execute(_PROCESS)).fetchone()
                self.pooled = row is None or row[0] != self.info.backend_pid
                if self.pooled:
                    self.prepare_threshold = None
                else:
                    await self._apply(local=False)
                if not self.autocommit:
                    await self.commit()
        except TimeoutError:
            await self.close()
            raise psycopg.OperationalError(
                f"connected, but no answer in {CONNECT_SECONDS} s: the server is frozen, or all "
                "sessions of a pooler in between are taken"
            ) from None
        except BaseException:
            await self.close()
            raise

    async def _apply(self, *, local: bool) -> None:
        milliseconds = str(int(self._rules.timeout * 1000))
        await self.execute(
            _SETTINGS, {"schema": self._rules.schema, "timeout": milliseconds, "local": local}
        )


def dsn_of(text: str, key: str, patience: float) -> str:
    """Return the connection string ``text`` with what every connection needs.

    ``key`` is the setting's name; ``patience``: seconds after which unacknowledged data end a
    connection.  Of several hosts the first that can be written to is taken, unless ``text`` or the
    environment says otherwise.  Raises ``Fatal`` if it is not a connection string.
    """
    try:
        given = conninfo_to_dict(text)
        attributes = {} if "PGTARGETSESSIONATTRS" in os.environ else _WRITABLE
        return make_conninfo(
            text,
            connect_timeout=CONNECT_SECONDS,
            keepalives_idle=15,
            keepalives_interval=5,
            keepalives_count=3,
            tcp_user_timeout=int(patience * 1000),
            **{name: value for name, value in attributes.items() if name not in given},
        )
    except psycopg.ProgrammingError:
        # libpq quotes the string in its message, and with it the password.
        raise Fatal(
            f"{key} is not a connection string: write postgresql://user:password@host/database"
        ) from None


_WRITABLE = {"target_session_attrs": "read-write"}


def address_of(dsn: str) -> str:
    """Return host, port and database of a connection string, for people."""
    given = conninfo_to_dict(dsn)
    hosts = str(given.get("host", "localhost"))
    return f"{hosts}:{given.get('port', 5432)}/{given.get('dbname', '')}"
