"""Owning a lane: claim, work and publish, resume after trouble, release.

Kafka's group says which lanes are ours to claim; that alone gives no right to write.  The claim
is a compare-and-set of the lane's token, and each later transaction repeats it.

``Transient`` ends a session: what was remembered is dropped, and another session begins from
what Postgres holds.  ``LaneLost`` ends the ownership: as long as Kafka's group says that the
lane is ours, it is claimed again, with another token.  ``Fatal`` is for the process to die of.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Protocol
from uuid import UUID, uuid4

import structlog

from consumer import metrics
from consumer.errors import Transient
from consumer.kafka.client import Client
from consumer.kafka.topics import Topics
from consumer.lanes.errors import LaneLost
from consumer.lanes.publisher import Publisher
from consumer.runtime.lifecycle import Backoff
from consumer.runtime.logs import Outage
from consumer.runtime.tasks import wait_for_stop
from consumer.store import lanes
from consumer.store.database import Database
from consumer.store.rows import RELEASED, Lane

_DRAIN_SECONDS = 4.0  # for the round under way, and then for the publisher, when told to stop
_HEALTHY_SECONDS = 30.0

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class ClaimedLane:
    """A lane that is ours; ``unclean_takeover``: its last owner did not release it, so it died."""

    lane: Lane
    unclean_takeover: bool


async def claim(database: Database, number: int, token: UUID) -> ClaimedLane:
    """Own lane ``number`` with ``token``, which nobody else has; the same token may claim again.

    Raises ``LaneLost`` when somebody else was quicker, and ``Transient``.
    """
    async with database.transaction() as connection:
        await lanes.create(connection, number)
        seen = await lanes.read(connection, number)
        if seen is None:
            raise LaneLost(f"lane {number} has no row")
        if seen.token == token:
            return ClaimedLane(seen, unclean_takeover=False)
        mine = await lanes.claim(connection, number, seen.token, token)
        if mine is None:
            raise LaneLost(f"lane {number} was claimed by somebody else")
        return ClaimedLane(mine, unclean_takeover=seen.token != RELEASED)


async def resume(database: Database, held: Lane) -> Lane:
    """Return the lane as it is in Postgres, after trouble.

    Raises ``LaneLost`` when it is not ours any more, and ``Transient``.
    """
    async with database.transaction() as connection:
        lane = await lanes.read(connection, held.lane)
        if lane is None or lane.token != held.token:
            raise LaneLost(f"lane {held.lane} has another owner")
        return lane


async def release(database: Database, lane: Lane) -> None:
    """Give the lane up in good order."""
    async with database.transaction() as connection:
        await lanes.release(connection, lane)


class Session(Protocol):
    """Works on a lane from what Postgres holds, until told to stop or something breaks.

    ``unclean_takeover``: the last owner died.  Raises ``LaneLost``, ``Transient`` or ``Fatal``.
    """

    def __call__(
        self, lane: Lane, publisher: Publisher, stop: asyncio.Event, *, unclean_takeover: bool
    ) -> Awaitable[None]: ...


class Owner:
    """The life of lane ``number`` in this process, for as long as it is assigned to us.

    Once a session has what it needs from the services, it calls ``well``.
    """

    def __init__(
        self, number: int, client: Client, topics: Topics, database: Database, session: Session
    ) -> None:
        self.number = number
        self._client = client
        self._topics = topics
        self._database = database
        self._session = session
        self._outage = Outage(_log, "services")

    def well(self) -> None:
        """Note that the services are there."""
        self._outage.over(lane=self.number)

    async def run(self, stop: asyncio.Event) -> None:
        """Own the lane again and again until told to stop.  Raises ``Fatal``."""
        token, backoff = uuid4(), Backoff()
        while not stop.is_set():
            began = time.monotonic()
            try:
                held = await claim(self._database, self.number, token)
                await self._own(held, stop)
            except LaneLost as lost:
                _log.info("lane_lost", lane=self.number, because=str(lost))
                metrics.CLAIMS.labels(metrics.Claim.LOST).inc()
                token = uuid4()
            except Transient as trouble:
                self._outage.again(trouble, lane=self.number)
            else:
                return
            if time.monotonic() - began > _HEALTHY_SECONDS:
                backoff.reset()
            await wait_for_stop(stop, backoff.pause())

    async def _own(self, held: ClaimedLane, stop: asyncio.Event) -> None:
        _log.info("lane_claimed", lane=self.number, unclean_takeover=held.unclean_takeover)
        metrics.CLAIMS.labels(metrics.Claim.CLAIMED).inc()
        publisher = Publisher(held.lane, self._client, self._topics, self._database)
        finished = asyncio.Event()
        metrics.LANES_OWNED.inc()
        publishing = asyncio.create_task(publisher.run(finished), name=f"publish-{self.number}")
        working = asyncio.create_task(self._work(held, publisher, stop), name=f"work-{self.number}")
        try:
            await self._until_over(working, publishing, stop)
            finished.set()
            await asyncio.wait([publishing], timeout=_DRAIN_SECONDS)
            await _release(self._database, held.lane)
        finally:
            metrics.LANES_OWNED.dec()
            await _cancelled(working, publishing)

    async def _until_over(
        self, working: asyncio.Task[None], publishing: asyncio.Task[None], stop: asyncio.Event
    ) -> None:
        """Wait until told to stop, and then for the round under way; raise what broke."""
        told = asyncio.create_task(stop.wait())
        try:
            await asyncio.wait([working, publishing, told], return_when=asyncio.FIRST_COMPLETED)
            if not publishing.done():
                await asyncio.wait([working], timeout=_DRAIN_SECONDS)
        finally:
            told.cancel()
        if publishing.done():
            publishing.result()
            raise LaneLost(f"lane {self.number} is published by somebody else")
        if working.done():
            working.result()

    async def _work(self, held: ClaimedLane, publisher: Publisher, stop: asyncio.Event) -> None:
        """Run sessions until told to stop.  Raises ``LaneLost`` and ``Fatal``."""
        unclean_takeover, backoff = held.unclean_takeover, Backoff()
        while not stop.is_set():
            began = time.monotonic()
            try:
                lane = await resume(self._database, held.lane)
                await self._session(lane, publisher, stop, unclean_takeover=unclean_takeover)
            except LaneLost:
                raise
            except Transient as trouble:
                if time.monotonic() - began > _HEALTHY_SECONDS:
                    backoff.reset()
                self._outage.again(trouble, lane=self.number)
                await wait_for_stop(stop, backoff.pause())
            unclean_takeover = False


async def _release(database: Database, lane: Lane) -> None:
    """Give the lane up; if that fails, the next owner is merely more careful than it need be."""
    try:
        await release(database, lane)
    except Transient as trouble:
        _log.warning("lane_not_released", lane=lane.lane, error=str(trouble))
    else:
        metrics.CLAIMS.labels(metrics.Claim.RELEASED).inc()


async def _cancelled(*tasks: asyncio.Task[None]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks, timeout=_DRAIN_SECONDS)
    for task in tasks:
        if task.done() and not task.cancelled():
            task.exception()  # raised already, or of no interest after the first
