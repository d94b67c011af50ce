"""What is shown of the relay for people: never older than the next try."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from consumer.errors import Transient
from consumer.tail import mirror as module
from consumer.tail.cursor import Cursor, Position
from consumer.tail.mirror import Mirror, RelayState
from tests.support.eventually import eventually

RELAY = "wss://relay.example"


class Table:
    """A database that may be away; ``tries`` counts what it was asked to keep."""

    def __init__(self) -> None:
        self.away = False
        self.tries = 0
        self.cursor: Cursor | None = None

    async def mirror(self, relay: str, cursor: Cursor) -> None:
        assert relay == RELAY
        self.tries += 1
        if self.away:
            raise Transient("the connection was dropped")
        self.cursor = cursor

    async def report(self, _relay: str, _state: RelayState) -> None:
        if self.away:
            raise Transient("the connection was dropped")


@asynccontextmanager
async def running(table: Table) -> AsyncIterator[Mirror]:
    mirror = Mirror(table.mirror, table.report)
    mirror.follow(RELAY)
    mirror.connected()
    task = asyncio.create_task(mirror.run())
    try:
        yield mirror
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def cursor(seq: int) -> Cursor:
    return Cursor(seq, None, 1, (), 0.0)


async def test_a_quiet_relay_is_shown_to_be_quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_WRITE_EVERY", 0.01)
    table = Table()
    position = Position(1, 0, start=None, now=0.0)
    position.seq = 7
    async with running(table) as mirror:
        mirror.committed(cursor(7))
        position.caught_up(12.0)
        mirror.caught_up(position)
        await eventually(lambda: _shown(table, 7, 12.0), what="the cursor is shown, and when")
        position.seq = 8  # it is not durable yet
        position.caught_up(40.0)
        mirror.caught_up(position)
        mirror.committed(cursor(8))
        await eventually(lambda: _shown(table, 8, 0.0), what="the next one is shown")


async def _shown(table: Table, seq: int, as_of: float) -> bool:
    return table.cursor is not None and (table.cursor.seq, table.cursor.as_of) == (seq, as_of)


async def test_a_cursor_that_could_not_be_written_is_tried_again_without_a_frame(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "_WRITE_EVERY", 0.01)
    table = Table()
    async with running(table) as mirror:
        mirror.committed(cursor(1))
        await eventually(lambda: table.cursor == cursor(1), what="the first cursor")
        table.away = True
        mirror.committed(cursor(2))
        tries = table.tries
        await eventually(lambda: table.tries > tries + 3, what="it is tried again")
        assert table.cursor == cursor(1)
        table.away = False
        await eventually(lambda: table.cursor == cursor(2), what="the cursor, and no frame since")
