"""The publisher of a process: the outbox of its lanes to Kafka, in ``out_seq`` order, exactly once.

Invariants
- Rows and the markers of their lanes are one Kafka transaction, so the markers on
  ``chive.published`` say exactly which rows are in Kafka, whatever happened.  A row that goes to
  several topics of events has one ``out_seq``, and is in all of them or in none.
- One transactional id per process.  Before it publishes for a lane, a publisher commits a barrier
  with its id to the lane's partition of ``chive.published``, and then sees that the lane's token is
  still its owner's.
- The new owner of a lane whose last owner has not settled all its transactions replaces the token
  first, then opens a producer with the id of the newest barrier: that fences the last owner, and
  decides its last transaction.  Only then is the marker read.  A fenced publisher that lives opens
  its producer again, and asks for the token of each of its lanes after that.
- A row leaves Postgres only when a committed marker at or above it was read back.
- Before the first decision of an owner, the tables prove that they know the marker: the stamp of
  the transaction that decided it is among their batches.  A marker that they do not know means
  that Postgres was restored from an older state; a row missing above the marker, or a marker
  behind what was trimmed, means the same of Kafka.  Each halts the deployment, unless the lane
  has another owner, who may have trimmed it.
- ``out_seq`` has no gaps.

After any failure all state in memory is dropped: a new producer is opened, and the markers read
again.  While Kafka or Postgres is away, the publisher tries again.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from uuid import uuid4

import anyio
import structlog

from consumer import metrics
from consumer.errors import Fatal, Transient
from consumer.kafka.client import Client
from consumer.kafka.compacted import CompactedPartition
from consumer.kafka.reader import PartitionReader, TopicPartition
from consumer.kafka.schema_registry import Header
from consumer.kafka.topics import Topic, Topics
from consumer.kafka.transaction import (
    Fenced,
    OutcomeUnknown,
    OutRecord,
    TransactionalProducer,
    opener_of,
)
from consumer.lanes import marker
from consumer.lanes.errors import LaneLost
from consumer.lanes.marker import NOTHING, Marker
from consumer.lanes.outgoing import Outgoing
from consumer.lanes.queue import size_of
from consumer.metrics.labels import TransactionOutcome
from consumer.runtime.lifecycle import Backoff, persistently
from consumer.runtime.logs import Outage
from consumer.runtime.tasks import cancel
from consumer.store import deployment, lanes, outbox
from consumer.store.database import Connection, Database
from consumer.store.rows import Lane, OutRow

_ROOT = "publisher"
READ_BACK = 0.25  # seconds to wait for the markers of the last commit

_log = structlog.get_logger()


async def take_over(
    producer: TransactionalProducer, client: Client, place: TopicPartition, *, undecided: bool
) -> Marker:
    """Return the marker in ``place`` of ``chive.published``; none but ``producer`` moves it then.

    ``undecided``: the last owner may have a transaction under way, and is fenced.
    Earlier versions had an id per lane, and are fenced in any case.
    Raises ``Transient``, and ``Fatal`` if Kafka refuses.
    """
    async with await CompactedPartition.open(client, *place) as partition:
        await partition.read_to_end()
        if partition.barrier is not None:
            opener = opener_of(partition.barrier)
            last = opener or f"publisher-{place.partition}"
            if last != producer.name and (undecided or opener is None):
                async with await TransactionalProducer.open(client, last):
                    _log.info("publisher_fenced", lane=place.partition, publisher=last)
        await partition.read_to(await producer.barrier(*place))
        value = partition.values.get(marker.key_of(place.partition))
    return NOTHING if value is None else marker.decode(value)


@dataclass(frozen=True, slots=True)
class Pace:
    """Bounds of one transaction and of a lane's memory, and intervals in seconds."""

    transaction_rows: int = 2_000
    transaction_bytes: int = 8 * 1024 * 1024
    waiting_bytes: int = 16 * 1024 * 1024
    trim_every: float = 1.0
    look_every: float = 2.0  # into Postgres, for rows that were not handed over


@dataclass(slots=True)
class _Progress:
    """The ``out_seq`` up to which a lane is published and trimmed with the current producer."""

    position: int
    trimmed: int
    behind: bool = True  # rows that follow may be in Postgres alone


@dataclass(slots=True)
class _Session:
    """The life of one producer.

    ``markers`` reads the markers that are committed from now on.  ``admissions`` are the lanes that
    are to be published, ``lanes`` those that have proven what is published.
    """

    producer: TransactionalProducer
    markers: PartitionReader
    admissions: dict[Outgoing, asyncio.Task[_Progress | None]] = field(default_factory=dict)
    lanes: dict[Outgoing, _Progress] = field(default_factory=dict)
    trimmed_at: float = -math.inf  # in monotonic seconds, as is the next
    looked: float = -math.inf  # into Postgres
    turns: int = 0

    def turn(self) -> list[tuple[Outgoing, _Progress]]:
        """Return the lanes, each time beginning with another one: the first finds most room."""
        lanes = list(self.lanes.items())
        self.turns += 1
        first = self.turns % len(lanes) if lanes else 0
        return lanes[first:] + lanes[:first]


class Publisher:
    """Publishes the outboxes of the lanes that this process owns, in one transaction for all."""

    def __init__(
        self,
        client: Client,
        topics: Topics,
        database: Database,
        pace: Pace = Pace(),
        schemas: Mapping[Topic, Header] | None = None,
    ) -> None:
        """``schemas``: the header that names the schema of a topic's values."""
        self.name = f"publisher-{uuid4().hex}"
        self._client = client
        self._topics = topics
        self._routes = topics.event_routes()
        self._names = {topic.value: (topics.name(topic),) for topic in Topic}
        self._database = database
        self._pace = pace
        self._schemas = {str(topic): (header,) for topic, header in (schemas or {}).items()}
        self._outgoing: set[Outgoing] = set()
        self._arrived = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @asynccontextmanager
    async def publishing(self, lane: Lane, *, undecided: bool) -> AsyncIterator[Outgoing]:
        """Publish what is handed over for ``lane``, its row at the claim, during the block.

        ``undecided``: an earlier owner may have a transaction under way.
        """
        outgoing = Outgoing(lane, self._pace.waiting_bytes, self._arrived, undecided=undecided)
        self._outgoing.add(outgoing)
        self._arrived.set()
        if self._task is None or self._task.done():
            attempts = persistently(_ROOT, self._attempt, asyncio.Event())
            self._task = asyncio.create_task(attempts, name="publisher")
            self._task.add_done_callback(self._died)
        try:
            yield outgoing
        finally:
            self._leave(outgoing, LaneLost(f"lane {lane.lane} was given up"))
            if not self._outgoing and self._task is not None:
                await cancel([self._task])

    def _leave(self, outgoing: Outgoing, reason: BaseException) -> None:
        outgoing.end(reason)
        self._outgoing.discard(outgoing)
        self._arrived.set()

    def _died(self, task: asyncio.Task[None]) -> None:
        """Let the owners of the lanes die of what the publisher died of."""
        if not task.cancelled() and (error := task.exception()):
            for outgoing in list(self._outgoing):
                self._leave(outgoing, error)

    async def _attempt(self, _: asyncio.Event) -> None:
        async with (
            await TransactionalProducer.open(self._client, self.name) as producer,
            await PartitionReader.open(self._client, {}) as markers,
        ):
            session = _Session(producer, markers)
            try:
                await self._publish(session)
            finally:
                await cancel(session.admissions.values())

    async def _publish(self, session: _Session) -> None:
        while True:
            self._arrived.clear()
            await self._admit(session)
            work = await self._next(session)
            if work:
                await self._commit(session, work)
            await self._trim(session)
            if not work:
                with anyio.move_on_after(self._pace.look_every):
                    await self._arrived.wait()

    # -- lanes that come and go ----------------------------------------------------------

    async def _admit(self, session: _Session) -> None:
        """Begin to admit new lanes, take up admitted ones, drop those that ended; raise what broke.

        The markers of a lane are read from where they end before its first transaction.
        """
        ended = [one for one in session.lanes if one.over]
        admitted = [one for one, task in session.admissions.items() if task.done()]
        for outgoing in ended:
            del session.lanes[outgoing]
        for outgoing in admitted:
            progress = session.admissions.pop(outgoing).result()
            if progress is not None and not outgoing.over:
                session.lanes[outgoing] = progress
        for outgoing in self._outgoing - session.lanes.keys() - session.admissions.keys():
            task = asyncio.create_task(self._admission(session.producer, outgoing))
            task.add_done_callback(lambda _: self._arrived.set())
            session.admissions[outgoing] = task
        if ended or admitted:
            await self._follow_markers(session)

    async def _follow_markers(self, session: _Session) -> None:
        """Read the markers of the lanes, of new ones those that are still to be committed."""
        markers = session.markers
        places = {self._place(one.lane.lane) for one in session.lanes}
        new = places.difference(markers.partitions)
        bounds = await markers.bounds(*new) if new else {}
        ends = {place: end for place, (_, end) in bounds.items()}
        await markers.change(add=ends, remove=markers.partitions - places)
        markers.pause()

    async def _admission(
        self, producer: TransactionalProducer, outgoing: Outgoing
    ) -> _Progress | None:
        """Return how far a lane is published, once the tables have proven that they know it.

        None if it has another owner or is given up.  Raises what ends the session; what else fails
        is tried again.
        """
        outage, backoff = Outage(_log, "services"), Backoff()
        while not outgoing.over:
            try:
                return await self._recovered(producer, outgoing)
            except (Fenced, OutcomeUnknown):
                raise
            except LaneLost as lost:
                _log.info("publisher_superseded", lane=outgoing.lane.lane, because=str(lost))
                self._leave(outgoing, lost)
                return None
            except Transient as error:
                outage.again(error, lane=outgoing.lane.lane)
                metrics.ROOT_RESTARTS.labels(_ROOT).inc()
                await asyncio.sleep(backoff.pause())
        return None

    async def _recovered(self, producer: TransactionalProducer, outgoing: Outgoing) -> _Progress:
        """Take a lane over, and trim it through its marker, once the tables prove to know it."""
        number = outgoing.lane.lane
        async with self._database.transaction() as connection:
            await _owned(connection, outgoing)  # else its current owner would be fenced for nothing
        published = await take_over(
            producer, self._client, self._place(number), undecided=outgoing.undecided
        )
        position = published.out_seq
        async with self._database.transaction() as connection:
            lane = await _owned(connection, outgoing)
            known = await outbox.knowledge(connection, number, position)
            contradiction = marker.contradiction(
                published, lane.last_out_seq, known.stamp, known.trimmed
            )
            if contradiction is None:
                await outbox.adopt_earlier(connection, number, position)
                await outbox.trim(connection, {number: position})
        if contradiction is not None:
            raise await self._halted(number, contradiction)
        outgoing.undecided = False
        outgoing.begins_at(position, lane.last_out_seq)
        return _Progress(position, position)

    async def _halted(self, lane: int, contradiction: str) -> Fatal:
        """Note in the tables that they are not to be used; return the error that says so."""
        reason = f"lane {lane} is {contradiction}"
        async with self._database.transaction() as connection:
            await deployment.halt(connection, reason)
        return deployment.halted(reason)

    def _place(self, lane: int) -> TopicPartition:
        return TopicPartition(self._topics.name(Topic.PUBLISHED), lane)

    # -- rows ----------------------------------------------------------------------------

    async def _next(self, session: _Session) -> dict[Outgoing, list[OutRow]]:
        """Return the rows that follow, lane by lane, within the bounds of one transaction.

        Postgres is read for a lane after its admission until it has no more rows, when its queue
        has a gap, and every ``look_every`` seconds, for rows whose COMMIT was not answered.
        """
        found: dict[Outgoing, list[OutRow]] = {}
        room = _Room(self._pace.transaction_rows, self._pace.transaction_bytes)
        due = time.monotonic() >= session.looked + self._pace.look_every
        looks: list[Outgoing] = []
        for outgoing, progress in session.turn():
            if not room:
                return found
            # Rows that are handed over during the read may be committed after its snapshot: only
            # a gap that was there before proves that rows are missing.
            gap = outgoing.queue.has_gap(progress.position)
            if progress.behind or gap:
                rows = await self._stored(outgoing, progress, room, gap=gap)
            else:
                rows = outgoing.queue.take(progress.position, room.rows, room.bytes)
            if rows:
                found[outgoing] = rows
                room.fill(rows)
            elif due:
                looks.append(outgoing)
        if looks:
            await self._look(session, looks)
            session.looked = time.monotonic()
        return found

    async def _stored(
        self, outgoing: Outgoing, progress: _Progress, room: _Room, *, gap: bool
    ) -> list[OutRow]:
        """Read the rows that follow from Postgres.  Raises ``Fatal`` if they are missing."""
        number, position = outgoing.lane.lane, progress.position
        async with self._database.transaction() as connection:
            rows = await outbox.read(
                connection, number, position, max_rows=room.rows, max_bytes=room.bytes
            )
            if rows and _follow(rows, position):
                outgoing.waits_through(rows[-1].out_seq)
                return rows
            if rows or gap:
                try:
                    await _owned(connection, outgoing)
                except LaneLost as lost:
                    self._leave(outgoing, lost)
                    return []
        if rows or gap:
            raise await self._halted(
                number,
                f"published through {position}, and rows that follow are not in the "
                "outbox: Kafka was restored from an older state",
            )
        progress.behind = False
        return []

    async def _look(self, session: _Session, lanes: Iterable[Outgoing]) -> None:
        """Note which of ``lanes`` have rows in Postgres that were not handed over."""
        by_number = {one.lane.lane: one for one in lanes}
        async with self._database.transaction() as connection:
            newest = await outbox.newest(connection, list(by_number))
        for number, through in newest.items():
            outgoing = by_number[number]
            progress = session.lanes[outgoing]
            if through > progress.position and not outgoing.queue:
                progress.behind = True
                self._arrived.set()

    async def _commit(self, session: _Session, work: Mapping[Outgoing, Sequence[OutRow]]) -> None:
        records: list[OutRecord] = []
        for outgoing, rows in work.items():
            number = outgoing.lane.lane
            records += self._records(number, rows)
            value = marker.encode(Marker(rows[-1].out_seq, rows[-1].stamp))
            records.append(OutRecord(*self._place(number), marker.key_of(number), value))
        with _counted([row for rows in work.values() for row in rows]):
            await session.producer.commit(records)
        for outgoing, rows in work.items():
            session.lanes[outgoing].position = rows[-1].out_seq
            outgoing.published_through(rows[-1].out_seq)

    def _records(self, lane: int, rows: Sequence[OutRow]) -> Iterator[OutRecord]:
        for row in rows:
            headers = (*row.headers, ("lane", b"%d" % lane), ("out_seq", b"%d" % row.out_seq))
            if row.value is not None:
                headers += self._schemas.get(row.topic, ())
            is_routed = self._topics.routes and row.topic == Topic.EVENTS
            for name in self._routes.of(row.key) if is_routed else self._names[row.topic]:
                yield OutRecord(name, row.partition, row.key, row.value, headers)

    async def _trim(self, session: _Session) -> None:
        """Every ``trim_every`` seconds, delete the rows up to the newest markers read back."""
        now = time.monotonic()
        waiting = {
            one.lane.lane: progress
            for one, progress in session.lanes.items()
            if progress.trimmed < progress.position
        }
        if not waiting or now < session.trimmed_at + self._pace.trim_every:
            return
        session.trimmed_at = now
        through: dict[int, int] = {}
        session.markers.resume()
        for record in await session.markers.fetch(wait=READ_BACK):
            if record.key == marker.key_of(record.partition) and record.value is not None:
                through[record.partition] = marker.decode(record.value).out_seq
        session.markers.pause()
        if through:
            async with self._database.transaction() as connection:
                await outbox.trim(connection, through)
            for lane, out_seq in through.items():
                if lane in waiting:
                    waiting[lane].trimmed = out_seq


@dataclass(slots=True)
class _Room:
    """What one transaction still has room for; at least one row of a lane is always taken."""

    rows: int
    bytes: int

    def __bool__(self) -> bool:
        return self.rows > 0 and self.bytes > 0

    def fill(self, rows: Sequence[OutRow]) -> None:
        self.rows -= len(rows)
        self.bytes -= sum(map(size_of, rows))


async def _owned(connection: Connection, outgoing: Outgoing) -> Lane:
    """Return the lane's row.  Raises ``LaneLost`` if its token is not the owner's."""
    lane = await lanes.read(connection, outgoing.lane.lane)
    if lane is None or lane.token != outgoing.lane.token:
        raise LaneLost(f"lane {outgoing.lane.lane} has another owner")
    return lane


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
