"""The fetched records of one lane, live frames and messages, in bounded portions."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from consumer import backfill
from consumer.kafka.reader import PartitionReader, Record, TopicPartition

_ROW_BYTES = 400  # bytes of a row, its event and its row of the outbox
_DIGITS = 6


class RecordBuffer:
    """Reads two partitions through one reader, and keeps what was fetched and not yet taken.

    ``firehose`` and ``backfill`` are the lane's partitions.
    """

    def __init__(
        self, reader: PartitionReader, firehose: TopicPartition, backfill: TopicPartition
    ) -> None:
        self.firehose = firehose
        self.backfill = backfill
        self._reader = reader
        self._held: dict[str, deque[Record]] = {
            partition.topic: deque() for partition in (firehose, backfill)
        }

    async def take(self, partition: TopicPartition, *, most: int, most_bytes: int) -> list[Record]:
        """Return the next records of ``partition`` without waiting, at least one if there is any.

        They are ``most`` records and ``most_bytes`` bytes at most.  The rows that a message
        leads to (header ``backfill.ROWS``) count as bytes too.

        Raises ``OffsetExpired`` and ``Transient``.
        """
        held = self._held[partition.topic]
        if not held:
            held.extend(await self._reader.fetch(partition, wait=0, limit=most))
        weigh = _weight if partition is self.backfill else _size
        return _portion(held, most, most_bytes, weigh)

    @property
    def more(self) -> bool:
        """Whether live frames were fetched and not taken."""
        return bool(self._held[self.firehose.topic])

    async def wait(self, seconds: float, limit: int) -> None:
        """Wait until records of either partition come, for at most ``seconds``.

        Fetches ``limit`` records at most.  Raises ``OffsetExpired`` and ``Transient``.
        """
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
