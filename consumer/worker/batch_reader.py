"""What one round of a lane takes in: live frames, messages, parked frames.

Live frames come first; then a share of the fetcher's messages and a share of the parked frames
whose account's key has come.  So a backfill starves nobody, and nobody starves a backfill.
"""

from __future__ import annotations

from dataclasses import dataclass

from consumer.config.settings import WorkerSettings
from consumer.errors import Refused
from consumer.kafka.reader import Record
from consumer.store import parked
from consumer.store.database import Database
from consumer.worker import incoming
from consumer.worker.cache import Memory
from consumer.worker.incoming import Arrival
from consumer.worker.poison import Alone
from consumer.worker.record_buffer import Feed

_SHARE = 4  # messages and parked frames get this part of a batch each


@dataclass(frozen=True, slots=True)
class Headless:
    """A record of the firehose that no tailer wrote."""

    record: Record
    refused: Refused


@dataclass(frozen=True, slots=True)
class Round:
    """What one round took, each in its order."""

    live: list[Arrival | Headless]
    messages: list[Record]
    parked: list[Arrival]

    def __bool__(self) -> bool:
        return bool(self.live or self.messages or self.parked)

    @property
    def size(self) -> int:
        """Bytes taken in."""
        frames = sum(len(a.frame) for a in self.live if isinstance(a, Arrival))
        messages = sum(len(record.value or b"") for record in self.messages)
        return frames + messages + sum(len(a.frame) for a in self.parked)

    @property
    def source(self) -> Alone:
        """Where the only input of the round came from."""
        if self.live:
            return Alone.FIREHOSE
        return Alone.BACKFILL if self.messages else Alone.PARKED


class Intake:
    """Takes rounds from the lane's topics and parked frames, within the bounds of the settings."""

    def __init__(
        self, feed: Feed, database: Database, memory: Memory, settings: WorkerSettings
    ) -> None:
        self.feed = feed
        self._database = database
        self._memory = memory
        self._frames = settings.batch_frames
        self._bytes = settings.batch_bytes
        self._returned: list[Arrival | Headless] = []

    @property
    def drained(self) -> bool:
        """Whether every live frame that is here was taken."""
        return not (self._returned or self.feed.more)

    async def take(self) -> Round:
        """Return a full round; it may be empty."""
        share = max(1, self._frames // _SHARE)
        return Round(
            await self._live(self._frames),
            await self._messages(share),
            await self._parked(share),
        )

    async def take_one(self, source: Alone | None = None) -> Round:
        """Return a round of one input, from ``source`` or the first that has any."""
        for each in [source] if source else Alone:
            match each:
                case Alone.FIREHOSE:
                    found = Round(await self._live(1), [], [])
                case Alone.BACKFILL:
                    found = Round([], await self._messages(1), [])
                case Alone.PARKED:
                    found = Round([], [], await self._parked(1))
            if found:
                return found
        return Round([], [], [])

    async def wait(self, seconds: float) -> None:
        """Wait until a topic has something, for at most ``seconds``."""
        await self.feed.wait(seconds, self._frames)

    def put_back(self, live: list[Arrival | Headless]) -> None:
        """Take ``live``, the newest frames taken, another time."""
        self._returned = live + self._returned

    async def _live(self, most: int) -> list[Arrival | Headless]:
        if self._returned:
            taken, self._returned = self._returned[:most], self._returned[most:]
            return taken
        feed = self.feed
        records = await feed.take(feed.firehose, most=most, most_bytes=self._bytes)
        return [_arrival(record) for record in records]

    async def _messages(self, most: int) -> list[Record]:
        feed = self.feed
        return await feed.take(feed.backfill, most=most, most_bytes=self._bytes // _SHARE)

    async def _parked(self, most: int) -> list[Arrival]:
        ready = sorted(self._memory.ready())[:most]
        if not ready:
            return []
        async with self._database.transaction() as connection:
            frames = await parked.take(
                connection, ready, max_frames=most, max_bytes=self._bytes // _SHARE
            )
        return [incoming.of_parked(frame) for frame in frames]


def _arrival(record: Record) -> Arrival | Headless:
    try:
        return incoming.of_record(record)
    except Refused as refused:
        return Headless(record, refused)
