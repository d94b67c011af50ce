"""The loop under lookups and operations: lease what is due, handle it, give the rest back.

What is due stands in Postgres.  The loop looks there when a NOTIFY arrives, when the next item
becomes due, when an item ends that may make room for another, and every ``poll`` seconds in any
case.  Reasons that come within ``_GATHER`` seconds of a look share the next one.  Each leased item
is handled by a task.  A fetcher that dies keeps its leases until they expire; one that stops gives
back what it has not finished after ``drain`` seconds.

An error of an item's task ends the loop: Kafka or Postgres is away, or the code is wrong.
Times are in seconds.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Collection, Hashable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from consumer.errors import Transient
from consumer.runtime.tasks import cancel, until
from consumer.store.database import Database, Listener

_SHORTEST_LOOK = 0.05
_GATHER = 0.02  # what ends within it is looked after together
_HEARTBEAT_SECONDS = 1.0  # a cancelled operation is noticed after this time

L = TypeVar("L", bound=Hashable)


@dataclass(frozen=True, slots=True)
class LeaseRules:
    """How one kind of work is leased.

    ``channel`` of NOTIFY; seconds of ``poll`` and ``drain``; ``return_failed``: what was not
    finished is given back even if the loop ends by an error, else its leases expire.
    """

    channel: str
    poll: float
    drain: float
    return_failed: bool


@dataclass(frozen=True, slots=True)
class NextLook:
    """When it is worth looking at Postgres again.

    ``due``: seconds until the next item is due, None if that is not known; ``after_each``: an
    item that ends may make room for one that is due already.
    """

    due: float | None
    after_each: bool


class LeaseSource(Protocol[L]):
    """What differs between lookups and operations."""

    async def lease(self, running: Collection[L], start: Callable[[L], None]) -> NextLook:
        """Lease what fits beside ``running``, and ``start`` each; ``running`` grows with it."""

    async def handle(self, item: L) -> bool:
        """Do the work of a leased item; tell whether something may be due by now.

        Raises ``Transient`` when Kafka or Postgres is away.
        """

    async def give_back(self, items: Sequence[L]) -> None:
        """Make ``items`` due again: their handling was cancelled."""

    async def write_ended(self) -> None:
        """Write what is left to write of items that have ended."""


Extend = Callable[[Sequence[L]], Awaitable[Collection[L]]]
"""Extends the leases of these items; returns the items whose lease still holds."""


class LeasingLoop(Generic[L]):
    """Leases from ``source``; for one run.

    With ``extend``, leases are extended once a second, and the handling of an item whose lease
    is lost is cancelled.
    """

    def __init__(
        self,
        database: Database,
        source: LeaseSource[L],
        rules: LeaseRules,
        extend: Extend[L] | None = None,
    ) -> None:
        self._database = database
        self._source = source
        self._rules = rules
        self._extend = extend
        self._running: dict[asyncio.Task[bool], L] = {}
        self._wake_up = asyncio.Event()
        self._look_after_each = False
        self._looked_at = -math.inf
        self._timer: asyncio.TimerHandle | None = None
        self._failure: BaseException | None = None

    async def run(self, stop: asyncio.Event) -> None:
        """Lease and handle until told to stop.

        Raises ``Transient`` when Kafka or Postgres is away, and whatever else the handling of
        an item raised.
        """
        async with self._database.listening(self._rules.channel) as listener:
            helpers = [asyncio.create_task(self._listen(listener))]
            if self._extend is not None:
                helpers.append(asyncio.create_task(self._heartbeat(self._extend)))
            try:
                while not stop.is_set():
                    seconds = await self._look()
                    await until(self._wake_up, stop, seconds, helpers)
                    if self._failure is not None:
                        raise self._failure
            finally:
                await self._close(helpers)

    async def _listen(self, listener: Listener) -> None:
        while True:
            if await listener.wait(self._rules.poll):
                self._look_soon()

    async def _heartbeat(self, extend: Extend[L]) -> None:
        while True:
            await asyncio.sleep(_HEARTBEAT_SECONDS)
            items = list(self._running.values())
            if not items:
                continue
            lost = set(items) - set(await extend(items))
            for task, item in list(self._running.items()):
                if item in lost:
                    task.cancel()

    async def _look(self) -> float:
        """Lease what fits and start it; return the seconds until the next look."""
        self._wake_up.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._looked_at = asyncio.get_running_loop().time()
        found = await self._source.lease(self._running.values(), self._start)
        self._look_after_each = found.after_each
        poll = self._rules.poll
        return poll if found.due is None else min(max(found.due, _SHORTEST_LOOK), poll)

    def _look_soon(self) -> None:
        """Look again, at once if the last look is ``_GATHER`` ago."""
        loop = asyncio.get_running_loop()
        wait = self._looked_at + _GATHER - loop.time()
        if wait <= 0:
            self._wake_up.set()
        elif self._timer is None:
            self._timer = loop.call_later(wait, self._wake_up.set)

    def _start(self, item: L) -> None:
        task = asyncio.create_task(self._handle(item))
        self._running[task] = item
        task.add_done_callback(self._ended)

    async def _handle(self, item: L) -> bool:
        return await self._source.handle(item)

    def _ended(self, task: asyncio.Task[bool]) -> None:
        del self._running[task]
        if not task.cancelled() and (error := task.exception()) is not None:
            self._failure = self._failure or error
            self._wake_up.set()
        elif self._look_after_each or (not task.cancelled() and task.result()):
            self._look_soon()

    async def _close(self, helpers: Sequence[asyncio.Task[None]]) -> None:
        """Let items end within the drain time; give the others back."""
        if self._running:
            await asyncio.wait(self._running, timeout=self._rules.drain)
        unfinished = dict(self._running)
        await cancel([*unfinished, *helpers])
        if unfinished and (self._failure is None or self._rules.return_failed):
            with suppress(Transient):  # else the leases expire
                await self._source.give_back(list(unfinished.values()))
        with suppress(Transient):
            await self._source.write_ended()
