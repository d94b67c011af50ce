"""The publisher of a lane: outbox rows to Kafka, in ``out_seq`` order, exactly once.

Invariants
- Rows and the lane's marker are one Kafka transaction, so the marker on ``chive.published``
  says exactly which rows are in Kafka, whatever happened.
- One transactional id per lane: opening it fences every predecessor and decides its last
  transaction; only then is the marker read.
- A row leaves Postgres only when a committed marker at or above it was read back.
- Before the first decision of an owner, the tables prove that they know the marker: the stamp of
  the transaction that decided it is among their batches.  A marker that they do not know means
  that Postgres was restored from an older state; a row missing above the marker, or a marker
  behind what was trimmed, means the same of Kafka.  Each halts the deployment, unless the lane
  has another owner, who may have trimmed it.
- ``out_seq`` has no gaps.

After any failure all state in memory is dropped: a new producer is opened, and the marker read
again.  While Kafka or Postgres is away, the publisher tries again.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import structlog

from consumer import metrics
from consumer.errors import Fatal
from consumer.kafka.client import Client
from consumer.kafka.reader import PartitionReader, TopicPartition
from consumer.kafka.topics import Topic, Topics
from consumer.kafka.transaction import Fenced, OutcomeUnknown, OutRecord, TransactionalProducer
from consumer.lanes import marker
from consumer.lanes.backlog import Backlog
from consumer.lanes.errors import LaneLost
from consumer.lanes.marker import NOTHING, Marker
from consumer.lanes.queue import OutboxQueue
from consumer.metrics import TransactionOutcome
from consumer.runtime.lifecycle import persistently
from consumer.runtime.tasks import first_of
from consumer.store import deployment, lanes, outbox
from consumer.store.database import Connection, Database
from consumer.store.rows import Lane, OutRow

READ_BACK = 0.25  # seconds to wait for the marker of the last commit

_log = structlog.get_logger()


def name_of(lane: int) -> str:
    """Return the transactional id of a lane's publisher, without the prefix."""
    return f"publisher-{lane}"


async def published_of(producer: TransactionalProducer, place: TopicPartition) -> Marker:
    """Return the marker of the lane in ``place`` of ``chive.published``.

    ``producer`` is the lane's: opening it has decided every transaction before.
    """
    value = (await producer.durable(*place)).get(marker.key_of(place.partition))
    return NOTHING if value is None else marker.decode(value)


@dataclass(frozen=True, slots=True)
class Pace:
    """Bounds of one transaction and of memory, and intervals in seconds."""

    transaction_rows: int = 2_000
    transaction_bytes: int = 8 * 1024 * 1024
    waiting_bytes: int = 16 * 1024 * 1024
    trim_every: float = 1.0
    look_every: float = 2.0  # into Postgres, for rows that were not handed over


@dataclass(slots=True)
class _Progress:
    """A producer, and the ``out_seq`` that it has published and trimmed up to."""

    producer: TransactionalProducer
    markers: PartitionReader
    position: int
    trimmed: int
    trimmed_at: float = -math.inf
    looked: float = -math.inf  # when Postgres had no more rows, in monotonic seconds


class Publisher:
    """Publishes the outbox of ``lane`` as long as the lane has the token of this row."""

    def __init__(
        self,
        lane: Lane,
        client: Client,
        topics: Topics,
        database: Database,
        pace: Pace = Pace(),
    ) -> None:
        self._lane = lane
        self._client = client
        self._topics = topics
        self._database = database
        self._pace = pace
        self._marker_partition = TopicPartition(topics.name(Topic.PUBLISHED), lane.lane)
        self._queue = OutboxQueue(pace.waiting_bytes)
        self._backlog = Backlog(lane.lane)
        self._proven = asyncio.Event()
        self._ended = False

    async def proven(self, stop: asyncio.Event) -> bool:
        """Wait until the tables have proven that they know what is published.

        Until then nothing may be decided.  Returns False when told to stop before.
        """
        await first_of(self._proven.wait(), stop.wait())
        return self._proven.is_set()

    async def hand_over(self, rows: Sequence[OutRow]) -> None:
        """Take rows of a transaction that has committed, and return when there is room for more.

        Raises ``LaneLost`` when ``run`` has ended.
        """
        if rows and not self._ended:
            self._backlog.decided(rows[-1].out_seq, time.time())
            await self._queue.put(rows)
        if self._ended:
            raise LaneLost(f"the publisher of lane {self._lane.lane} has ended")

    async def run(self, stop: asyncio.Event) -> None:
        """Publish until told to stop and nothing handed over is left, or until the lane is lost.

        While a service is away, it is tried again.  Raises ``Fatal``.
        """
        try:
            await persistently("publisher", self._attempt, stop)
        finally:
            self._ended = True
            self._queue.release()
            self._backlog.end()

    async def _attempt(self, stop: asyncio.Event) -> None:
        name = name_of(self._lane.lane)
        try:
            async with self._database.transaction() as connection:
                await self._owned(connection)
            async with await TransactionalProducer.open(self._client, name) as producer:
                position = await self._recover(producer)
                async with await self._markers() as markers:
                    await self._publish(_Progress(producer, markers, position, position), stop)
        except LaneLost as lost:
            _log.info("publisher_superseded", lane=self._lane.lane, because=str(lost))

    async def _owned(self, connection: Connection) -> Lane:
        lane = await lanes.read(connection, self._lane.lane)
        if lane is None or lane.token != self._lane.token:
            raise LaneLost(f"lane {self._lane.lane} has another owner")
        return lane

    async def _recover(self, producer: TransactionalProducer) -> int:
        """Return the ``out_seq`` of the marker, once the tables prove it, and trim through it."""
        published = await published_of(producer, self._marker_partition)
        position = published.out_seq
        async with self._database.transaction() as connection:
            lane = await self._owned(connection)
            known = await outbox.knowledge(connection, lane.lane, position)
            contradiction = marker.contradiction(
                published, lane.last_out_seq, known.stamp, known.trimmed
            )
            if contradiction is None:
                await outbox.adopt_earlier(connection, lane.lane, position)
                await outbox.trim(connection, lane.lane, position)
        if contradiction is not None:
            raise await self._halted(contradiction)
        self._backlog.published(position)
        self._backlog.decided(lane.last_out_seq, time.time())
        self._proven.set()
        return position

    async def _halted(self, contradiction: str) -> Fatal:
        """Note in the tables that they are not to be used; return the error that says so."""
        reason = f"lane {self._lane.lane} is {contradiction}"
        async with self._database.transaction() as connection:
            await deployment.halt(connection, reason)
        return deployment.halted(reason)

    async def _markers(self) -> PartitionReader:
        """Open a reader of the markers that are committed from now on."""
        reader = await PartitionReader.open(self._client, {self._marker_partition: None})
        try:
            _, end = (await reader.bounds(self._marker_partition))[self._marker_partition]
            reader.seek(self._marker_partition, end)
            reader.pause()
        except BaseException:
            await reader.close()
            raise
        return reader

    async def _publish(self, progress: _Progress, stop: asyncio.Event) -> None:
        while True:
            rows = await self._next(progress)
            if rows:
                await self._commit(progress, rows)
            await self._trim(progress)
            if not rows:
                if stop.is_set():
                    return
                await self._queue.wait(self._pace.look_every, stop)

    async def _next(self, progress: _Progress) -> list[OutRow]:
        """Return the rows that follow, from the queue if it has them, else from Postgres.

        Postgres is read after a start until it has no more rows, when the queue has a gap, and
        every ``look_every`` seconds, for rows whose COMMIT was not answered.
        """
        pace = self._pace
        bounds = {"max_rows": pace.transaction_rows, "max_bytes": pace.transaction_bytes}
        rows = self._queue.take(progress.position, **bounds)
        due = time.monotonic() >= progress.looked + pace.look_every
        # Rows that are handed over during the read may be committed after its snapshot: only
        # a gap that was there before proves that rows are missing.
        gap = len(self._queue) > 0
        if rows or not (due or gap):
            return rows
        async with self._database.transaction() as connection:
            rows = await outbox.read(connection, self._lane.lane, progress.position, **bounds)
            if rows and _follow(rows, progress.position):
                self._backlog.decided(rows[-1].out_seq, time.time())
                return rows
            if rows or gap:
                await self._owned(connection)
        if rows or gap:
            raise await self._halted(
                f"published through {progress.position}, and rows that follow are not in the "
                "outbox: Kafka was restored from an older state"
            )
        progress.looked = time.monotonic()
        return []

    async def _commit(self, progress: _Progress, rows: Sequence[OutRow]) -> None:
        through = rows[-1].out_seq
        records = [self._record(row) for row in rows]
        value = marker.encode(Marker(through, rows[-1].stamp))
        records.append(OutRecord(*self._marker_partition, marker.key_of(self._lane.lane), value))
        with _counted(rows):
            await progress.producer.commit(records)
        progress.position = through
        self._backlog.published(through)

    def _record(self, row: OutRow) -> OutRecord:
        lane, out_seq = str(self._lane.lane).encode(), str(row.out_seq).encode()
        headers = (*row.headers, ("lane", lane), ("out_seq", out_seq))
        topic = self._topics.name(Topic(row.topic))
        return OutRecord(topic, row.partition, row.key, row.value, headers)

    async def _trim(self, progress: _Progress) -> None:
        """Every ``trim_every`` seconds, delete the rows up to the newest marker read back."""
        now = time.monotonic()
        if (
            progress.trimmed == progress.position
            or now < progress.trimmed_at + self._pace.trim_every
        ):
            return
        progress.trimmed_at = now
        through = progress.trimmed
        progress.markers.resume()
        for record in await progress.markers.fetch(wait=READ_BACK):
            if record.key == marker.key_of(self._lane.lane) and record.value is not None:
                through = marker.decode(record.value).out_seq
        progress.markers.pause()
        if through > progress.trimmed:
            async with self._database.transaction() as connection:
                await outbox.trim(connection, self._lane.lane, through)
            progress.trimmed = through


def _follow(rows: Sequence[OutRow], position: int) -> bool:
    """Tell whether ``rows`` follow ``position``, and one another, without a gap."""
    return rows[0].out_seq == position + 1 and rows[-1].out_seq == position + len(rows)


@contextmanager
def _counted(rows: Sequence[OutRow]) -> Iterator[None]:
    """Measure one transaction, and count how it ended."""
    outcomes = metrics.TRANSACTIONS
    began = time.monotonic()
    try:
        yield
    except (Fenced, OutcomeUnknown) as error:
        fenced = isinstance(error, Fenced)
        outcome = TransactionOutcome.FENCED if fenced else TransactionOutcome.UNKNOWN
        outcomes.labels("publisher", outcome).inc()
        raise
    outcomes.labels("publisher", TransactionOutcome.COMMITTED).inc()
    metrics.PUBLISH_SECONDS.observe(time.monotonic() - began)
    metrics.PUBLISH_RECORDS.observe(len(rows))
    for topic, count in Counter(row.topic for row in rows).items():
        metrics.PUBLISHED.labels(topic).inc(count)
