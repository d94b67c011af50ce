"""What the lanes of a process say of themselves on ``chive.events``, all at about one moment.

Time is cut into intervals, the same for all lanes of a process: they look together, read the
tailer's cursor once, and what they say is one transaction.  A lane that takes frames says it
behind the events of its batch; one that takes none is woken.
"""

from __future__ import annotations

import asyncio
import math
import time
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from consumer import metrics
from consumer.events.envelope import Encoded
from consumer.events.progress import (
    Progress,
    SnapshotComplete,
    encode_progress,
    encode_snapshot,
)
from consumer.state.progress import LaneReport, Reached, Received, is_due
from consumer.store import progress, snapshots
from consumer.store.database import Database
from consumer.store.progress import Said
from consumer.store.snapshots import Counts, Snapshot
from consumer.worker.plan import Plan

_clock = time.monotonic
_REST = 100.0  # a look at a snapshot is followed by a rest, this many times as long


@dataclass(frozen=True, slots=True)
class Known:
    """What all lanes go by: the tailer's cursor, and the snapshot of the current scope."""

    received: Received | None = None
    snapshot: Snapshot | None = None


class Intervals:
    """The intervals of a process, each of ``every`` seconds; 0: there are none.

    ``scope`` is the digest of all that is wanted, ``patience`` the seconds for which a snapshot
    waits for a sync that fails.
    """

    def __init__(self, database: Database, every: float, scope: bytes, patience: float) -> None:
        self.every = every
        self.database = database
        self.patience = patience
        self._scope = scope
        self._reading = asyncio.Lock()
        self._read_in = -1
        self._known = Known()

    @property
    def number(self) -> int:
        """The number of the interval that runs."""
        return int(_clock() // self.every) if self.every else -1

    @property
    def rest(self) -> float:
        """The seconds until it ends."""
        return self.every - _clock() % self.every if self.every else math.inf

    async def known(self) -> Known:
        """Return what is known, as it was in this interval.  Raises ``Transient``."""
        async with self._reading:
            number = self.number
            if number != self._read_in:
                async with self.database.transaction() as connection:
                    received = await progress.received(connection)
                    self._known = Known(received, await snapshots.read(connection, self._scope))
                self._read_in = number
        return self._known


class Reporter:
    """Decides what a lane says of itself, and when.

    ``said`` is what it has said so far, by any owner.  Of no more use once a transaction has
    failed.
    """

    def __init__(self, lane: int, intervals: Intervals, said: Said) -> None:
        self._lane = lane
        self._intervals = intervals
        self._said = said
        self._said_at = -math.inf
        self._looked_in = -1
        self._queued_until: datetime | None = None  # all syncs that the snapshot waits for
        self._rest_until = -math.inf  # in which the snapshot is not looked at

    @property
    def rest(self) -> float:
        """The seconds until the lane is to look again."""
        return self._intervals.rest

    @property
    def due(self) -> bool:
        """Whether the lane has not looked in this interval."""
        return self._intervals.number != self._looked_in

    async def look(self, plan: Plan) -> None:
        """Put into ``plan``, which is whole but for that, what the lane is to say now.

        Raises ``Transient``.
        """
        self._looked_in = self._intervals.number
        known = await self._intervals.known()
        records: list[Encoded] = []
        place, found = self._said.place, plan.reached(known.received)
        since = _clock() - self._said_at
        if found is not None and is_due(found, place, since, self._intervals.every):
            place = found.place
            records.append(encode_progress(_progress(plan, found)))
        whole = await self._whole(known.snapshot, plan.now)
        if whole is not None:
            records.append(encode_snapshot(whole))
        if records:
            snapshot = None if whole is None else UUID(whole.snapshot)
            as_of = None if found is None else found.as_of
            plan.report = LaneReport(self._lane, place, as_of, snapshot, tuple(records))

    def decided(self, report: LaneReport) -> None:
        """Note that ``report`` is decided."""
        self._said = Said(report.place, report.snapshot or self._said.snapshot)
        self._said_at = _clock()
        if report.as_of is not None:
            metrics.COMPLETE_LAG.since(report.as_of, report.lane)

    async def _whole(self, snapshot: Snapshot | None, now: float) -> SnapshotComplete | None:
        """Return what to say of the snapshot if the lane has it whole, and has not said so."""
        if snapshot is None or snapshot.searched_at is None or snapshot.id == self._said.snapshot:
            return None
        if _clock() < self._rest_until:
            return None
        counts = await self._counts(snapshot.searched_at)
        if counts is None:
            return None
        return SnapshotComplete(
            lane=self._lane,
            snapshot=str(snapshot.id),
            began_at=snapshot.began_at.timestamp(),
            searched_at=snapshot.searched_at.timestamp(),
            now=now,
            repositories=counts.repositories,
            desynchronized=counts.desynchronized,
            failed=counts.failed,
            unread_hosts=snapshot.unread,
        )

    async def _counts(self, searched_at: datetime) -> Counts | None:
        """Return what the lane has once all that the search led to has ended, None before."""
        lane, patience = self._lane, self._intervals.patience
        async with self._intervals.database.transaction() as connection:
            began = _clock()
            try:
                queued = await snapshots.all_queued(connection, lane)
                if queued is None:
                    return None
                until = self._queued_until = self._queued_until or queued
                return await snapshots.whole(connection, lane, searched_at, until, patience)
            finally:
                self._rest_until = _clock() + _REST * (_clock() - began)


def _progress(plan: Plan, found: Reached) -> Progress:
    return Progress(
        lane=plan.lane,
        relay=found.relay,
        epoch=found.place.epoch,
        seq=found.place.seq,
        time=found.time,
        as_of=found.as_of,
        now=plan.now,
        parked=plan.cache.parked_frames(),
    )
