"""The leasing loop, with a scripted source instead of Postgres."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import cast

import pytest

from consumer.errors import Transient
from consumer.fetch import leasing
from consumer.fetch.leasing import LeaseRules, LeasingLoop, NextLook
from consumer.store.database import Database
from tests.support.eventually import eventually

SLOTS = 2
RULES = LeaseRules("channel", poll=60.0, drain=0.05, return_failed=False)


@dataclass
class Source:
    """Items are names; each is handled until ``finish`` is called with it."""

    due: list[str] = field(default_factory=list)
    next_due: float | None = None
    after_each: bool = True
    looks: int = 0
    handling: dict[str, asyncio.Future[bool]] = field(default_factory=dict)
    given_back: list[str] = field(default_factory=list)
    cancelled: list[str] = field(default_factory=list)
    held: set[str] = field(default_factory=set)
    ends_written: int = 0

    async def lease(self, running: Collection[str], start: Callable[[str], None]) -> NextLook:
        self.looks += 1
        while self.due and len(running) < SLOTS:
            self.handling[self.due[0]] = asyncio.get_running_loop().create_future()
            start(self.due.pop(0))
        return NextLook(self.next_due, self.after_each)

    async def handle(self, item: str) -> bool:
        try:
            return await self.handling[item]
        except asyncio.CancelledError:
            self.cancelled.append(item)
            raise

    async def give_back(self, items: Sequence[str]) -> None:
        self.given_back += items

    async def write_ended(self) -> None:
        self.ends_written += 1

    async def extend(self, items: Sequence[str]) -> Collection[str]:
        return self.held & set(items)

    def finish(self, item: str, *, look: bool = False) -> None:
        self.handling[item].set_result(look)


class Notifier:
    """Stands for the listening connection of Postgres."""

    def __init__(self) -> None:
        self.notified = asyncio.Event()
        self.error: Exception | None = None

    @asynccontextmanager
    async def listening(self, channel: str) -> AsyncIterator[Notifier]:
        assert channel == RULES.channel
        yield self

    async def wait(self, seconds: float) -> bool:
        assert seconds == RULES.poll
        await self.notified.wait()
        self.notified.clear()
        if self.error is not None:
            raise self.error
        return True


@dataclass
class Run:
    source: Source
    notifier: Notifier
    stop: asyncio.Event
    task: asyncio.Task[None]

    async def end(self) -> None:
        self.stop.set()
        await asyncio.wait_for(self.task, 10)

    async def looked(self, times: int) -> None:
        await eventually(lambda: self.source.looks == times, what=f"{times} looks")


@asynccontextmanager
async def running(
    source: Source, rules: LeaseRules = RULES, *, heartbeat: bool = False
) -> AsyncIterator[Run]:
    notifier, stop = Notifier(), asyncio.Event()
    extend = source.extend if heartbeat else None
    loop = LeasingLoop(cast("Database", notifier), source, rules, extend)
    task = asyncio.create_task(loop.run(stop))
    try:
        yield Run(source, notifier, stop, task)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_slot_that_gets_free_is_taken_at_once() -> None:
    source = Source(["a", "b", "c"])
    async with running(source) as run:
        await run.looked(1)
        assert list(source.handling) == ["a", "b"]
        source.finish("a")
        await eventually(lambda: "c" in source.handling, what="the third item")
        source.finish("b")
        source.finish("c")
        await run.end()
    assert source.given_back == []


async def test_reasons_to_look_that_come_together_share_a_look(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(leasing, "_GATHER", 0.3)
    source = Source(["a", "b"])
    async with running(source) as run:
        await run.looked(1)
        source.finish("a")
        await asyncio.sleep(0.01)
        source.finish("b")
        run.notifier.notified.set()
        await run.looked(2)
        await run.end()
    assert source.looks == 2


async def test_a_notification_wakes_the_loop() -> None:
    source = Source()
    async with running(source) as run:
        await run.looked(1)
        source.due.append("a")
        run.notifier.notified.set()
        await eventually(lambda: "a" in source.handling, what="the item")


async def test_what_becomes_due_is_waited_for() -> None:
    source = Source(next_due=0.0)
    async with running(source) as run:
        await eventually(lambda: source.looks >= 3, what="several looks")
        await run.end()


async def test_an_end_that_makes_no_room_wakes_the_loop_only_if_it_says_so() -> None:
    source = Source(["a", "b"], after_each=False)
    async with running(source) as run:
        await run.looked(1)
        source.finish("a")
        await asyncio.sleep(0.05)
        assert source.looks == 1
        source.finish("b", look=True)
        await run.looked(2)


async def test_a_stop_drains_and_gives_back_the_rest() -> None:
    source = Source(["a", "b"])
    async with running(source, LeaseRules("channel", 60.0, 0.5, return_failed=False)) as run:
        await run.looked(1)
        run.stop.set()
        await asyncio.sleep(0)
        source.finish("a")
        await run.end()
    assert (source.cancelled, source.given_back) == (["b"], ["b"])
    assert source.ends_written == 1


@pytest.mark.parametrize("return_failed", [False, True])
async def test_a_failure_ends_the_loop(return_failed: bool) -> None:
    source = Source(["a", "b"], after_each=False)
    rules = LeaseRules("channel", 60.0, 0.05, return_failed=return_failed)
    async with running(source, rules) as run:
        await run.looked(1)
        source.handling["a"].set_exception(Transient("Kafka is away"))
        with pytest.raises(Transient, match="Kafka"):
            await asyncio.wait_for(run.task, 10)
    assert source.cancelled == ["b"]
    assert source.given_back == (["b"] if return_failed else [])


async def test_a_lost_connection_ends_the_loop() -> None:
    source = Source(["a"])
    async with running(source) as run:
        await run.looked(1)
        run.notifier.error = Transient("Postgres is away")
        run.notifier.notified.set()
        with pytest.raises(Transient, match="Postgres"):
            await asyncio.wait_for(run.task, 10)
    assert source.given_back == ["a"]


async def test_an_item_whose_lease_is_lost_is_cancelled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leasing, "_HEARTBEAT_SECONDS", 0.01)
    source = Source(["a", "b", "c"], held={"b", "c"})
    async with running(source, heartbeat=True) as run:
        await eventually(lambda: "c" in source.handling, what="the slot is taken again")
        assert source.cancelled == ["a"]
        assert not run.task.done()
