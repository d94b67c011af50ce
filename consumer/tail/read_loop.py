"""The read loop: connect to the relay, read until the connection ends, connect again.

- Whatever goes wrong with the relay, the next connection starts at the position reached.
- Whatever goes wrong with Kafka ends the loop: the position must be read again.
- While a full transaction waits for Kafka the socket is not read: what is held is bounded by
  two transactions and ``subscription.HIGH_WATER``, each plus one read from the socket.
"""

from __future__ import annotations

import asyncio
import random
import time
from typing import NoReturn

import structlog

from consumer import metrics
from consumer.config.settings import RelaySettings
from consumer.errors import Transient
from consumer.metrics.labels import EpochCause, ReconnectCause
from consumer.network.proxy import Proxy
from consumer.runtime.logs import Outage
from consumer.tail.collector import Collector, report_epoch
from consumer.tail.failover import Failover
from consumer.tail.mirror import Mirror
from consumer.tail.outcomes import ABOUT_RELAY, Outcome, classify
from consumer.tail.pipeline import Pipeline
from consumer.tail.subscription import Connection, subscribe

_ENOUGH = 256 * 1024  # bytes that are taken before a transaction is due
_CAUGHT_UP = 1.0  # seconds without a message after which the relay has nothing more for us

_log = structlog.get_logger()
_clock = time.monotonic


class ReadLoop:
    """Fills ``collector`` from one relay, and commits what it holds through ``pipeline``.

    The relay is the current one of ``failover``, which learns when it is read.  ``frame_limit``
    is in bytes; ``proxy`` is None for direct connections; ``outage`` logs failed attempts to
    connect, ``mirror`` shows the state of the connection, ``chance`` draws the jitter of pauses.
    """

    def __init__(
        self,
        relay: RelaySettings,
        failover: Failover,
        collector: Collector,
        pipeline: Pipeline,
        outage: Outage,
        mirror: Mirror,
        chance: random.Random,
        *,
        frame_limit: int,
        proxy: Proxy | None = None,
    ) -> None:
        self._url = failover.current
        self._failover = failover
        self._silence = relay.silence
        self._collector = collector
        self._position = collector.position
        self._pipeline = pipeline
        self._outage = outage
        self._mirror = mirror
        self._limit = frame_limit
        self._proxy = proxy
        self._chance = chance

    async def run(self) -> NoReturn:
        """Read until cancelled.  Raises ``Fenced``, ``OutcomeUnknown`` or ``Fatal``."""
        collector, pipeline, position = self._collector, self._pipeline, self._position
        attempts = 0
        while True:
            seq = position.seq
            outcome = await self._connection()
            metrics.RECONNECTS.labels(outcome.cause).inc()
            attempts = 0 if position.seq != seq else attempts + 1
            if outcome.denied and position.denied(time.time()):
                position.forget()
                report_epoch(EpochCause.RESET, position.epoch)
            if collector.pending:
                await pipeline.submit(collector.cut(_clock()))
            await pipeline.settle()
            await asyncio.sleep(outcome.pause(attempts, self._chance))

    async def _connection(self) -> Outcome:
        """Read one connection to its end; return how it ended, or why there was none."""
        position = self._position
        try:
            connection = await subscribe(
                self._url,
                position.ask,
                limit=self._limit,
                silence=self._silence,
                proxy=self._proxy,
            )
        except ABOUT_RELAY as error:
            outcome = classify(error, time.time())
            self._outage.again(outcome.detail, cause=outcome.cause.value, relay=self._url)
            self._mirror.disconnected(outcome.detail)
            return outcome
        self._outage.over()
        _log.info("relay_connected", relay=self._url, cursor=position.ask)
        position.connected(time.time())
        self._collector.connected(_clock())
        metrics.TAIL_CONNECTED.set(1)
        self._mirror.connected()
        self._pipeline.woken = connection.wake
        try:
            await self._read(connection)
        except ABOUT_RELAY as error:
            outcome = classify(error, time.time())
            _log.info("relay_disconnected", cause=outcome.cause.value, detail=outcome.detail)
            self._mirror.disconnected(outcome.detail)
            return outcome
        except Transient as error:
            self._mirror.disconnected(str(error))
            metrics.RECONNECTS.labels(ReconnectCause.KAFKA).inc()
            raise
        finally:
            metrics.TAIL_CONNECTED.set(0)
            metrics.TAIL_LAG.since(position.as_of)
            await connection.close()

    async def _read(self, connection: Connection) -> NoReturn:
        """Collect what the connection gives, and commit it in time; ends by raising."""
        collector, pipeline = self._collector, self._pipeline
        newest = _clock()
        seq = collector.position.seq
        while True:
            wait = _CAUGHT_UP if pipeline.busy else min(collector.due_in(_clock()), _CAUGHT_UP)
            # What comes before the transaction is due is taken when it is due, at one go.
            messages = await connection.receive(wait, _ENOUGH if collector.lingers else 0)
            now = _clock()
            if messages:
                newest = now
                collector.take(messages, now)
                collector.position.reached(time.time())
            elif now - newest >= _CAUGHT_UP:
                collector.position.caught_up(time.time())
                if not (pipeline.busy or collector.pending):
                    metrics.TAIL_LAG.settled()
                    self._mirror.caught_up(collector.position)
            if collector.position.seq != seq or now - newest >= self._silence:
                seq = collector.position.seq
                self._failover.read(now)
            if collector.full or not pipeline.busy:
                await pipeline.settle()  # raises what failed, even if nothing more comes
                if collector.due_in(now) <= 0:
                    await pipeline.submit(collector.cut(now))
            metrics.TAIL_QUEUED_BYTES.set(collector.size + connection.queued)
