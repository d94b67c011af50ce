"""What one batch of a lane takes in: live frames, messages, parked frames.

Live frames come first; then a share of the fetchers' messages and a share of the parked frames
whose account's identity was looked up.  So a backfill does not starve the firehose, and the
firehose does not starve a backfill.
"""

from __future__ import annotations

from dataclasses import dataclass

from consumer.backfill import ROWS
from consumer.config.settings import WorkerSettings
from consumer.errors import Refused
from consumer.kafka.reader import Record, TopicPartition
from consumer.kafka.shared import Feed, size_of
from consumer.store import parked
from consumer.store.database import Database
from consumer.worker import incoming
from consumer.worker.cache import LaneCache
from consumer.worker.incoming import EpochNotice, IncomingFrame, MalformedRecord
from consumer.worker.poison import Alone

_ROW_BYTES = 400  # bytes of a row, its event and its row of the outbox
_DIGITS = 6
_SHARE = 4  # messages and parked frames get this part of a batch each

LiveFrame = IncomingFrame | EpochNotice | MalformedRecord


@dataclass(frozen=True, slots=True)
class Batch:
    """What one batch takes in, each in its order."""

    live: list[LiveFrame]
    messages: list[Record]
    parked: list[IncomingFrame]

    @property
    def empty(self) -> bool:
        """Whether there is nothing to do."""
        return not (self.live or self.messages or self.parked)

    @property
    def size(self) -> int:
        """Bytes taken in."""
        frames = sum(len(f.frame) for f in self.live if isinstance(f, IncomingFrame))
        messages = sum(len(record.value or b"") for record in self.messages)
        return frames + messages + sum(len(f.frame) for f in self.parked)

    @property
    def source(self) -> Alone:
        """Where the only input of the batch came from."""
        if self.live:
            return Alone.FIREHOSE
        return Alone.BACKFILL if self.messages else Alone.PARKED


class BatchReader:
    """Takes batches from a lane's topics and parked frames, within the bounds of the settings.

    ``take``, ``take_one`` and ``wait`` raise ``OffsetExpired`` and ``Transient``.
    """

    def __init__(
        self,
        feed: Feed,
        firehose: TopicPartition,
        backfill: TopicPartition,
        database: Database,
        cache: LaneCache,
        settings: WorkerSettings,
    ) -> None:
        self.backfill = backfill
        self._firehose = firehose
        self._feed = feed
        self._database = database
        self._cache = cache
        self._frames = settings.batch_frames
        self._bytes = settings.batch_bytes
        self._returned: list[LiveFrame] = []
        self._last_source = Alone.PARKED

    @property
    def drained(self) -> bool:
        """Whether every live frame that was fetched is taken."""
        return not (self._returned or self._feed.holds(self._firehose))

    async def take(self) -> Batch:
        """Return the next batch; it may be empty."""
        share = max(1, self._frames // _SHARE)
        return Batch(
            self._live(self._frames),
            self._messages(share),
            await self._parked(share),
        )

    async def take_one(self, source: Alone | None = None) -> Batch:
        """Return a batch of one input, from ``source`` or from the next source that has any."""
        for each in [source] if source else self._in_turn():
            match each:
                case Alone.FIREHOSE:
                    found = Batch(self._live(1), [], [])
                case Alone.BACKFILL:
                    found = Batch([], self._messages(1), [])
                case Alone.PARKED:
                    found = Batch([], [], await self._parked(1))
            if not found.empty:
                self._last_source = each
                return found
        return Batch([], [], [])

    def _in_turn(self) -> list[Alone]:
        sources = list(Alone)
        following = sources.index(self._last_source) + 1
        return sources[following:] + sources[:following]

    def wake(self) -> None:
        """End the wait, and all that follow."""
        self._feed.wake()

    async def wait(self, seconds: float) -> None:
        """Wait until a topic has something, for at most ``seconds``."""
        await self._feed.wait(seconds)

    def put_back(self, live: list[LiveFrame]) -> None:
        """Return ``live``, the newest frames taken, to be taken again."""
        self._returned = live + self._returned

    def _live(self, most: int) -> list[LiveFrame]:
        if self._returned:
            taken, self._returned = self._returned[:most], self._returned[most:]
            return taken
        records = self._feed.take(self._firehose, most, self._bytes)
        return [_live_frame(record) for record in records]

    def _messages(self, most: int) -> list[Record]:
        return self._feed.take(self.backfill, most, self._bytes // _SHARE, _weight)

    async def _parked(self, most: int) -> list[IncomingFrame]:
        ready = sorted(self._cache.ready())[:most]
        if not ready:
            return []
        async with self._database.transaction() as connection:
            frames = await parked.take(
                connection, ready, max_frames=most, max_bytes=self._bytes // _SHARE
            )
        return [incoming.of_parked(frame) for frame in frames]


def _weight(record: Record) -> int:
    """Return the bytes of a message, and of the rows that it leads to (header ``ROWS``)."""
    weight = size_of(record)
    for name, value in record.headers:
        if name == ROWS and value.isdigit():
            weight += _ROW_BYTES * int(value[:_DIGITS])
    return weight


def _live_frame(record: Record) -> LiveFrame:
    try:
        return incoming.notice_of(record) or incoming.of_record(record)
    except Refused as refused:
        return MalformedRecord(record, refused)
