"""Which missing rows the publisher takes for a hole in the outbox."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any
from unittest.mock import MagicMock
from uuid import uuid4

import pytest

from consumer.errors import Fatal
from consumer.kafka.topics import Topics
from consumer.lanes.publisher import Publisher, _Progress
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
def lane() -> Lane:
    return Lane(0, uuid4())


@pytest.fixture
def progress() -> _Progress:
    return _Progress(MagicMock(), MagicMock(), position=4, trimmed=4)


@pytest.fixture
def publisher(lane: Lane, monkeypatch: pytest.MonkeyPatch) -> Publisher:
    async def owned(_connection: object, _number: int) -> Lane:
        return lane

    async def halt(_connection: object, _reason: str) -> None:
        return None

    monkeypatch.setattr(lanes, "read", owned)
    monkeypatch.setattr(deployment, "halt", halt)
    database: Any = _Database()
    return Publisher(lane, MagicMock(), Topics("test.", 1), database)


def reading(monkeypatch: pytest.MonkeyPatch, read: Read) -> None:
    async def fake(*_: object, **__: object) -> list[OutRow]:
        return await read()

    monkeypatch.setattr(outbox, "read", fake)


async def test_rows_handed_over_during_a_read_are_no_hole(
    publisher: Publisher, progress: _Progress, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def read() -> list[OutRow]:
        await publisher.hand_over([row(5)])
        return []

    reading(monkeypatch, read)
    assert await publisher._next(progress) == []
    assert await publisher._next(progress) == [row(5)]


async def test_rows_that_postgres_lacks_below_those_in_memory_are_a_hole(
    publisher: Publisher, progress: _Progress, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def read() -> list[OutRow]:
        return []

    reading(monkeypatch, read)
    await publisher.hand_over([row(6)])
    with pytest.raises(Fatal, match="Kafka was restored from an older state"):
        await publisher._next(progress)
