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
import math
import time
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Self

import psycopg
from psycopg.abc import PQGenConn

from consumer.errors import ChiveError, Fatal
from consumer.store.connecting import connecting
from consumer.store.target import CONNECT_SECONDS, Target

_REFUSED_SECONDS = 60.0
_MIN_SERVER = 170000  # as the server reports its version
_AUTHORIZATION = "28"
# Why a server refuses connections that it goes on refusing: SQLSTATE or its class, what to do.
_REFUSALS = {
    _AUTHORIZATION: "correct the user, the password or the client certificate",
    "3D000": "create the database or correct its name",
    "42501": "grant CONNECT on the database",
}

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
    empty once one has succeeded.  ``refused_since``: when the server began to refuse us by name.
    """

    schema: str
    timeout: float
    failure: str = ""
    refused_since: float | None = None

    def connected(self) -> None:
        """Note that an attempt to connect has succeeded."""
        self.failure, self.refused_since = "", None

    def failed(self, error: psycopg.Error, identity: str) -> psycopg.Error:
        """Note why an attempt failed, and return the error to raise.

        ``identity`` names the settings that say who we are.  The server's own refusal is returned
        when it has lasted for a minute: a password may be about to change.  Before, it is an
        ``OperationalError`` with the same text.
        """
        self.failure = " ".join(str(error).split()) or type(error).__name__
        state = error.sqlstate or ""
        advice = _REFUSALS.get(state) or _REFUSALS.get(state[:2])
        if advice is None:
            self.refused_since = None
            return error
        now = time.monotonic()
        self.refused_since = now if self.refused_since is None else self.refused_since
        self.failure = f"{self.failure}: {advice} ({identity}; docs/secrets.md)"
        return (type(error) if self.refused else psycopg.OperationalError)(self.failure)

    @property
    def refused(self) -> bool:
        """Tell whether the server has refused us for a minute."""
        since = self.refused_since
        return since is not None and time.monotonic() - since >= _REFUSED_SECONDS


class Session(psycopg.AsyncConnection[tuple[Any, ...]]):
    """A connection that knows whether a pooler is in between."""

    pooled = False
    used = -math.inf  # when the last transaction ended, in monotonic seconds
    _rules: SessionRules

    @classmethod
    async def connect(  # type: ignore[override]  # the pool passes on what it was given
        cls,
        conninfo: str = "",  # noqa: ARG003 - the pool's; ours comes from the target
        *,
        rules: SessionRules,
        target: Target,
        **options: Any,
    ) -> Self:
        """Connect to ``target``, and apply what ``rules`` say.

        Raises psycopg's errors, ``Fatal`` if the server is too old, and ``Transient`` or ``Fatal``
        as ``Target.conninfo`` does.
        """
        try:
            session = await super().connect(await target.conninfo(), **options)
            await session._begin(rules)  # noqa: SLF001 - our own
        except psycopg.Error as error:
            if (error.sqlstate or "").startswith(_AUTHORIZATION):
                target.refused()
            raise rules.failed(error, target.identity) from error
        except ChiveError as error:
            rules.failure = str(error)
            raise
        rules.connected()
        return session

    @classmethod
    def _connect_gen(cls, conninfo: str = "") -> PQGenConn[Self]:
        return cls((yield from connecting(conninfo)))

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
            _require_version(self.info.server_version)  # an older one does not know our settings
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


def _require_version(version: int) -> None:
    if version < _MIN_SERVER:
        raise Fatal(
            f"PostgreSQL is version {version // 10000}, version 17 or newer is needed: "
            "update the server"
        )
