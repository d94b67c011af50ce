"""How long after the relay has written a frame its events can be read, on the same clock.

The events are read as a consumer of the topic reads them: committed records only, all partitions,
as soon as they come.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from bisect import bisect_right
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager

import orjson

from bench.deployment import Deployment
from bench.traffic import FIRST_SEQ
from consumer.kafka.reader import PartitionReader, TopicPartition
from consumer.kafka.topics import Topic

_WAIT = 0.5  # seconds


class EventReader:
    """Notes when the last event of each commit came."""

    def __init__(self, reader: PartitionReader) -> None:
        self._reader = reader
        self._seen: dict[int, float] = {}
        self._task = asyncio.create_task(self._run())

    async def close(self) -> None:
        """Read no more."""
        self._task.cancel()
        await asyncio.wait({self._task})

    async def _run(self) -> None:
        while True:
            records = await self._reader.fetch(wait=_WAIT)
            now = time.time()
            for record in records:
                if record.value is None:
                    continue  # the tombstone behind a delete
                event = orjson.loads(record.value)
                if event["type"] == "record" and event["live"]:
                    self._seen[event["seq"]] = now

    async def has_seen(self, commits: int) -> bool:
        """Tell whether events of so many commits have come.  Raises what stopped the reader."""
        if self._task.done():
            self._task.result()
        return len(self._seen) >= commits

    def lags(self, written: Sequence[tuple[float, int]]) -> tuple[float, float]:
        """Return ``percentiles`` of what has come."""
        return percentiles(self._seen, written)


@asynccontextmanager
async def reading(deployment: Deployment) -> AsyncIterator[EventReader]:
    """Read the events that are published during the block."""
    name = deployment.services.topics.name(Topic.EVENTS)
    lanes = [TopicPartition(name, lane) for lane in range(deployment.partitions)]
    client = deployment.services.client
    async with await PartitionReader.open(client, dict.fromkeys(lanes)) as reader:
        for lane, (_, end) in (await reader.bounds()).items():
            reader.seek(lane, end)
        events = EventReader(reader)
        try:
            yield events
        finally:
            await events.close()


def percentiles(
    seen: Mapping[int, float], written: Sequence[tuple[float, int]]
) -> tuple[float, float]:
    """Return p50 and p99 of the latency of commits, in ms.

    ``seen``: when the last event of each commit came, by its seq.  ``written``: when the relay
    wrote, and how many frames were written then.
    """
    ends = [frames for _, frames in written]
    lags = [
        (at - written[bisect_right(ends, seq - FIRST_SEQ)][0]) * 1e3 for seq, at in seen.items()
    ]
    found = statistics.quantiles(lags, n=100, method="inclusive")
    return found[49], found[98]
