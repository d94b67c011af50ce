"""The controller role: of all processes, the one that holds ``chive.control`` works.

It owns the lane behind the workers' (number n): commands are read from ``chive.control`` at
the lane's position, carried out in its transactions, and what they change is published on
``chive.operations`` by the lane's publisher.
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
from consumer.lanes.owner import Owner
from consumer.lanes.publisher import Publisher
from consumer.lanes.transaction import LaneTransactions
from consumer.runtime.tasks import Stopped, unless_stopped
from consumer.scope import Scope
from consumer.store.database import Database
from consumer.store.rows import Lane

_GROUP = "controller"
_BATCH = 200  # commands in one transaction
_WAIT = 0.25  # seconds for a command; then operations that changed are published
_SWEEP_EVERY = 5.0
_STOP_SECONDS = 11.0

_log = structlog.get_logger()


class Controller:
    """The role; any number of processes may have it, one at a time works."""

    def __init__(
        self,
        client: Client,
        topics: Topics,
        database: Database,
        scope: Scope,
        *,
        forget_after: float,
    ) -> None:
        self._client = client
        self._topics = topics
        self._database = database
        self._scope = scope
        self._forget_after = forget_after

    async def run(self, stop: asyncio.Event) -> None:
        """Work whenever it is our turn, until told to stop.  Raises ``Fatal``."""
        topic = self._topics.name(Topic.CONTROL)
        async with await Membership.open(self._client, topic, _GROUP) as membership:
            with suppress(Stopped):
                while not stop.is_set():
                    await unless_stopped(stop, membership.until(lambda mine: 0 in mine))
                    await self._on_duty(membership, stop)

    async def _on_duty(self, membership: Membership, stop: asyncio.Event) -> None:
        """Own the lane until told to stop, or until the group has given it to somebody else."""
        over = asyncio.Event()
        lane = self._topics.partitions
        owner = Owner(lane, self._client, self._topics, self._database, self._session)
        self._owner = owner
        working = asyncio.create_task(owner.run(over), name="controller")
        relieved = asyncio.create_task(membership.until(lambda mine: 0 not in mine))
        told = asyncio.create_task(stop.wait())
        try:
            await asyncio.wait([working, relieved, told], return_when=asyncio.FIRST_COMPLETED)
            over.set()
            await asyncio.wait([working], timeout=_STOP_SECONDS)
        finally:
            for task in (working, relieved, told):
                task.cancel()
            await asyncio.wait([working, relieved, told])
        for task in (working, relieved):
            if not task.cancelled():
                task.result()

    async def _session(
        self, lane: Lane, publisher: Publisher, stop: asyncio.Event, *, unclean_takeover: bool
    ) -> None:
        del unclean_takeover  # a command that kills us would be ours to mend
        place = TopicPartition(self._topics.name(Topic.CONTROL), 0)
        transactions = CommandTransactions(
            LaneTransactions(self._database, lane, self._topics.prefix, publisher.hand_over),
            self._topics,
            self._scope,
        )
        reader = await PartitionReader.open(self._client, {place: lane.control_offset})
        async with reader:
            self._owner.well()
            try:
                await self._rounds(transactions, reader, place, stop)
            except OffsetExpired as lost:
                _log.warning("commands_have_expired", error=str(lost))
                await transactions.skip_to(lost.earliest)

    async def _rounds(
        self,
        transactions: CommandTransactions,
        reader: PartitionReader,
        place: TopicPartition,
        stop: asyncio.Event,
    ) -> None:
        swept = 0.0
        while not stop.is_set():
            records = await reader.fetch(place, wait=_WAIT, limit=_BATCH)
            while await transactions.commit(records):
                records = await reader.fetch(place, wait=0, limit=_BATCH)
            if time.monotonic() - swept >= _SWEEP_EVERY:
                swept = time.monotonic()
                await transactions.sweep(self._forget_after)
