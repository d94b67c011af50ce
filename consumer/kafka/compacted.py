"""Read a small compacted partition: to its end, and up to a barrier."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Self

from consumer.kafka.client import Client, deadline
from consumer.kafka.reader import PartitionReader, Record, TopicPartition
from consumer.runtime.closing import Closing

BARRIER = b"\x00barrier"


class CompactedPartition(Closing):
    """What a partition says as far as it was read.  Open with ``open``, always close.

    ``values``: the newest value of every key but those of tombstones and barriers.  ``barrier``:
    the newest barrier, None before the first.
    """

    def __init__(self, client: Client, reader: PartitionReader, place: TopicPartition) -> None:
        self.values: dict[bytes, bytes] = {}
        self.barrier: bytes | None = None
        self._client = client
        self._reader = reader
        self._place = place

    @classmethod
    async def open(cls, client: Client, topic: str, partition: int) -> Self:
        """Begin at the start of the partition.  Raises ``Transient`` and ``Fatal``."""
        place = TopicPartition(topic, partition)
        return cls(client, await PartitionReader.open(client, {place: None}), place)

    async def read_to_end(self) -> None:
        """Read what is committed now.  Raises ``Transient`` and ``Fatal``."""
        async with deadline(self._client.timeout, f"reading {self._place.topic}"):
            async for page in self._reader.until_end():
                self._take(page)

    async def read_to(self, barrier: bytes) -> None:
        """Read until ``barrier`` appears.  Raises ``Transient`` if it does not in time."""
        async with deadline(self._client.timeout, f"reading {self._place.topic}"):
            while self.barrier != barrier:
                self._take(await self._reader.fetch(self._place, wait=1.0))

    async def close(self) -> None:
        """Release the connections."""
        await self._reader.close()

    def _take(self, page: Iterable[Record]) -> None:
        for record in page:
            if record.key is None:
                continue
            if record.key == BARRIER:
                self.barrier = record.value
            elif record.value is None:
                self.values.pop(record.key, None)
            else:
                self.values[record.key] = record.value
