"""Numbering, fencing and handing over, with the store played by the test."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any
from unittest.mock import MagicMock
from uuid import uuid4

import pytest

from consumer.dead_letters import DeadLetter, InputRecord, InputTopic
from consumer.errors import Reason
from consumer.kafka.topics import Topic
from consumer.lanes.errors import LaneLost
from consumer.lanes.transaction import LaneTransaction, LaneTransactions
from consumer.store import lanes, outbox
from consumer.store.rows import Lane, OutRow

ROW = Lane(2, uuid4(), firehose_offset=7, last_out_seq=10)


@dataclass
class Store:
    """A store that has ``row``, and fails where it is told to."""

    row: Lane = ROW
    fails: str = ""
    calls: list[str] = field(default_factory=list)
    appended: list[OutRow] = field(default_factory=list)
    handed: list[OutRow] = field(default_factory=list)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[MagicMock]:
        self.calls.append("begin")
        yield MagicMock(together=nullcontext)
        self.calls.append("commit")

    async def guard(self, _connection: object, seen: Sequence[Lane]) -> set[int]:
        self.calls.append("guard")
        return set() if self.fails == "guard" or seen != [self.row] else {self.row.lane}

    async def append(self, _connection: object, batches: Mapping[int, Sequence[OutRow]]) -> None:
        self.calls.append("append")
        assert list(batches) == [self.row.lane]
        self.appended.extend(batches[self.row.lane])

    async def advance(
        self, _connection: object, seen: Sequence[Lane], new: Sequence[Lane]
    ) -> set[int]:
        self.calls.append("advance")
        if self.fails == "advance" or seen != [self.row]:
            return set()
        (self.row,) = new
        return {self.row.lane}

    async def take(self, rows: Sequence[OutRow]) -> None:
        self.calls.append("hand over")
        self.handed.extend(rows)


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Store:
    store = Store()
    monkeypatch.setattr(lanes, "guard", store.guard)
    monkeypatch.setattr(lanes, "advance", store.advance)
    monkeypatch.setattr(outbox, "append", store.append)
    return store


@pytest.fixture
def lane(store: Store) -> LaneTransactions:
    database: Any = store
    return LaneTransactions(database, ROW, "chive.", store.take)


def fill(transaction: LaneTransaction) -> None:
    transaction.add(Topic.EVENTS, 2, b"key", b"value")
    transaction.add(Topic.EVENTS, 2, b"key", None)


async def test_rows_are_numbered_on_from_the_last_transaction(
    lane: LaneTransactions, store: Store
) -> None:
    for _ in range(2):
        async with lane.begin() as transaction:
            fill(transaction)
            transaction.move_to(replace(lane.row, firehose_offset=9))
        await lane.hand_over(transaction)
    assert [row.out_seq for row in store.appended] == [11, 12, 13, 14]
    assert store.handed == store.appended
    assert lane.row == store.row == replace(ROW, firehose_offset=9, last_out_seq=14)
    once = ["begin", "guard", "append", "advance", "commit", "hand over"]
    assert store.calls == [*once, *once]


async def test_a_transaction_without_rows_moves_the_lane_alone(
    lane: LaneTransactions, store: Store
) -> None:
    async with lane.begin() as transaction:
        transaction.move_to(replace(ROW, control_offset=3, last_out_seq=99))
    await lane.hand_over(transaction)
    assert lane.row == replace(ROW, control_offset=3)
    assert store.calls == ["begin", "guard", "advance", "commit"]


async def test_a_dead_letter_lies_beside_the_input_that_it_holds(
    lane: LaneTransactions, store: Store
) -> None:
    source = InputRecord(InputTopic.BACKFILL, 5, 8)
    async with lane.begin() as transaction:
        transaction.add_dead_letter(
            DeadLetter(reason=Reason.STALLED, detail="", source=source, key=None, value=b"x")
        )
    [row] = store.appended
    assert (row.topic, row.partition, row.value) == (Topic.DEAD_LETTER, 5, b"x")
    assert dict(row.headers)["source"] == b"chive.backfill/5/8"


async def test_without_the_lane_nothing_is_decided(lane: LaneTransactions, store: Store) -> None:
    store.fails = "guard"
    with pytest.raises(LaneLost):
        async with lane.begin():
            pytest.fail("another owner has the lane")
    assert store.calls == ["begin", "guard"]


@pytest.mark.parametrize("fails", ["advance", "block"])
async def test_after_a_failure_the_row_is_as_before(
    lane: LaneTransactions, store: Store, fails: str
) -> None:
    async def failing() -> None:
        async with lane.begin() as transaction:
            fill(transaction)
            if fails == "block":
                raise ZeroDivisionError

    store.fails = fails
    with pytest.raises(LaneLost if fails == "advance" else ZeroDivisionError):
        await failing()
    assert "commit" not in store.calls
    assert lane.row == store.row == ROW
    assert store.handed == []


async def test_leaving_the_block_early_commits(lane: LaneTransactions, store: Store) -> None:
    async def early() -> None:
        async with lane.begin() as transaction:
            fill(transaction)
            return

    await early()
    assert store.calls[-1] == "commit"
    assert lane.row.last_out_seq == 12
