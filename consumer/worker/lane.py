"""The sessions of one lane of the worker, and what they are made of."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from consumer import metrics
from consumer.config.settings import Settings
from consumer.kafka.client import Client
from consumer.kafka.reader import PartitionReader, TopicPartition
from consumer.kafka.topics import Topic, Topics
from consumer.lanes.owner import Owner
from consumer.lanes.publisher import Publisher
from consumer.lanes.transaction import LaneTransactions
from consumer.scope import Scope
from consumer.state.policy import Policy
from consumer.store import parked
from consumer.store.database import Database
from consumer.store.rows import Lane
from consumer.worker.batch_loop import BatchLoop
from consumer.worker.batch_reader import BatchReader
from consumer.worker.cache import LaneCache
from consumer.worker.intake import Rules
from consumer.worker.poison import PoisonGuard
from consumer.worker.record_buffer import RecordBuffer
from consumer.worker.transaction import BatchTransactions


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
        of = resources
        self._owner = Owner(number, of.client, of.topics, of.database, self._session)

    async def run(self, stop: asyncio.Event) -> None:
        """Own the lane again and again until told to stop.  Raises ``Fatal``."""
        try:
            await self._owner.run(stop)
        finally:
            metrics.WORKER_LAG.drop(self.number)
            metrics.PARKED_FRAMES.remove(self.number)

    async def _session(
        self, lane: Lane, publisher: Publisher, stop: asyncio.Event, *, unclean_takeover: bool
    ) -> None:
        of, span = self._of, self._of.settings.worker.batch_frames
        async with of.database.transaction() as connection:
            cache = LaneCache(await parked.read(connection, lane.lane))
        firehose = TopicPartition(of.topics.name(Topic.FIREHOSE), lane.lane)
        backfill = TopicPartition(of.topics.name(Topic.BACKFILL), lane.lane)
        positions = {firehose: lane.firehose_offset, backfill: lane.backfill_offset}
        async with await PartitionReader.open(of.client, positions) as reader:
            self._owner.well()
            buffer = RecordBuffer(reader, firehose, backfill)
            loop = BatchLoop(
                transactions=BatchTransactions(
                    LaneTransactions(of.database, lane, of.topics.prefix, publisher.hand_over),
                    self._rules.policy,
                ),
                reader=BatchReader(buffer, of.database, cache, of.settings.worker),
                cache=cache,
                rules=self._rules,
                database=of.database,
                guard=PoisonGuard(lane.stalls, unclean_takeover=unclean_takeover, span=span),
            )
            await loop.run(stop)
