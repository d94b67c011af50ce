"""Writing chunks and proofs to ``chive.backfill``, no faster than the lanes apply them.

What a request to Kafka and a transaction of the worker cost does not depend on how much is in
them.  So small chunks that follow one another closely are written together: the first goes at
once, those within ``_GATHER`` seconds wait for each other.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict, deque
from dataclasses import dataclass, field

from consumer import backfill, metrics
from consumer.backfill import AccountAnswer, Chunk, Forget, IdentityAnswer, Proof
from consumer.kafka.topics import Topic, Topics
from consumer.kafka.transaction import OutRecord
from consumer.kafka.writer import Writer
from consumer.store.database import Database
from consumer.store.operations import claims

_POLL_SECONDS = 0.25  # between two looks at how far a lane is
_GATHER = 0.05  # seconds
_SMALL = 64 * 1024  # bytes


@dataclass(slots=True)
class _Lane:
    """What was written to a lane and is not known to be applied: offsets and sizes in bytes."""

    waiting: deque[tuple[int, int]] = field(default_factory=deque)
    size: int = 0

    def add(self, offset: int, size: int) -> None:
        self.waiting.append((offset, size))
        self.size += size

    def applied(self, below: int) -> None:
        while self.waiting and self.waiting[0][0] < below:
            self.size -= self.waiting.popleft()[1]


class _Bursts:
    """Lets what comes within ``_GATHER`` seconds go together; the first of all goes at once."""

    def __init__(self) -> None:
        self._next = 0.0
        self._waiting: asyncio.Event | None = None

    async def turn(self) -> None:
        """Wait for the next burst."""
        loop = asyncio.get_running_loop()
        if self._waiting is None:
            if loop.time() >= self._next:
                self._next = loop.time() + _GATHER
                return
            self._waiting = asyncio.Event()
            loop.call_at(self._next, self._begin)
        await self._waiting.wait()

    def _begin(self) -> None:
        self._next = asyncio.get_running_loop().time() + _GATHER
        if self._waiting is not None:
            self._waiting.set()
            self._waiting = None


class Injector:
    """Shared by all operations of the process; ``limit``: bytes in each lane not applied yet."""

    def __init__(self, writer: Writer, topics: Topics, database: Database, limit: int) -> None:
        self._writer = writer
        self._topics = topics
        self._database = database
        self._limit = limit
        self._lanes: defaultdict[int, _Lane] = defaultdict(_Lane)
        self._bursts = _Bursts()

    async def put(
        self,
        message: AccountAnswer | Chunk | Proof | Forget,
        *,
        rows: int = 0,
        before: IdentityAnswer | None = None,
    ) -> int:
        """Write ``message`` when there is room, and return the offset behind it.

        ``rows``: how many known records it may cover beside those in it.  ``before`` is written
        before it.  Raises ``Transient`` when Kafka or Postgres is away.
        """
        number, value = self._topics.partition_of(message.did), backfill.encode(message)
        lane = self._lanes[number]
        await self._room(number, lane, len(value))
        name, key = self._topics.name(Topic.BACKFILL), message.did.encode()
        headers = ((backfill.ROWS, b"%d" % rows),) if rows else ()
        records = [OutRecord(name, number, key, value, headers)]
        if before is not None:
            records.insert(0, OutRecord(name, number, key, backfill.encode(before)))
        if isinstance(message, Chunk) and len(value) <= _SMALL:
            await self._bursts.turn()
        offset = await self._writer.write(*records)
        lane.add(offset, len(value))
        metrics.INJECTED_BYTES.inc(len(value))
        return offset + 1

    async def applied(self, did: str, offset: int, seconds: float) -> bool:
        """Wait until the lane of ``did`` is at ``offset``; False if it is not in ``seconds``."""
        number = self._topics.partition_of(did)
        give_up = time.monotonic() + seconds
        while True:
            async with self._database.transaction() as connection:
                if await claims.backfill_offset(connection, number) >= offset:
                    return True
            if time.monotonic() >= give_up:
                return False
            await asyncio.sleep(_POLL_SECONDS)

    async def _room(self, number: int, lane: _Lane, size: int) -> None:
        """Wait until ``size`` more bytes are within the limit, or everything is applied."""
        while lane.waiting and lane.size + size > self._limit:
            async with self._database.transaction() as connection:
                lane.applied(await claims.backfill_offset(connection, number))
            if lane.waiting and lane.size + size > self._limit:
                await asyncio.sleep(_POLL_SECONDS)
