"""The publisher of a lane: outbox rows to Kafka, in ``out_seq`` order, exactly once.

Invariants
- Rows and the lane's marker are one Kafka transaction, so the marker on ``chive.published``
  says exactly which rows are in Kafka, whatever happened.
- One transactional id per lane: opening it fences every predecessor and decides its last
  transaction; only then is the marker read.
- A row leaves Postgres only when a committed marker at or above it was read back.
- ``out_seq`` has no gaps.  A marker ahead of the lane's ``last_out_seq`` means that Postgres
  was restored from the past; a row missing above the marker means the same of Kafka.  Both
  stop the process, unless the lane has another owner, who may have trimmed it.

After any failure everything in memory counts for nothing: a new producer is opened and the
marker read again.  Kafka and Postgres away are waited out.
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
from consumer.lanes.queue import OutboxQueue
from consumer.metrics import TransactionOutcome
from consumer.runtime.lifecycle import persistently
from consumer.store import lanes, outbox
from consumer.store.database import Connection, Database
from consumer.store.rows import Lane, OutRow

READ_BACK = 0.25  # seconds to wait for a marker that was committed just before

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Pace:
    """How much goes into one transaction, how much waits in memory; times in seconds."""

    transaction_rows: int = 2_000
    transaction_bytes: int = 8 * 1024 * 1024
    waiting_bytes: int = 16 * 1024 * 1024
    trim_every: float = 1.0
    look_every: float = 2.0  # at Postgres, for rows that were never handed over


@dataclass(slots=True)
class _Progress:
    """One producer, and how far it has got: published, trimmed (both ``out_seq``)."""

    producer: TransactionalProducer
    markers: PartitionReader
    position: int
    trimmed: int
    trimmed_at: float = -math.inf
    looked: float = -math.inf  # when Postgres last had nothing more, in monotonic seconds


class Publisher:
    """Publishes what the owner of ``lane`` decides, as long as its token stands."""

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
        self._place = TopicPartition(topics.name(Topic.PUBLISHED), lane.lane)
        self._waiting = OutboxQueue(pace.waiting_bytes)
        self._backlog = Backlog(lane.lane)
        self._ended = False

    async def hand_over(self, rows: Sequence[OutRow]) -> None:
        """Take rows whose COMMIT is known, and return when there is room for more.

        Raises ``LaneLost`` when ``run`` has ended.
        """
        if rows and not self._ended:
            self._backlog.grows(rows[-1].out_seq, time.time())
            await self._waiting.put(rows)
        if self._ended:
            raise LaneLost(f"nobody publishes lane {self._lane.lane} here any more")

    async def run(self, stop: asyncio.Event) -> None:
        """Publish until told to stop, then what was handed over; return early if the lane is lost.

        Services that are away are waited for.  Raises ``Fatal``.
        """
        try:
            await persistently("publisher", self._attempt, stop)
        finally:
            self._ended = True
            self._waiting.release()
            self._backlog.end()

    async def _attempt(self, stop: asyncio.Event) -> None:
        name = f"publisher-{self._lane.lane}"
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
            raise LaneLost("the lane has another owner")
        return lane

    async def _recover(self, producer: TransactionalProducer) -> int:
        """Return the ``out_seq`` of the marker, and trim through it."""
        found = await producer.durable(*self._place)
        value = found.get(marker.key_of(self._lane.lane))
        position = 0 if value is None else marker.decode(value)
        async with self._database.transaction() as connection:
            lane = await self._owned(connection)
            if position > lane.last_out_seq:
                raise Fatal(
                    f"lane {lane.lane} is published through {position} and decided through "
                    f"{lane.last_out_seq}: PostgreSQL was restored from the past"
                )
            await outbox.trim(connection, lane.lane, position)
        self._backlog.shrinks(position)
        self._backlog.grows(lane.last_out_seq, time.time())
        return position

    async def _markers(self) -> PartitionReader:
        """Open a reader of the markers to come."""
        reader = await PartitionReader.open(self._client, {self._place: None})
        try:
            _, end = (await reader.bounds(self._place))[self._place]
            reader.seek(self._place, end)
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
                await self._waiting.wait(self._pace.look_every, stop)

    async def _next(self, progress: _Progress) -> list[OutRow]:
        """Return the rows that follow, from memory if they are there, else from Postgres.

        Postgres is asked until it has nothing more after a start, when memory has a gap, and
        now and then, for rows whose owner never learnt of their COMMIT.
        """
        pace = self._pace
        bounds = {"max_rows": pace.transaction_rows, "max_bytes": pace.transaction_bytes}
        rows = self._waiting.take(progress.position, **bounds)
        due = time.monotonic() >= progress.looked + pace.look_every
        # Rows that are handed over during the read may be committed after its snapshot.
        gap = len(self._waiting) > 0
        if rows or not (due or gap):
            return rows
        async with self._database.transaction() as connection:
            rows = await outbox.read(connection, self._lane.lane, progress.position, **bounds)
            if rows and _follow(rows, progress.position):
                self._backlog.grows(rows[-1].out_seq, time.time())
                return rows
            if rows or gap:
                await self._owned(connection)
                raise Fatal(
                    f"lane {self._lane.lane} is published through {progress.position}, and rows "
                    "that follow are not in the outbox: Kafka was restored from the past"
                )
        progress.looked = time.monotonic()
        return []

    async def _commit(self, progress: _Progress, rows: Sequence[OutRow]) -> None:
        through = rows[-1].out_seq
        records = [self._record(row) for row in rows]
        value = marker.encode(through)
        records.append(OutRecord(*self._place, marker.key_of(self._lane.lane), value))
        with _counted(rows):
            await progress.producer.commit(records)
        progress.position = through
        self._backlog.shrinks(through)

    def _record(self, row: OutRow) -> OutRecord:
        lane, out_seq = str(self._lane.lane).encode(), str(row.out_seq).encode()
        headers = (*row.headers, ("lane", lane), ("out_seq", out_seq))
        topic = self._topics.name(Topic(row.topic))
        return OutRecord(topic, row.partition, row.key, row.value, headers)

    async def _trim(self, progress: _Progress) -> None:
        """Delete the rows below the newest marker read back, now and then."""
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
                through = marker.decode(record.value)
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
