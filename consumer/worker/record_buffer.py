"""The records of one lane, live frames and the fetcher's messages, in bounded portions."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from consumer import backfill
from consumer.kafka.reader import PartitionReader, Record, TopicPartition

_ROW_BYTES = 400  # a row, its event and its row of the outbox
_DIGITS = 6


class RecordBuffer:
    """Reads two partitions through one reader, and holds what was fetched and not yet taken.

    ``firehose`` and ``backfill`` are where the lane's records lie.
    """

    def __init__(
        self, reader: PartitionReader, firehose: TopicPartition, backfill: TopicPartition
    ) -> None:
        self.firehose = firehose
        self.backfill = backfill
        self._reader = reader
        self._held: dict[str, deque[Record]] = {
            place.topic: deque() for place in (firehose, backfill)
        }

    async def take(self, place: TopicPartition, *, most: int, most_bytes: int) -> list[Record]:
        """Return the next records of ``place`` that are here, at least one if there is any.

        The rows that a message speaks of count as so many bytes more (``backfill.ROWS``).
        Raises ``OffsetExpired`` and ``Transient``.
        """
        held = self._held[place.topic]
        if not held:
            held.extend(await self._reader.fetch(place, wait=0, limit=most))
        weigh = _weight if place is self.backfill else _size
        return _portion(held, most, most_bytes, weigh)

    @property
    def more(self) -> bool:
        """Whether live frames are here that nobody took."""
        return bool(self._held[self.firehose.topic])

    async def wait(self, seconds: float, limit: int) -> None:
        """Wait until records of either place are here, for at most ``seconds``."""
        for record in await self._reader.fetch(wait=seconds, limit=limit):
            self._held[record.topic].append(record)


def _portion(
    held: deque[Record], most: int, most_bytes: int, weigh: Callable[[Record], int]
) -> list[Record]:
    portion: list[Record] = []
    size = 0
    while held and len(portion) < most:
        size += weigh(held[0])
        if portion and size > most_bytes:
            break
        portion.append(held.popleft())
    return portion


def _size(record: Record) -> int:
    return len(record.value or b"")


def _weight(record: Record) -> int:
    weight = _size(record)
    for name, value in record.headers:
        if name == backfill.ROWS and value.isdigit():
            weight += _ROW_BYTES * int(value[:_DIGITS])
    return weight
