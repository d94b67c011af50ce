"""The records of one lane, live frames and the fetcher's messages, in bounded portions."""

from __future__ import annotations

from collections import deque

from consumer.kafka.reader import PartitionReader, Place, Record


class Feed:
    """Reads two partitions through one reader, and holds what was fetched and not yet taken.

    ``firehose`` and ``backfill`` are where the lane's records lie.
    """

    def __init__(self, reader: PartitionReader, firehose: Place, backfill: Place) -> None:
        self.firehose = firehose
        self.backfill = backfill
        self._reader = reader
        self._held: dict[str, deque[Record]] = {
            place.topic: deque() for place in (firehose, backfill)
        }

    async def take(self, place: Place, *, most: int, most_bytes: int) -> list[Record]:
        """Return the next records of ``place`` that are here, at least one if there is any.

        Raises ``OffsetLost`` and ``Transient``.
        """
        held = self._held[place.topic]
        if not held:
            held.extend(await self._reader.fetch(place, wait=0, limit=most))
        return _portion(held, most, most_bytes)

    @property
    def more(self) -> bool:
        """Whether live frames are here that nobody took."""
        return bool(self._held[self.firehose.topic])

    async def wait(self, seconds: float, limit: int) -> None:
        """Wait until records of either place are here, for at most ``seconds``."""
        for record in await self._reader.fetch(wait=seconds, limit=limit):
            self._held[record.topic].append(record)


def _portion(held: deque[Record], most: int, most_bytes: int) -> list[Record]:
    portion: list[Record] = []
    size = 0
    while held and len(portion) < most:
        size += len(held[0].value or b"")
        if portion and size > most_bytes:
            break
        portion.append(held.popleft())
    return portion
