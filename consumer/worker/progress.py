"""What the lanes of a process say of themselves on ``chive.events``, all at about one moment.

Time is cut into intervals, the same for all lanes of a process: they look together, read the
tailer's cursor once, and what they say is one transaction.  A lane that takes frames says it
behind the events of its batch; one that takes none is woken.
"""

from __future__ import annotations

import asyncio
import math
import time

from consumer import metrics
from consumer.events.progress import Progress, encode_progress
from consumer.state.progress import LaneReport, Received, is_due
from consumer.store import progress
from consumer.store.database import Database
from consumer.store.progress import Said
from consumer.worker.plan import Plan

_clock = time.monotonic


class Interval:
    """The intervals of a process, each of ``every`` seconds; 0: there are none.

    Raises nothing of its own; what is read once in an interval is read for all lanes.
    """

    def __init__(self, database: Database, every: float) -> None:
        self.every = every
        self._database = database
        self._reading = asyncio.Lock()
        self._read_in = -1
        self._received: Received | None = None

    @property
    def number(self) -> int:
        """The number of the interval that runs."""
        return int(_clock() // self.every) if self.every else -1

    @property
    def rest(self) -> float:
        """The seconds until it ends."""
        return self.every - _clock() % self.every if self.every else math.inf

    async def received(self) -> Received | None:
        """Return the tailer's cursor, as it was in this interval.  Raises ``Transient``."""
        async with self._reading:
            number = self.number
            if number != self._read_in:
                async with self._database.transaction() as connection:
                    self._received = await progress.received(connection)
                self._read_in = number
        return self._received


class Reporter:
    """Decides when a lane says how far it is.

    ``said`` is what it has said so far, by any owner.  Of no more use once a transaction has
    failed.
    """

    def __init__(self, interval: Interval, said: Said) -> None:
        self._interval = interval
        self._said = said
        self._said_at = -math.inf
        self._looked_in = -1

    @property
    def rest(self) -> float:
        """The seconds until the lane is to look again."""
        return self._interval.rest

    @property
    def due(self) -> bool:
        """Whether the lane has not looked in this interval."""
        return self._interval.number != self._looked_in

    async def look(self, plan: Plan) -> None:
        """Put into ``plan``, which is whole but for that, what the lane is to say now.

        Raises ``Transient``.
        """
        self._looked_in = self._interval.number
        found = plan.reached(await self._interval.received())
        since = _clock() - self._said_at
        if found is None or not is_due(found, self._said.place, since, self._interval.every):
            return
        said = Progress(
            lane=plan.lane,
            relay=found.relay,
            epoch=found.place.epoch,
            seq=found.place.seq,
            time=found.time,
            as_of=found.as_of,
            now=plan.now,
            parked=plan.cache.parked_frames(),
        )
        plan.report = LaneReport(plan.lane, found, None, (encode_progress(said),))

    def decided(self, report: LaneReport) -> None:
        """Note that ``report`` is decided."""
        self._said = Said(report.reached.place, report.snapshot or self._said.snapshot)
        self._said_at = _clock()
        metrics.COMPLETE_LAG.since(report.reached.as_of, report.lane)
