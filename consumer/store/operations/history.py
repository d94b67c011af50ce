"""Operations as people and the gateway see them: coalesced ones as their primary."""

from __future__ import annotations

import asyncio
import base64
import math
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress

import orjson
from psycopg.rows import dict_row

from consumer.errors import Transient
from consumer.runtime.tasks import Stopped, unless_stopped
from consumer.store.arrays import Texts
from consumer.store.database import Connection, Database
from consumer.store.operations import read
from consumer.store.operations.rows import COLUMNS, of_row
from procedures.client import CursorInvalid, Page, Query, Unavailable
from procedures.messages import is_operation_id
from procedures.operations import Operation, Status, answered_through

_CHANNEL = "operations"
_LOOK_SECONDS = 2.0  # between two looks at Postgres when no notification came
_HEARD_SECONDS = 60.0


class Changes:
    """Tells those who wait that an operation has changed: one session for all of them."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._waiting: defaultdict[str, set[asyncio.Event]] = defaultdict(set)

    async def run(self, stop: asyncio.Event) -> None:
        """Listen until told to stop.  Raises ``Transient``; those who wait look by themselves."""
        async with self._database.listening(_CHANNEL) as listener:
            with suppress(Stopped):
                while not stop.is_set():
                    for identifier in await unless_stopped(stop, listener.heard(_HEARD_SECONDS)):
                        for event in self._waiting.get(identifier, ()):
                            event.set()

    @contextmanager
    def told(self, identifier: str) -> Iterator[asyncio.Event]:
        """Give an event that is set whenever ``identifier`` changes during the block."""
        event = asyncio.Event()
        self._waiting[identifier].add(event)
        try:
            yield event
        finally:
            self._waiting[identifier].discard(event)
            if not self._waiting[identifier]:
                del self._waiting[identifier]


class History:
    """The operations of one deployment; all methods raise ``Unavailable``."""

    def __init__(self, database: Database, changes: Changes) -> None:
        self._database = database
        self._changes = changes

    async def get(self, identifier: str) -> Operation | None:
        """Return one operation, None if there is none (yet)."""
        async with self._reading() as connection:
            found = await read.read_all(connection, [identifier])
            seen = await _seen(connection, list(found.values()))
        return seen[0] if seen else None

    async def page(self, query: Query) -> Page:
        """Return a page of operations, newest first; raise ``CursorInvalid``."""
        async with self._reading() as connection:
            rows = await _page(connection, query, query.limit + 1)
            shown = await _seen(connection, rows[: query.limit])
        more = len(rows) > query.limit
        return Page(tuple(shown), _cursor(rows[query.limit - 1]) if more else None)

    async def changed(self, identifier: str, version: int) -> Operation:
        """Return the operation as soon as its version is above ``version``."""
        with self._changes.told(identifier) as event:
            while True:
                event.clear()
                operation = await self.get(identifier)
                if operation is not None and operation.version > version:
                    return operation
                with suppress(TimeoutError):
                    async with asyncio.timeout(_LOOK_SECONDS):
                        await event.wait()

    @asynccontextmanager
    async def _reading(self) -> AsyncIterator[Connection]:
        try:
            async with self._database.transaction() as connection:
                yield connection
        except Transient as error:
            raise Unavailable(str(error)) from error


async def newest(connection: Connection, did: str, limit: int) -> list[Operation]:
    """Return the newest operations of ``did``, in the transaction of ``connection``."""
    rows = await _page(connection, Query(frozenset(Status), did), limit)
    return await _seen(connection, rows)


async def _page(connection: Connection, query: Query, limit: int) -> list[Operation]:
    """Return the rows of ``query``, up to ``limit``.  Raises ``CursorInvalid``."""
    after, after_id = _parsed(query.cursor)
    parameters = {
        "statuses": Texts([status.value for status in sorted(query.statuses)]),
        "did": query.did,
        "parent": query.parent,
        "after": after,
        "after_id": after_id,
        "limit": limit,
    }
    async with connection.cursor(binary=True, row_factory=dict_row) as cursor:
        await cursor.execute(_statement(query), parameters)
        return [of_row(row) for row in await cursor.fetchall()]


def _statement(query: Query) -> str:
    """Return the SELECT for ``query``, with no condition that it does not need."""
    conditions = ["status = ANY(%(statuses)s)"]
    if query.did is not None:
        conditions.append("did = %(did)s")
    if query.parent is not None:
        conditions.append("parent = %(parent)s")
    elif query.did is None:
        conditions.append("parent IS NULL")
    if not query.automatic:
        conditions.append("NOT automatic")
    if query.cursor is not None:
        conditions.append(
            "(extract(epoch FROM requested_at)::float8, id) < (%(after)s::float8, %(after_id)s)"
        )
    return (
        f"SELECT {COLUMNS} FROM operations WHERE {' AND '.join(conditions)} "  # noqa: S608 - ours
        "ORDER BY requested_at DESC, id DESC LIMIT %(limit)s"
    )


async def _seen(connection: Connection, operations: list[Operation]) -> list[Operation]:
    ids = [one.same_as for one in operations if one.same_as and not one.ended]
    primaries = await read.read_all(connection, ids) if ids else {}
    return [
        one
        if (primary := primaries.get(one.same_as or "")) is None
        else answered_through(one, primary)
        for one in operations
    ]


def _cursor(operation: Operation) -> str:
    return base64.urlsafe_b64encode(orjson.dumps([operation.requested_at, operation.id])).decode()


def _parsed(cursor: str | None) -> tuple[float | None, str | None]:
    if cursor is None:
        return None, None
    try:
        after, identifier = orjson.loads(base64.urlsafe_b64decode(cursor))
        if math.isfinite(after) and is_operation_id(identifier):
            return float(after), identifier
    except (ValueError, TypeError) as error:
        raise CursorInvalid(cursor) from error
    raise CursorInvalid(cursor)
