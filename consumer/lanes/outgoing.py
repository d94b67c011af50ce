"""What one lane has decided and the publisher brings to Kafka; the lane's owner hands it over."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import NoReturn

from consumer.lanes.backlog import Backlog
from consumer.lanes.errors import LaneLost
from consumer.lanes.queue import OutboxQueue
from consumer.runtime.tasks import first_of, joined
from consumer.store.rows import Lane, OutRow


class Outgoing:
    """The rows of a lane as long as the lane has the token of ``lane``, its row at the claim.

    ``undecided``: an earlier owner may have a Kafka transaction under way.  ``max_bytes`` of rows
    in memory; ``arrived`` is set whenever rows are handed over.
    """

    def __init__(
        self, lane: Lane, max_bytes: int, arrived: asyncio.Event, *, undecided: bool
    ) -> None:
        self.lane = lane
        self.undecided = undecided
        self.queue = OutboxQueue(max_bytes, arrived)
        self._backlog = Backlog(lane.lane)
        self._proven = asyncio.Event()
        self._settled = asyncio.Event()
        self._end: asyncio.Future[NoReturn] = asyncio.get_running_loop().create_future()

    # -- the owner's side ---------------------------------------------------------------

    async def proven(self, stop: asyncio.Event) -> bool:
        """Wait until the tables have proven that they know what is published.

        Until then nothing may be decided.  Returns False when told to stop before.
        """
        await first_of(self._proven.wait(), stop.wait())
        return self._proven.is_set()

    async def hand_over(self, rows: Sequence[OutRow]) -> None:
        """Take rows of a transaction that has committed, and return when there is room for more.

        Raises ``LaneLost`` when the lane has another owner or ``end`` was called.
        """
        if rows and not self.over:
            self.waits_through(rows[-1].out_seq)
            await self.queue.put(rows)
        if self.over:
            raise LaneLost(f"the lane {self.lane.lane} is published by another owner")

    async def published(self, seconds: float) -> bool:
        """Wait at most ``seconds``; tell whether Kafka has answered for all that was decided."""
        try:
            async with asyncio.timeout(seconds):
                await first_of(self._settled.wait(), asyncio.wait([self._end]))
        except TimeoutError:
            return False
        return not self.over

    async def lost(self) -> None:
        """Wait for the end, and raise its reason: ``LaneLost``, or what the publisher died of."""
        await joined(self._end)

    # -- the publisher's side -----------------------------------------------------------

    @property
    def over(self) -> bool:
        """Whether nothing more is published for this owner."""
        return self._end.done()

    def begins_at(self, out_seq: int, decided: int) -> None:
        """Note that the tables have proven to know ``out_seq``, the newest that is published."""
        self.published_through(out_seq)
        self.waits_through(decided)
        self._proven.set()

    def waits_through(self, out_seq: int) -> None:
        """Note that rows up to ``out_seq`` are decided."""
        self._backlog.decided(out_seq, time.time())
        if not self._backlog.empty:
            self._settled.clear()

    def published_through(self, out_seq: int) -> None:
        """Note that rows up to ``out_seq`` are in Kafka."""
        self._backlog.published(out_seq)
        if self._backlog.empty:
            self._settled.set()

    def end(self, reason: BaseException) -> None:
        """Publish nothing more for this owner, because of ``reason``."""
        if not self.over:
            self._end.set_exception(reason)
            self._end.exception()  # seen, so that asyncio does not log it as lost
            self.queue.release()
            self._backlog.end()
