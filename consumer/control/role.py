"""The controller role: of all processes that have it, one is the leader and works.

The leader is the process to which Kafka's group assigns ``chive.control``.  It owns a lane of its
own, numbered after those of the workers: it reads commands from the lane's position on and
carries them out in the lane's transactions.  The lane's publisher puts the operations that
change on ``chive.operations``.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress

import structlog

from consumer.control.transaction import CommandTransactions
from consumer.kafka.client import Client
from consumer.kafka.membership import Membership
from consumer.kafka.reader import OffsetExpired, PartitionReader, TopicPartition
from consumer.kafka.topics import Topic, Topics
from consumer.lanes.owner import OwnedLane, Owner
from consumer.lanes.publisher import Publisher
from consumer.runtime.tasks import Stopped, any_ended, cancel, unless_stopped
from consumer.scope import Scope
from consumer.store.database import Database
from procedures.retries import RetryPolicy

_GROUP = "controller"
_BATCH = 200  # commands in one transaction
# Seconds to wait for a command before operations that changed are published, which many do at a
# time in a backfill; longer in quiet times.
_WAIT, _LONGEST_WAIT = 0.25, 2.0
_SWEEP_EVERY = 5.0
_STOP_SECONDS = 11.0
_CANCEL_SECONDS = 6.0  # the owner waits up to 4 s for its own tasks

_log = structlog.get_logger()


class Controller:
    """The role.  ``forget_after``: seconds for which an operation that has ended is kept."""

    def __init__(
        self,
        client: Client,
        topics: Topics,
        database: Database,
        publisher: Publisher,
        scope: Scope,
        *,
        forget_after: float,
        retries: RetryPolicy,
    ) -> None:
        self._client = client
        self._topics = topics
        self._database = database
        self._publisher = publisher
        self._scope = scope
        self._forget_after = forget_after
        self._retries = retries

    async def run(self, stop: asyncio.Event) -> None:
        """Work whenever this process is the leader, until told to stop.  Raises ``Fatal``."""
        topic = self._topics.name(Topic.CONTROL)
        async with await Membership.open(self._client, topic, _GROUP) as membership:
            with suppress(Stopped):
                while not stop.is_set():
                    await unless_stopped(stop, membership.until(_is_leader))
                    await self._lead(membership, stop)

    async def _lead(self, membership: Membership, stop: asyncio.Event) -> None:
        """Own the lane until told to stop, or until leadership is lost; raise what breaks."""
        over = asyncio.Event()
        number = self._topics.partitions
        owner = Owner(number, self._publisher, self._topics, self._database, self._work)
        working = asyncio.create_task(owner.run(over), name="controller")
        lost_leadership = asyncio.create_task(membership.until(lambda mine: not _is_leader(mine)))
        tasks = (working, lost_leadership)
        try:
            await any_ended(tasks, stop)
            over.set()
            await asyncio.wait([working], timeout=_STOP_SECONDS)
        finally:
            await cancel(tasks, _CANCEL_SECONDS)
        for task in tasks:
            if task.done() and not task.cancelled():
                task.result()

    async def _work(self, lane: OwnedLane) -> None:
        """Carry out commands from the position in Postgres on; see ``consumer.lanes.owner.Work``.

        After an unclean takeover nothing is different: a command that kills the controller
        would be a bug to correct.
        """
        commands = TopicPartition(self._topics.name(Topic.CONTROL), 0)
        offset = lane.transactions.row.control_offset
        transactions = CommandTransactions(
            lane.transactions, self._topics, self._scope, self._retries
        )
        async with await PartitionReader.open(
            self._client, {commands: offset}, patience=_LONGEST_WAIT
        ) as reader:
            lane.mark_healthy()
            try:
                await self._carry_out(transactions, reader, commands, lane.stop)
            except OffsetExpired as expired:
                _log.warning("commands_expired", error=str(expired))
                await transactions.skip_to(expired.earliest)

    async def _carry_out(
        self,
        transactions: CommandTransactions,
        reader: PartitionReader,
        commands: TopicPartition,
        stop: asyncio.Event,
    ) -> None:
        swept, wait = 0.0, _WAIT
        while not stop.is_set():
            records = await reader.fetch(commands, wait=wait, limit=_BATCH)
            wait = min(2 * wait, _LONGEST_WAIT)
            if records or await transactions.has_work():
                wait, more = _WAIT, True
                while records or more:
                    more = await transactions.commit(records)
                    records = await reader.fetch(commands, wait=0, limit=_BATCH)
            if time.monotonic() - swept >= _SWEEP_EVERY:
                swept = time.monotonic()
                await transactions.sweep(self._forget_after)


def _is_leader(assigned: frozenset[int]) -> bool:
    """Tell whether this process is the leader: the topic has one partition."""
    return 0 in assigned
