"""The tailer: the relay's firehose into ``chive.firehose``, without a hole and without a copy.

Of all tailers the one that holds the only partition of ``chive.cursor`` works, the others stand
by.  It opens the producer (which fences its predecessor), reads the durable position behind a
barrier, finds out which repositories are tracked, and follows the relay for ever: frames and
cursor in one Kafka transaction, the next one collected while the last is committed.

- Whatever goes wrong with Kafka, everything held is dropped and read again from the durable
  position: the cursor never passes a frame that is not in the topic.
- Whatever goes wrong with the relay, the tailer connects again at its position.
- Fenced by another tailer, it leaves the group, and waits until it is assigned again.
- While a full transaction waits for Kafka the socket is not read: what is held is bounded by
  two transactions and ``subscription.HIGH_WATER``, each plus one read from the socket.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NoReturn

import anyio
import structlog
from websockets.exceptions import WebSocketException

from consumer import metrics
from consumer.config.settings import RelaySettings
from consumer.errors import Transient
from consumer.kafka.client import Client
from consumer.kafka.membership import Membership
from consumer.kafka.topics import Topic, Topics
from consumer.kafka.transaction import Fenced, TransactionalProducer
from consumer.metrics import EpochCause, ReconnectCause, Service
from consumer.runtime.lifecycle import Backoff
from consumer.runtime.logs import Outage
from consumer.runtime.tasks import Stopped, unless_stopped
from consumer.scope import Scope
from consumer.tail.collector import Collector
from consumer.tail.cursor import Cursor, Position, resume
from consumer.tail.outcomes import Garbage, Outcome, RelayError, Silent, classify
from consumer.tail.pipeline import Pipeline
from consumer.tail.relevance import Relevance
from consumer.tail.splitter import Violation
from consumer.tail.subscription import Connection, subscribe
from consumer.tail.tracked import track_unread

ROLE = "tailer"
_PATIENCE = 1.0  # seconds without a message after which the relay has nothing more for us
_MIRROR_EVERY = 1.0
_REPORT_EVERY = 20.0  # seconds; readers take a report of a minute ago for none
_JOIN_EVERY = 2.0
_JOIN_OVERLAP = 180.0  # longer than any transaction that may show a repository late
_ABOUT_RELAY = (WebSocketException, OSError, Violation, Silent, RelayError, Garbage)

_log = structlog.get_logger()
_clock = time.monotonic


@dataclass(frozen=True, slots=True)
class RelayState:
    """Whether the tailer is connected, since when (Unix seconds), and if not, why."""

    connected: bool
    since: float
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Store:
    """What the tailer needs from Postgres, as functions that raise ``Transient``.

    ``tracked``: the DIDs of all repositories that the workers know.  ``joined``: those that
    they have come to know in the last so many seconds, at least.  ``consumed``: by partition
    of ``chive.firehose``, the offset that its worker reads next.  ``mirror``: keep the cursor
    of a relay for people to see; best effort.  ``report``: keep the state of the connection to a
    relay likewise.
    """

    tracked: Callable[[], Awaitable[set[str]]]
    joined: Callable[[float], Awaitable[set[str]]]
    consumed: Callable[[], Awaitable[Mapping[int, int]]]
    mirror: Callable[[str, Cursor], Awaitable[None]]
    report: Callable[[str, RelayState], Awaitable[None]]


class Tailer:
    """One member of the group of tailers."""

    def __init__(
        self,
        relay: RelaySettings,
        scope: Scope,
        client: Client,
        topics: Topics,
        store: Store,
        *,
        frame_limit: int,
    ) -> None:
        self._relay = relay
        self._url = relay.url.rstrip("/")
        self._scope = scope
        self._client = client
        self._topics = topics
        self._store = store
        self._limit = frame_limit
        self._chance = random.Random()  # noqa: S311 - jitter
        self._relay_outage = Outage(_log, "relay")
        self._kafka_outage = Outage(_log, "kafka")
        self._backoff = Backoff()
        self._state = RelayState(connected=False, since=time.time(), reason="not tried yet")
        self._newest: Cursor | None = None
        self._moved = asyncio.Event()

    async def run(self, stop: asyncio.Event) -> None:
        """Tail whenever it is our turn, until told to stop.

        Nothing needs to be drained: what is not committed comes again.  Raises ``Fatal``.
        """
        with suppress(Stopped):
            await unless_stopped(stop, self._take_part())

    async def _take_part(self) -> None:
        cursor_topic = self._topics.name(Topic.CURSOR)
        async with await Membership.open(self._client, cursor_topic, ROLE) as membership:
            while True:
                await membership.until(lambda assigned: 0 in assigned)
                try:
                    await self._until_relieved(membership)
                except Fenced:
                    _log.warning("fenced", role=ROLE)
                    _stand_by()
                    membership.rejoin()
                except Transient as error:
                    self._kafka_outage.again(error)
                    metrics.WAITS.labels(Service.KAFKA).inc()
                    await asyncio.sleep(self._backoff.pause())

    async def _until_relieved(self, membership: Membership) -> None:
        """Tail until the group has given the work to somebody else."""
        relieved = membership.until(lambda assigned: 0 not in assigned)
        metrics.TAIL_ACTIVE.set(1)
        await _first(relieved, self._tail(), self._mirror())
        _log.info("relieved", role=ROLE)
        _stand_by()

    async def _tail(self) -> None:
        async with await TransactionalProducer.open(self._client, ROLE) as producer:
            position = await self._durable_position(producer)
            relevance = await self._relevance()
            collector = Collector(self._url, self._topics, relevance, position, self._limit)
            pipeline = Pipeline(producer, self._committed)
            _log.info(
                "tailing",
                relay=self._url,
                epoch=position.epoch,
                cursor=position.ask,
                tracked=relevance.tracked,
            )
            try:
                await _first(self._follow(collector, pipeline), self._join(relevance))
            finally:
                await pipeline.close()

    async def _durable_position(self, producer: TransactionalProducer) -> Position:
        stored = await producer.durable(self._topics.name(Topic.CURSOR), 0)
        cursors = {url.decode(): Cursor.decode(value) for url, value in stored.items()}
        oldest = self._relay.start == "oldest"
        position, cause = resume(
            cursors, self._url, self._topics.partitions, oldest=oldest, now=time.time()
        )
        if cause is not None:
            self._new_epoch(cause, position)
        return position

    async def _relevance(self) -> Relevance:
        relevance = Relevance(self._scope, forward_all=self._relay.forward == "all")
        if relevance.selective:
            offsets = await self._store.consumed()
            relevance.track(await self._store.tracked())
            await track_unread(self._client, self._topics, offsets, relevance)
        return relevance

    async def _join(self, relevance: Relevance) -> NoReturn:
        """Track repositories that joined without a frame of ours, by a sync.

        What such a repository commits before that was not forwarded: the next commit that is
        shows the gap, and another sync closes it.
        """
        looked = _clock()
        while True:
            await asyncio.sleep(_JOIN_EVERY)
            if not relevance.selective:
                continue
            now = _clock()
            with suppress(Transient):
                relevance.track(await self._store.joined(now - looked + _JOIN_OVERLAP))
                looked = now

    async def _follow(self, collector: Collector, pipeline: Pipeline) -> NoReturn:
        """Connect, drink, and connect again, for ever."""
        position = collector.position
        attempts = 0
        while True:
            seq = position.seq
            outcome = await self._connection(collector, pipeline)
            metrics.RECONNECTS.labels(outcome.cause).inc()
            attempts = 0 if position.seq != seq else attempts + 1
            if outcome.forget:
                position.forget()
                self._new_epoch(EpochCause.RESET, position)
            if collector.pending:
                await pipeline.submit(collector.cut(_clock()))
            await pipeline.settle()
            await asyncio.sleep(outcome.pause(attempts, self._chance))

    async def _connection(self, collector: Collector, pipeline: Pipeline) -> Outcome:
        """Live through one connection; return how it ended, or why there was none."""
        position = collector.position
        try:
            connection = await subscribe(
                self._url, position.ask, limit=self._limit, silence=self._relay.silence
            )
        except _ABOUT_RELAY as error:
            outcome = classify(error, time.time())
            self._relay_outage.again(outcome.detail, cause=outcome.cause)
            self._changed(connected=False, reason=outcome.detail)
            return outcome
        self._relay_outage.over()
        _log.info("connected", relay=self._url, cursor=position.ask)
        position.connected(time.time())
        metrics.TAIL_CONNECTED.set(1)
        self._changed(connected=True)
        pipeline.woken = connection.wake
        try:
            await self._drink(connection, collector, pipeline)
        except _ABOUT_RELAY as error:
            outcome = classify(error, time.time())
            _log.info("disconnected", cause=outcome.cause, detail=outcome.detail)
            self._changed(connected=False, reason=outcome.detail)
            return outcome
        except Transient as error:
            self._changed(connected=False, reason=str(error))
            metrics.RECONNECTS.labels(ReconnectCause.KAFKA).inc()
            raise
        finally:
            metrics.TAIL_CONNECTED.set(0)
            metrics.TAIL_LAG.since(position.as_of)
            await connection.close()

    async def _drink(
        self, connection: Connection, collector: Collector, pipeline: Pipeline
    ) -> NoReturn:
        """Collect what the connection gives, and commit it in time; ends by raising."""
        came = _clock()
        while True:
            wait = _PATIENCE if pipeline.busy else min(collector.due_in(_clock()), _PATIENCE)
            messages = await connection.receive(wait)
            now = _clock()
            if messages:
                came = now
                collector.take(messages, now)
                collector.position.reached(time.time())
            elif now - came >= _PATIENCE:
                collector.position.caught_up(time.time())
                if not (pipeline.busy or collector.pending):
                    metrics.TAIL_LAG.settled()
            if collector.full or not pipeline.busy:
                await pipeline.settle()  # raises what failed, even if nothing more comes
                if collector.due_in(now) <= 0:
                    await pipeline.submit(collector.cut(now))
            metrics.TAIL_QUEUED_BYTES.set(collector.size + connection.queued)

    def _committed(self, cursor: Cursor) -> None:
        self._kafka_outage.over()
        self._backoff.reset()
        self._newest = cursor
        self._moved.set()

    def _changed(self, *, connected: bool, reason: str = "") -> None:
        """Note the state of the connection; ``since`` is the time of the last change."""
        since = time.time() if connected != self._state.connected else self._state.since
        self._state = RelayState(connected, since, reason)
        self._moved.set()

    async def _mirror(self) -> NoReturn:
        """Keep the newest cursor and the connection's state in Postgres, best effort."""
        mirrored: Cursor | None = None
        reported: RelayState | None = None
        report_at = 0.0
        while True:
            with anyio.move_on_after(_REPORT_EVERY):
                await self._moved.wait()
            self._moved.clear()
            state, newest = self._state, self._newest
            with suppress(Transient):
                if state != reported or _clock() >= report_at:
                    await self._store.report(self._url, state)
                    reported, report_at = state, _clock() + _REPORT_EVERY
                if newest is not None and newest != mirrored:
                    await self._store.mirror(self._url, newest)
                    mirrored = newest
            await asyncio.sleep(_MIRROR_EVERY)

    def _new_epoch(self, cause: EpochCause, position: Position) -> None:
        metrics.EPOCHS.labels(cause).inc()
        _log.warning("epoch_began", cause=cause, epoch=position.epoch)


def _stand_by() -> None:
    """Let the metrics say that somebody else tails: standing by is not being late."""
    metrics.TAIL_ACTIVE.set(0)
    metrics.TAIL_LAG.drop()


async def _first(*work: Coroutine[Any, Any, None]) -> None:
    """Wait for the first of ``work`` to end, cancel the rest, and raise what it raised."""
    tasks = {asyncio.ensure_future(coroutine) for coroutine in work}
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
    for task in done:
        task.result()
