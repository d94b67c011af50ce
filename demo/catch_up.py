"""Whether the consumer has taken in everything, and published it.

Measured against the PDS's newest seq: the cursor is there, every lane has worked off its
partition of ``chive.firehose``, nothing is parked or asked for, and the outbox is empty.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from consumer.kafka.client import Client
from consumer.kafka.reader import PartitionReader, TopicPartition
from consumer.kafka.topics import Topic, Topics
from consumer.store import status
from consumer.store.database import Database
from consumer.tail.cursor import Cursor

_POLL = 0.3


@dataclass(frozen=True, slots=True)
class Behind:
    """What is still to come: frames (in seqs), frames in lanes, waiting work, outbox rows."""

    seqs: int
    lanes: int
    waiting: int
    outbox: int

    @property
    def nothing(self) -> bool:
        return not (self.seqs or self.lanes or self.waiting or self.outbox)

    def __str__(self) -> str:
        return (
            f"{self.seqs} seqs behind the PDS, {self.lanes} lanes behind the tailer, "
            f"{self.waiting} frames and lookups waiting, {self.outbox} outbox rows"
        )


async def read_cursor(client: Client, topics: Topics, relay: str) -> Cursor | None:
    """Return the durable cursor of ``relay``, None before the first."""
    place = TopicPartition(topics.name(Topic.CURSOR), 0)
    found = None
    async with await PartitionReader.open(client, {place: None}) as reader:
        _, end = (await reader.bounds())[place]
        while await reader.position(place) < end:
            for record in await reader.fetch(wait=0.2):
                if record.key == relay.encode() and record.value is not None:
                    found = Cursor.decode(record.value)
    return found


async def behind(
    client: Client, topics: Topics, database: Database, relay: str, newest: int
) -> Behind:
    """Return how far the consumer is behind the frame with seq ``newest``."""
    cursor = await read_cursor(client, topics, relay)
    async with database.transaction() as connection:
        state = await status.read(connection)
    done = {lane.lane: lane.last_seq for lane in state.lanes}
    last = cursor.last if cursor else ()
    return Behind(
        seqs=max(0, newest - (cursor.seq if cursor else 0)),
        lanes=sum(done.get(lane, 0) < seq for lane, seq in enumerate(last)),
        waiting=state.parked + state.lookups,
        outbox=sum(state.outbox.values()),
    )


async def caught_up(look: Callable[[], Awaitable[Behind]], deadline: float) -> Behind:
    """Look until nothing is left or ``deadline`` seconds have passed; return the last look."""
    give_up = time.monotonic() + deadline
    while True:
        left = await look()
        if left.nothing or time.monotonic() >= give_up:
            return left
        await asyncio.sleep(_POLL)
