"""The life of one lane in this process: claim it, work and publish, release it.

``Transient`` ends a session: what was remembered is dropped, and another session begins from
what Postgres holds.  ``LaneLost`` ends the ownership: as long as Kafka's group says that the
lane is ours, it is claimed again, with another token.  ``Fatal`` is for the process to die of.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from uuid import uuid4

import structlog

from consumer import metrics
from consumer.errors import Transient
from consumer.kafka.client import Client
from consumer.kafka.reader import PartitionReader, Place
from consumer.kafka.topics import Topic, Topics
from consumer.lifecycle import Backoff, wait_for_stop
from consumer.logs import Outage
from consumer.publish.publisher import LaneLost, Publisher
from consumer.scope import Scope
from consumer.settings import Settings
from consumer.store import parked
from consumer.store.database import Database
from consumer.store.lanes import Lane
from consumer.worker import lanes
from consumer.worker.batch import Ledger
from consumer.worker.feed import Feed
from consumer.worker.intake import Rules
from consumer.worker.lanes import Held
from consumer.worker.memory import Memory
from consumer.worker.policy import Policy
from consumer.worker.rounds import Intake
from consumer.worker.session import Session
from consumer.worker.stalls import Caution

_DRAIN_SECONDS = 4.0  # for the round under way, and then for the publisher, when told to stop
_HEALTHY_SECONDS = 30.0

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Resources:
    """What every lane of a process shares."""

    settings: Settings
    client: Client
    topics: Topics
    database: Database
    scope: Scope


class LaneLoop:
    """Lane ``number``, for as long as it is assigned to this process."""

    def __init__(self, number: int, resources: Resources) -> None:
        self.number = number
        self._of = resources
        policy = Policy(number, resources.scope)
        settings = resources.settings
        self._rules = Rules.of(policy, settings.limits, settings.identity.refresh_interval)
        self._outage = Outage(_log, f"services_of_lane_{number}")

    async def run(self, stop: asyncio.Event) -> None:
        """Own the lane again and again until told to stop.  Raises ``Fatal``."""
        token, backoff = uuid4(), Backoff()
        while not stop.is_set():
            began = time.monotonic()
            try:
                held = await lanes.claim(self._of.database, self.number, token)
                await self._own(held, stop)
            except LaneLost as lost:
                _log.info("lane_lost", lane=self.number, because=str(lost))
                metrics.CLAIMS.labels(metrics.Claim.LOST).inc()
                token = uuid4()
            except Transient as trouble:
                self._outage.again(trouble)
            else:
                return
            if time.monotonic() - began > _HEALTHY_SECONDS:
                backoff.reset()
            await wait_for_stop(stop, backoff.pause())

    async def _own(self, held: Held, stop: asyncio.Event) -> None:
        _log.info("lane_claimed", lane=self.number, bereft=held.bereft)
        metrics.CLAIMS.labels(metrics.Claim.CLAIMED).inc()
        of = self._of
        publisher = Publisher(held.lane, of.client, of.topics, of.database)
        finished = asyncio.Event()
        metrics.LANES_OWNED.inc()
        publishing = asyncio.create_task(publisher.run(finished), name=f"publish-{self.number}")
        working = asyncio.create_task(self._work(held, publisher, stop), name=f"work-{self.number}")
        try:
            await self._until_over(working, publishing, stop)
            finished.set()
            await asyncio.wait([publishing], timeout=_DRAIN_SECONDS)
            await _release(of.database, held.lane)
        finally:
            metrics.LANES_OWNED.dec()
            metrics.WORKER_LAG.drop(self.number)
            metrics.PARKED_FRAMES.remove(self.number)
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

    async def _work(self, held: Held, publisher: Publisher, stop: asyncio.Event) -> None:
        """Run sessions until told to stop.  Raises ``LaneLost`` and ``Fatal``."""
        bereft, backoff = held.bereft, Backoff()
        while not stop.is_set():
            began = time.monotonic()
            try:
                lane = await lanes.resume(self._of.database, held.lane)
                await self._session(lane, publisher, stop, bereft=bereft)
            except LaneLost:
                raise
            except Transient as trouble:
                if time.monotonic() - began > _HEALTHY_SECONDS:
                    backoff.reset()
                self._outage.again(trouble)
                await wait_for_stop(stop, backoff.pause())
            bereft = False

    async def _session(
        self, lane: Lane, publisher: Publisher, stop: asyncio.Event, *, bereft: bool
    ) -> None:
        of, span = self._of, self._of.settings.worker.batch_frames
        async with of.database.transaction() as connection:
            memory = Memory(await parked.read(connection, lane.lane))
        firehose = Place(of.topics.name(Topic.FIREHOSE), lane.lane)
        backfill = Place(of.topics.name(Topic.BACKFILL), lane.lane)
        positions = {firehose: lane.firehose_offset, backfill: lane.backfill_offset}
        async with await PartitionReader.open(of.client, positions) as reader:
            self._outage.over()
            feed = Feed(reader, firehose, backfill)
            session = Session(
                ledger=Ledger(
                    of.database, lane, self._rules.policy, of.topics.prefix, publisher.hand_over
                ),
                intake=Intake(feed, of.database, memory, of.settings.worker),
                memory=memory,
                rules=self._rules,
                database=of.database,
                caution=Caution(lane.stalls, bereft=bereft, span=span),
            )
            await session.run(stop)


async def _release(database: Database, lane: Lane) -> None:
    """Give the lane up; if that fails, the next owner is merely more careful than it need be."""
    try:
        await lanes.release(database, lane)
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
