"""Readers that share one consumer: one fetch asks for the partitions of all of them.

aiokafka has one fetch under way with a broker, and waits with the next one while records that it
has fetched are not taken.  So what comes is taken at once, each feed holds its own, and a partition
that holds more than its bound is paused.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager

import anyio

from consumer.errors import ChiveError
from consumer.kafka.client import Client
from consumer.kafka.reader import OffsetExpired, PartitionReader, Record, TopicPartition
from consumer.runtime.tasks import cancel

_WAIT = 5.0  # seconds for a fetch that brings nothing
_PATIENCE = 1.0  # seconds of a fetch in vain; a lane that comes may wait for its end
_HELD = 4 * 1024 * 1024  # bytes of one partition in memory, and one fetch beyond that


def size_of(record: Record) -> int:
    """Return the bytes of a record's value."""
    return len(record.value or b"")


class Feed:
    """The records of some partitions from given positions on, in the order of each."""

    def __init__(
        self, positions: Mapping[TopicPartition, int], has_room: Callable[[TopicPartition], None]
    ) -> None:
        self.positions = positions
        self._has_room = has_room
        self._held: dict[TopicPartition, deque[Record]] = {each: deque() for each in positions}
        self._sizes = dict.fromkeys(positions, 0)
        self._arrived = asyncio.Event()
        self._woken = False
        self._failure: ChiveError | None = None

    def holds(self, partition: TopicPartition) -> bool:
        """Tell whether records of ``partition`` have come and were not taken."""
        return bool(self._held[partition])

    def take(
        self,
        partition: TopicPartition,
        most: int,
        most_bytes: int,
        weigh: Callable[[Record], int] = size_of,
    ) -> list[Record]:
        """Return the next records of ``partition`` that are here, at least one if there is any.

        They are ``most`` records and ``most_bytes`` at most, as ``weigh`` tells them.
        Raises ``OffsetExpired``, ``Transient`` or ``Fatal`` behind the last record before them.
        """
        held, weight = self._held[partition], 0
        taken: list[Record] = []
        while held and len(taken) < most:
            weight += weigh(held[0])
            if taken and weight > most_bytes:
                break
            taken.append(held.popleft())
        self._sizes[partition] -= sum(map(size_of, taken))
        if taken:
            if self._sizes[partition] <= _HELD // 2:
                self._has_room(partition)
        elif self._failure is not None:
            raise self._failure
        return taken

    async def wait(self, seconds: float) -> None:
        """Wait until something has come, for at most ``seconds``."""
        if not (any(self._held.values()) or self._woken or self._failure is not None):
            self._arrived.clear()
            with anyio.move_on_after(seconds):
                await self._arrived.wait()

    def wake(self) -> None:
        """End the wait, and all that follow."""
        self._woken = True
        self._arrived.set()

    def put(self, partition: TopicPartition, records: list[Record]) -> bool:
        """Hold ``records``; tell whether that is more than the bound."""
        self._held[partition].extend(records)
        self._sizes[partition] += sum(map(size_of, records))
        self._arrived.set()
        return self._sizes[partition] > _HELD

    def fail(self, failure: ChiveError) -> None:
        """Let what waits for more records end with ``failure``."""
        self._failure = failure
        self._arrived.set()


class SharedReader:
    """Feeds those that need records; it reads as long as there is one."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._pump: _Pump | None = None
        self._changing = asyncio.Lock()

    @asynccontextmanager
    async def feeding(self, positions: Mapping[TopicPartition, int]) -> AsyncIterator[Feed]:
        """Feed the records from ``positions`` on during the block.

        Each partition feeds one reader at a time.  Raises ``Transient`` and ``Fatal``.
        """
        async with self._changing:
            if self._pump is None or self._pump.broken:
                reader = await PartitionReader.open(
                    self._client, {}, shared=True, patience=_PATIENCE
                )
                self._pump = _Pump(reader)
            pump = self._pump
            feed = await pump.join(positions)
        try:
            yield feed
        finally:
            async with self._changing:
                await pump.leave(feed)
                if self._pump is pump and not pump.feeds:
                    self._pump = None


class _Pump:
    """Takes what one reader fetches and gives it to its feeds, until it is broken or unused."""

    def __init__(self, reader: PartitionReader) -> None:
        self.feeds: dict[TopicPartition, Feed] = {}
        self.broken = False
        self._reader = reader
        self._task: asyncio.Task[None] | None = None

    async def join(self, positions: Mapping[TopicPartition, int]) -> Feed:
        """Begin to feed from ``positions`` on.  Raises ``Transient`` and ``Fatal``."""
        feed = Feed(positions, self._reader.resume)
        try:
            await self._reader.change(add=positions)
        except BaseException:
            await self._end_if_unused()
            raise
        self.feeds |= dict.fromkeys(positions, feed)
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="shared-reader")
        return feed

    async def leave(self, feed: Feed) -> None:
        """Feed ``feed`` no more."""
        for partition in feed.positions:
            del self.feeds[partition]
        if self.feeds and not self.broken:
            try:
                await self._reader.change(remove=feed.positions)
            except ChiveError as failure:
                self._break(failure)
        await self._end_if_unused()

    async def _end_if_unused(self) -> None:
        if not self.feeds:
            if self._task is not None:
                await cancel([self._task])
            await self._reader.close()

    async def _run(self) -> None:
        while not self.broken:
            try:
                found = await self._reader.fetch_each(wait=_WAIT)
            except OffsetExpired as expired:
                self._reader.pause(expired.partition)
                if feed := self.feeds.get(expired.partition):
                    feed.fail(expired)
            except ChiveError as failure:
                self._break(failure)
            else:
                self._hand_out(found)

    def _hand_out(self, found: Mapping[TopicPartition, list[Record]]) -> None:
        for partition, records in found.items():
            feed = self.feeds.get(partition)
            if feed is not None and feed.put(partition, records):
                self._reader.pause(partition)

    def _break(self, failure: ChiveError) -> None:
        """End all feeds with ``failure``: others begin with another reader."""
        self.broken = True
        for feed in self.feeds.values():
            feed.fail(failure)
