"""The tailer: the relay's firehose into ``chive.firehose``, without a hole and without a copy.

One of all tailers leads: the one that holds the only partition of ``chive.cursor``.  The others
stand by.  The leader opens the producer (which fences its predecessor), reads the durable
position behind a barrier, finds out which repositories are tracked, and follows the relay: frames
and cursor in one Kafka transaction, the next one collected while the last is committed.

- Whatever goes wrong with Kafka, everything held is dropped and read again from the durable
  position: the cursor never passes a frame that is not in the topic.
- Of several relays one is read (``failover.py``).  A switch begins an epoch, at the cursor of the
  relay that is read next: everything is opened anew, as after a restart with other settings.
- Fenced by another tailer, it leaves the group and waits until it is assigned again.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import NoReturn

import structlog

from consumer import metrics
from consumer.config.settings import RelaySettings
from consumer.errors import Transient
from consumer.kafka.client import Client
from consumer.kafka.membership import Membership
from consumer.kafka.topics import Topic, Topics
from consumer.kafka.transaction import Fenced, TransactionalProducer
from consumer.metrics.labels import EpochCause, Service
from consumer.network.proxy import Proxy
from consumer.runtime.lifecycle import Backoff
from consumer.runtime.logs import Outage
from consumer.runtime.tasks import Stopped, first_of, unless_stopped
from consumer.scope import Scope
from consumer.tail.collector import Collector
from consumer.tail.cursor import Cursor, Position, resume
from consumer.tail.failover import Failover, last_read
from consumer.tail.mirror import Mirror, RelayState
from consumer.tail.pipeline import Pipeline
from consumer.tail.probe import answers
from consumer.tail.read_loop import ReadLoop
from consumer.tail.relevance import Relevance
from consumer.tail.tracked import track_unread

ROLE = "tailer"
# Seconds.
_JOIN_EVERY, _JOIN_REST = 2.0, 50.0  # seconds; the latter: as many times as long as it took
_WATCH_EVERY = 0.5
_JOIN_OVERLAP = 180.0  # longer than any transaction that may show a repository late
_CLOSE_SECONDS = 15.0  # longer than closing the connections of a leader takes

_log = structlog.get_logger()
_clock = time.monotonic


@dataclass(frozen=True, slots=True)
class Store:
    """What the tailer needs from Postgres, as functions that raise ``Transient``.

    ``tracked``: the DIDs of all repositories that the workers know, in portions; those that they
    come to know meanwhile may be missing.  ``joined``: those that they have come to know in the
    last seconds, at least as many as the argument says.
    ``consumed``: by partition of ``chive.firehose``, the offset that its worker reads next.
    ``mirror``: keep the cursor of a relay for people to see.  ``report``: keep the state of the
    connection to it likewise.
    """

    tracked: Callable[[], AsyncIterator[Collection[str]]]
    joined: Callable[[float], Awaitable[set[str]]]
    consumed: Callable[[], Awaitable[Mapping[int, int]]]
    mirror: Callable[[str, Cursor], Awaitable[None]]
    report: Callable[[str, RelayState], Awaitable[None]]


class Tailer:
    """One member of the group of tailers.

    ``frame_limit`` is in bytes; ``proxy`` is None for direct connections.
    """

    def __init__(
        self,
        relay: RelaySettings,
        scope: Scope,
        client: Client,
        topics: Topics,
        store: Store,
        *,
        frame_limit: int,
        proxy: Proxy | None = None,
    ) -> None:
        self._relay = relay
        self._failover: Failover | None = None
        self._going_round = False  # from one relay that cannot be read to the next
        self._scope = scope
        self._client = client
        self._topics = topics
        self._store = store
        self._limit = frame_limit
        self._proxy = proxy
        self._chance = random.Random()  # noqa: S311 - jitter
        self._relay_outage = Outage(_log, "relay")
        self._kafka_outage = Outage(_log, "kafka")
        self._backoff = Backoff()
        self._mirror = Mirror(store.mirror, store.report)

    async def run(self, stop: asyncio.Event) -> None:
        """Lead whenever the group assigns it, until told to stop.

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
                    await self._lead(membership)
                except Fenced:
                    _log.warning("producer_fenced", role=ROLE)
                    _stand_by()
                    membership.rejoin()
                except Transient as error:
                    self._kafka_outage.again(error)
                    metrics.WAITS.labels(Service.KAFKA).inc()
                    await asyncio.sleep(self._backoff.pause())

    async def _lead(self, membership: Membership) -> None:
        """Tail until the group has given the partition to another member."""
        lost_leadership = membership.until(lambda assigned: 0 not in assigned)
        metrics.TAIL_ACTIVE.set(1)
        self._failover, self._going_round = None, False  # another member may have led since
        await first_of(
            self._follow(), self._mirror.run(), lost_leadership, cancel_seconds=_CLOSE_SECONDS
        )
        _log.info("leadership_lost", role=ROLE)
        _stand_by()

    async def _follow(self) -> NoReturn:
        """Tail one relay after the other, each until another one is to be read."""
        while True:
            await self._tail()

    async def _tail(self) -> None:
        async with await TransactionalProducer.open(self._client, ROLE) as producer:
            cursors = await self._cursors(producer)
            failover = self._failover = self._failover or self._begin_with(cursors)
            url = failover.current
            self._mirror.follow(url)
            if (stored := cursors.get(url)) is not None:
                self._mirror.committed(stored)  # an earlier tailer may not have shown it
            position, cause = self._position(cursors, url)
            looked, relevance = _clock(), await self._relevance()
            collector = Collector(
                url,
                self._topics,
                relevance,
                position,
                self._limit,
                cause,
                linger=self._relay.linger,
            )
            pipeline = Pipeline(producer, self._committed)
            loop = ReadLoop(
                self._relay,
                failover,
                collector,
                pipeline,
                self._relay_outage,
                self._mirror,
                self._chance,
                frame_limit=self._limit,
                proxy=self._proxy,
            )
            if not self._going_round:
                _log.info(
                    "tailing_started",
                    relay=url,
                    epoch=position.epoch,
                    cursor=position.ask,
                    tracked=relevance.tracked,
                )
            try:
                await first_of(
                    loop.run(),
                    self._join(relevance, looked),
                    self._watch(failover, pipeline),
                    cancel_seconds=_CLOSE_SECONDS,
                )
            finally:
                await pipeline.close()

    async def _watch(self, failover: Failover, pipeline: Pipeline) -> None:
        """Probe the relays that are preferred to the current one; end when another is chosen."""
        limit, silence = self._limit, self._relay.silence
        while True:
            await asyncio.sleep(_WATCH_EVERY)
            for relay in failover.to_probe(_clock()):
                well = await answers(relay, limit=limit, silence=silence, proxy=self._proxy)
                failover.probed(relay, _clock(), well=well)
            now = _clock()
            if pipeline.busy:
                failover.read(now)  # what is not read while Kafka takes its time is not amiss
            before, chosen = failover.current, failover.choose(now)
            if chosen != before:
                metrics.RELAY_SWITCHES.inc()
                self._going_round = failover.in_vain  # the outage says so, once a minute
                if not self._going_round:
                    _log.warning("relay_switched", relay=chosen, before=before)
                failover.switch(chosen, now)
                return

    def _begin_with(self, cursors: Mapping[str, Cursor]) -> Failover:
        relays = self._relay.relays
        return Failover(
            relays,
            last_read({url: cursor.epoch for url, cursor in cursors.items()}, relays),
            _clock(),
            failover_after=self._relay.failover_after,
            return_after=self._relay.return_after,
        )

    async def _cursors(self, producer: TransactionalProducer) -> Mapping[str, Cursor]:
        """Return the durable cursors of all relays by URL."""
        stored = await producer.durable(self._topics.name(Topic.CURSOR), 0)
        return {url.decode(): Cursor.decode(value) for url, value in stored.items()}

    def _position(
        self, cursors: Mapping[str, Cursor], relay: str
    ) -> tuple[Position, EpochCause | None]:
        return resume(
            cursors,
            relay,
            self._topics.partitions,
            start=self._relay.first_cursor,
            now=time.time(),
            confirm=self._relay.future_cursor_confirm,
            shard=str(self._scope.shard),
        )

    async def _relevance(self) -> Relevance:
        relevance = Relevance(self._scope, forward_all=self._relay.forward == "all")
        if relevance.selective:
            offsets = await self._store.consumed()
            async for dids in self._store.tracked():
                relevance.track(dids)
            await track_unread(self._client, self._topics, offsets, relevance)
        return relevance

    async def _join(self, relevance: Relevance, looked: float) -> NoReturn:
        """Track repositories that joined without a frame of ours, by a sync, from ``looked`` on.

        What such a repository commits before that was not forwarded: the next commit that is
        shows the gap, and another sync closes it.
        """
        took = 0.0
        while True:
            await asyncio.sleep(max(_JOIN_EVERY, _JOIN_REST * took))
            if not relevance.selective:
                continue
            now = _clock()
            with suppress(Transient):
                relevance.track(await self._store.joined(now - looked + _JOIN_OVERLAP))
                looked, took = now, _clock() - now

    def _committed(self, cursor: Cursor) -> None:
        self._kafka_outage.over()
        self._backoff.reset()
        self._mirror.committed(cursor)


def _stand_by() -> None:
    """Let the metrics say that another process tails: standing by is not being late."""
    metrics.TAIL_ACTIVE.set(0)
    metrics.TAIL_LAG.drop()
