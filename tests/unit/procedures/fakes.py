"""A broker and a table of operations in memory, for the gateway and the client."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from procedures.client import CursorInvalid, Page, Query
from procedures.messages import Command
from procedures.operations import Operation


class Broker:
    """A command sink: keeps what is sent, fails, or hangs."""

    def __init__(self) -> None:
        self.sent: list[Command] = []
        self.error: Exception | None = None
        self.hangs = False
        self.on_send: Callable[[Command], None] = lambda _command: None

    async def send(self, command: Command) -> None:
        if self.error is not None:
            raise self.error
        if self.hangs:
            await asyncio.Event().wait()
        self.sent.append(command)
        self.on_send(command)


class Table:
    """The operations; ``put`` wakes those that wait for a change."""

    def __init__(self) -> None:
        self.rows: dict[str, Operation] = {}
        self.error: Exception | None = None
        self.queries: list[Query] = []
        self.awaited = asyncio.Event()
        self._changed = asyncio.Event()

    def put(self, operation: Operation) -> None:
        self.rows[operation.id] = operation
        self._changed.set()
        self._changed = asyncio.Event()

    async def get(self, identifier: str) -> Operation | None:
        if self.error is not None:
            raise self.error
        return self.rows.get(identifier)

    async def page(self, query: Query) -> Page:
        if self.error is not None:
            raise self.error
        if query.cursor == "wrong":
            raise CursorInvalid
        self.queries.append(query)
        found = [o for o in reversed(self.rows.values()) if o.status in query.statuses]
        found = [o for o in found if query.automatic or not o.automatic]
        more = str(query.limit) if len(found) > query.limit else None
        return Page(tuple(found[: query.limit]), more)

    async def changed(self, identifier: str, version: int) -> Operation:
        while True:
            if self.error is not None:
                raise self.error
            operation = self.rows.get(identifier)
            if operation is not None and operation.version > version:
                return operation
            self.awaited.set()
            await self._changed.wait()
