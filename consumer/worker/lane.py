"""The worker on one lane: the parts that a batch needs, put together for as long as it is owned."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from functools import cached_property, partial

from consumer import metrics
from consumer.config.settings import LimitSettings, Settings
from consumer.events.envelope import Form
from consumer.kafka.client import Client
from consumer.kafka.reader import TopicPartition
from consumer.kafka.shared import SharedReader
from consumer.kafka.topics import Topic, Topics
from consumer.lanes.owner import OwnedLane, Owner
from consumer.lanes.publisher import Publisher
from consumer.scope import Scope
from consumer.state.policy import Policy
from consumer.store import forgotten, parked, progress
from consumer.store.database import Database
from consumer.verify.commit import CommitLimits
from consumer.worker.batch_loop import BatchLoop
from consumer.worker.batch_reader import BatchReader
from consumer.worker.cache import LaneCache
from consumer.worker.decision import Together
from consumer.worker.poison import PoisonGuard
from consumer.worker.progress import Intervals, Reporter
from consumer.worker.transaction import BatchTransactions
from consumer.worker.turns import Turns
from consumer.worker.verdicts import Rules

_ALONE_SPAN = 2  # batches' worth of frames; messages and parked frames take turns with them


@dataclass(frozen=True)
class Resources:
    """What every lane of a process shares."""

    settings: Settings
    client: Client
    topics: Topics
    database: Database
    publisher: Publisher
    scope: Scope
    turns: Turns = field(default_factory=Turns)

    @cached_property
    def reader(self) -> SharedReader:
        """Reads the topics of all lanes."""
        return SharedReader(self.client)

    @cached_property
    def together(self) -> Together:
        """Decides the batches of all lanes."""
        bounds = self.settings.worker
        return Together(bounds.batch_frames, bounds.batch_bytes)

    @cached_property
    def intervals(self) -> Intervals:
        """Says when the lanes tell how far they are."""
        return Intervals(
            self.database,
            self.settings.worker.progress_every,
            self.scope.extent,
            self.settings.retries.behind_give_up_after,
        )


async def run_lane(number: int, resources: Resources, stop: asyncio.Event) -> None:
    """Own lane ``number`` and process its topics until told to stop.  Raises ``Fatal``."""
    work = partial(_work, resources)
    owner = Owner(number, resources.publisher, resources.topics, resources.database, work)
    try:
        await owner.run(stop)
    finally:
        metrics.WORKER_LAG.drop(number)
        metrics.COMPLETE_LAG.drop(number)
        metrics.PARKED_FRAMES.remove(number)


async def _work(resources: Resources, lane: OwnedLane) -> None:
    """Run batches from the positions in Postgres on; see ``consumer.lanes.owner.Work``."""
    settings, topics, database = resources.settings, resources.topics, resources.database
    row = lane.transactions.row
    async with database.transaction() as connection:
        parkings = await parked.read(connection, row.lane)
        again = await forgotten.read(connection, row.lane)
        cache = LaneCache(parkings, again, await parked.oldest(connection, row.lane))
        said = await progress.said(connection, row.lane)
    firehose = TopicPartition(topics.name(Topic.FIREHOSE), row.lane)
    backfill = TopicPartition(topics.name(Topic.BACKFILL), row.lane)
    positions = {firehose: row.firehose_offset, backfill: row.backfill_offset}
    policy = Policy(row.lane, resources.scope, settings.retries.policy(), settings.accounts.rules())
    form = Form(settings.limits.record, settings.kafka.cloudevents)
    async with resources.reader.feeding(positions) as feed:
        lane.mark_healthy()
        loop = BatchLoop(
            transactions=BatchTransactions(
                lane.transactions, policy, form, resources.together.decide
            ),
            reader=BatchReader(feed, firehose, backfill, database, cache, settings.worker),
            cache=cache,
            rules=rules_of(policy, settings.limits, settings.identity.refresh_interval),
            database=database,
            guard=PoisonGuard(
                row.stalls,
                unclean_takeover=lane.unclean_takeover,
                span=_ALONE_SPAN * settings.worker.batch_frames,
            ),
            turns=resources.turns,
            together=resources.together,
            reporter=Reporter(row.lane, resources.intervals, said),
        )
        await loop.run(lane.stop)


def rules_of(policy: Policy, limits: LimitSettings, refresh_interval: float) -> Rules:
    """Return the rules that the settings make for the lane of ``policy``.

    ``refresh_interval`` is in seconds.
    """
    return Rules(
        policy=policy,
        commit=CommitLimits(
            commit_blocks=limits.commit_blocks,
            sync_blocks=limits.sync_blocks,
            ops=limits.ops,
            rev_ahead=limits.rev_ahead,
        ),
        frame=limits.frame,
        parked_frames=limits.parked_frames,
        parked_bytes=limits.parked_bytes,
        refresh_interval=refresh_interval,
    )
