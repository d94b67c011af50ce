"""Putting chunks and proofs on ``chive.backfill``, no faster than the lanes apply them."""

from __future__ import annotations

import asyncio
from collections import defaultdict, deque

from consumer import backfill
from consumer.backfill import Chunk, Proof
from consumer.kafka.topics import Topic, Topics
from consumer.kafka.transaction import OutRecord
from consumer.kafka.writer import Writer
from consumer.store import claims
from consumer.store.database import Database

_LOOK_SECONDS = 0.25


class Injector:
    """One for all operations of the process; ``limit`` is in bytes and per lane."""

    def __init__(self, writer: Writer, topics: Topics, database: Database, limit: int) -> None:
        self._writer = writer
        self._topics = topics
        self._database = database
        self._limit = limit
        self._waiting: defaultdict[int, deque[tuple[int, int]]] = defaultdict(deque)

    async def put(self, message: Chunk | Proof) -> int:
        """Write ``message`` when there is room, and return the offset behind it."""
        lane, value = self._topics.partition_of(message.did), backfill.encode(message)
        await self._room(lane, len(value))
        name = self._topics.name(Topic.BACKFILL)
        offset = await self._writer.write(OutRecord(name, lane, message.did.encode(), value))
        self._waiting[lane].append((offset, len(value)))
        return offset + 1

    async def _room(self, lane: int, size: int) -> None:
        waiting = self._waiting[lane]
        while waiting and sum(each for _, each in waiting) + size > self._limit:
            async with self._database.transaction() as connection:
                applied = await claims.backfill_offset(connection, lane)
            while waiting and waiting[0][0] < applied:
                waiting.popleft()
            if waiting and sum(each for _, each in waiting) + size > self._limit:
                await asyncio.sleep(_LOOK_SECONDS)
