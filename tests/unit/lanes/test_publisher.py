"""Which missing rows the publisher takes for a hole in the outbox."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any
from unittest.mock import MagicMock
from uuid import uuid4

import pytest

from consumer.errors import Fatal
from consumer.kafka.topics import Topics
from consumer.lanes.outgoing import Outgoing
from consumer.lanes.publisher import Pace, Publisher, _Progress, _Session
from consumer.store import deployment, lanes, outbox
from consumer.store.rows import Lane, OutRow

Read = Callable[[], Awaitable[list[OutRow]]]


def row(out_seq: int) -> OutRow:
    return OutRow(out_seq, "events", 0, b"key", (), b"value")


class _Database:
    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[None]:
        yield None


@pytest.fixture
async def outgoing(monkeypatch: pytest.MonkeyPatch) -> Outgoing:
    lane = Lane(0, uuid4())

    async def owned(_connection: object, _number: int) -> Lane:
        return lane

    async def halt(_connection: object, _reason: str) -> None:
        return None

    monkeypatch.setattr(lanes, "read", owned)
    monkeypatch.setattr(deployment, "halt", halt)
    return Outgoing(lane, 1_000_000, asyncio.Event(), undecided=False)


@pytest.fixture
def session(outgoing: Outgoing) -> _Session:
    session = _Session(MagicMock(), MagicMock())
    session.lanes[outgoing] = _Progress(position=4, trimmed=4)
    return session


@pytest.fixture
def publisher() -> Publisher:
    database: Any = _Database()
    return Publisher(MagicMock(), Topics("test.", 1), database)


def reading(monkeypatch: pytest.MonkeyPatch, read: Read) -> None:
    async def fake(*_: object, **__: object) -> list[OutRow]:
        return await read()

    monkeypatch.setattr(outbox, "read", fake)


async def test_rows_handed_over_during_a_read_are_no_hole(
    publisher: Publisher, session: _Session, outgoing: Outgoing, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def read() -> list[OutRow]:
        await outgoing.hand_over([row(5)])
        return []

    async def newest(*_: object) -> dict[int, int]:
        return {}

    reading(monkeypatch, read)
    monkeypatch.setattr(outbox, "newest", newest)
    assert await publisher._next(session) == {}
    assert await publisher._next(session) == {outgoing: [row(5)]}


async def test_rows_that_postgres_lacks_below_those_in_memory_are_a_hole(
    publisher: Publisher, session: _Session, outgoing: Outgoing, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def read() -> list[OutRow]:
        return []

    reading(monkeypatch, read)
    await outgoing.hand_over([row(6)])
    with pytest.raises(Fatal, match="Kafka was restored from an older state"):
        await publisher._next(session)


async def test_one_transaction_has_rows_of_every_lane_within_its_bounds(
    outgoing: Outgoing,
) -> None:
    database: Any = _Database()
    pace = Pace(transaction_rows=3, look_every=1e9)
    publisher = Publisher(MagicMock(), Topics("test.", 2), database, pace)
    other = Outgoing(Lane(1, uuid4()), 1_000_000, asyncio.Event(), undecided=False)
    session = _Session(MagicMock(), MagicMock(), looked=math.inf)
    for each in (outgoing, other):
        session.lanes[each] = _Progress(4, 4, behind=False)
        await each.hand_over([row(5), row(6)])
    first = await publisher._next(session)
    assert sorted(len(rows) for rows in first.values()) == [1, 2]
    for each, rows in first.items():
        session.lanes[each].position = rows[-1].out_seq
    second = await publisher._next(session)
    assert second == {each: [row(6)] for each, rows in first.items() if len(rows) == 1}
