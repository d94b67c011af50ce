"""Owning a lane: claim it, publish and work on it, resume after an outage, release it.

Kafka's group says which lanes this process should own; that alone gives no right to write.  The
claim is a compare-and-set of the lane's token, and every later transaction repeats it.

Calls go one way: a role makes an ``Owner`` with the work to do, the owner calls the work with an
``OwnedLane``, and the work uses that.

``Transient`` ends one attempt at the work: the next attempt begins from what Postgres holds.
``LaneLost`` ends the ownership: while the lane is assigned to this process, it is claimed again
with another token.  ``Fatal`` ends the process.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from uuid import UUID, uuid4

import structlog

from consumer import metrics
from consumer.errors import Transient
from consumer.kafka.topics import Topics
from consumer.lanes.errors import LaneLost
from consumer.lanes.outgoing import Outgoing
from consumer.lanes.publisher import Publisher
from consumer.lanes.transaction import LaneTransactions
from consumer.metrics.labels import Claim
from consumer.runtime.lifecycle import Backoff
from consumer.runtime.logs import Outage
from consumer.runtime.tasks import cancel, first_of, wait_for_stop
from consumer.store import deployment, lanes
from consumer.store.database import Database
from consumer.store.rows import NOBODY, RELEASED, Lane

_DRAIN_SECONDS = 4.0  # for the batch under way, and then for the publisher, after a stop
_HEALTHY_SECONDS = 30.0  # an attempt that took longer did not fail at its start

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class ClaimedLane:
    """The row of a lane right after its claim.

    ``unclean_takeover``: the last owner did not release the lane, so it died.  ``undecided``: it
    may have a Kafka transaction under way.
    """

    row: Lane
    unclean_takeover: bool
    undecided: bool


async def claim(database: Database, number: int, token: UUID) -> ClaimedLane:
    """Own lane ``number`` with ``token``, which must be unique; the same token may claim again.

    Raises ``LaneLost`` when another process was quicker, ``Transient``, and ``Fatal`` when the
    deployment is halted.
    """
    async with database.transaction() as connection:
        await deployment.require_sound(connection)
        await lanes.create(connection, number)
        seen = await lanes.read(connection, number)
        if seen is None:
            raise LaneLost(f"lane {number} has no row")
        if seen.token == token:
            return ClaimedLane(seen, unclean_takeover=False, undecided=True)
        mine = await lanes.claim(connection, number, seen.token, token)
        if mine is None:
            raise LaneLost(f"another process has claimed lane {number}")
        return ClaimedLane(
            mine,
            unclean_takeover=seen.token not in NOBODY,
            undecided=seen.token != RELEASED,
        )


async def resume(database: Database, row: Lane) -> Lane:
    """Return the lane's row as it is in Postgres now; ``row`` is what this owner committed last.

    Raises ``Transient``, and ``LaneLost`` when the lane has another owner, or lies behind ``row``:
    then Postgres is in an older state, and only a new claim proves that nothing is published that
    it does not know.
    """
    async with database.transaction() as connection:
        current = await lanes.read(connection, row.lane)
        if current is None or current.token != row.token:
            raise LaneLost(f"lane {row.lane} has another owner")
        if _behind(current, row):
            raise LaneLost(f"lane {row.lane} is not what this process committed")
        return current


def _behind(current: Lane, committed: Lane) -> bool:
    return (
        current.firehose_offset < committed.firehose_offset
        or current.backfill_offset < committed.backfill_offset
        or current.control_offset < committed.control_offset
        or current.last_out_seq < committed.last_out_seq
    )


async def release(database: Database, row: Lane, *, published: bool) -> None:
    """Give the lane up in good order; nothing happens if it has another owner.

    ``published``: Kafka has answered for all that was decided.  Raises ``Transient``.
    """
    async with database.transaction() as connection:
        await lanes.release(connection, row, published=published)


@dataclass(frozen=True, slots=True)
class OwnedLane:
    """What the work on a lane gets from the lane's owner.

    ``unclean_takeover``: the last owner died, and this is the first attempt since.
    """

    transactions: LaneTransactions
    unclean_takeover: bool
    stop: asyncio.Event
    outage: Outage

    def mark_healthy(self) -> None:
        """Note that the services answer: the work has all it needs from them."""
        self.outage.over(lane=self.transactions.row.lane)


Work = Callable[[OwnedLane], Awaitable[None]]
"""Works on a lane from what Postgres holds, until its stop is set or something breaks.

Raises ``LaneLost``, ``Transient`` or ``Fatal``; returns to be called again.
"""


class Owner:
    """Owns lane ``number`` in this process while Kafka's group assigns it, and runs ``work``."""

    def __init__(
        self, number: int, publisher: Publisher, topics: Topics, database: Database, work: Work
    ) -> None:
        self._number = number
        self._publisher = publisher
        self._topics = topics
        self._database = database
        self._work = work
        self._outage = Outage(_log, "services")

    async def run(self, stop: asyncio.Event) -> None:
        """Claim the lane, and again after each loss, until told to stop.  Raises ``Fatal``."""
        token, backoff = uuid4(), Backoff()
        while not stop.is_set():
            began = time.monotonic()
            try:
                claimed = await claim(self._database, self._number, token)
                await self._own(claimed, stop)
            except LaneLost as lost:
                _log.info("lane_lost", lane=self._number, because=str(lost))
                metrics.CLAIMS.labels(Claim.LOST).inc()
                token = uuid4()
            except Transient as error:
                self._outage.again(error, lane=self._number)
            else:
                return
            if time.monotonic() - began > _HEALTHY_SECONDS:
                backoff.reset()
            await wait_for_stop(stop, backoff.pause())

    async def _own(self, claimed: ClaimedLane, stop: asyncio.Event) -> None:
        """Publish and work until told to stop, then release the lane; raise what breaks."""
        _log.info("lane_claimed", lane=self._number, unclean_takeover=claimed.unclean_takeover)
        metrics.CLAIMS.labels(Claim.CLAIMED).inc()
        metrics.LANES_OWNED.inc()
        try:
            async with self._publisher.publishing(
                claimed.row, undecided=claimed.undecided
            ) as outgoing:
                await self._work_until_stopped(claimed, outgoing, stop)
                published = await outgoing.published(_DRAIN_SECONDS)
            await _release(self._database, claimed.row, published=published)
        finally:
            metrics.LANES_OWNED.dec()

    async def _work_until_stopped(
        self, claimed: ClaimedLane, outgoing: Outgoing, stop: asyncio.Event
    ) -> None:
        """Work until told to stop, and then to the end of the batch under way; raise what breaks.

        Raises ``LaneLost`` when the publisher finds another owner, or ``Fatal`` if it dies.
        """
        attempts = self._attempts(claimed, outgoing, stop)
        working = asyncio.create_task(attempts, name=f"work-{self._number}")
        try:
            ended: tuple[Awaitable[object], ...] = (
                asyncio.wait([working]),
                outgoing.lost(),
                stop.wait(),
            )
            await first_of(*ended)
            await asyncio.wait([working], timeout=_DRAIN_SECONDS)
            if working.done():
                working.result()
        finally:
            await cancel([working], _DRAIN_SECONDS)

    async def _attempts(
        self, claimed: ClaimedLane, outgoing: Outgoing, stop: asyncio.Event
    ) -> None:
        """Work until stopped, again after a ``Transient``.  Raises ``LaneLost``, ``Fatal``.

        Nothing is decided before the publisher has proven that the tables know what is published.
        """
        unclean_takeover, backoff = claimed.unclean_takeover, Backoff()
        row = claimed.row
        if not await outgoing.proven(stop):
            return
        while not stop.is_set():
            began = time.monotonic()
            transactions: LaneTransactions | None = None
            try:
                row = await resume(self._database, row)
                transactions = LaneTransactions(
                    self._database, row, self._topics.prefix, outgoing.hand_over
                )
                await self._work(OwnedLane(transactions, unclean_takeover, stop, self._outage))
            except LaneLost:
                raise
            except Transient as error:
                if time.monotonic() - began > _HEALTHY_SECONDS:
                    backoff.reset()
                self._outage.again(error, lane=self._number)
                await wait_for_stop(stop, backoff.pause())
            row = transactions.row if transactions else row
            unclean_takeover = False


async def _release(database: Database, row: Lane, *, published: bool) -> None:
    """Give the lane up; if that fails, the next owner takes it over as after a crash."""
    try:
        await release(database, row, published=published)
    except Transient as error:
        _log.warning("lane_not_released", lane=row.lane, error=str(error))
    else:
        metrics.CLAIMS.labels(Claim.RELEASED).inc()
