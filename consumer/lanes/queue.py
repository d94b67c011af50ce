"""The queue between a lane's transactions and its publisher: outbox rows in memory, bounded.

Rows are put in ``out_seq`` order, after the COMMIT that wrote them.  They are copies: what is
lost here is read again from Postgres.  A put that exceeds the bound waits for room, so that the
lane stops, instead of filling memory, while Kafka is away.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence

from consumer.store.rows import OutRow

_ROW_BYTES = 768  # of memory for a row and its headers, beside its key and value


def size_of(row: OutRow) -> int:
    """Return roughly how many bytes of memory a row takes."""
    return len(row.key or b"") + len(row.value or b"") + _ROW_BYTES


class OutboxQueue:
    """A queue of rows: at most ``max_bytes``, and the rows of the last put beyond that.

    ``arrived`` is set whenever rows are put.
    """

    def __init__(self, max_bytes: int, arrived: asyncio.Event) -> None:
        self._max_bytes = max_bytes
        self._arrived = arrived
        self._rows: deque[OutRow] = deque()
        self._bytes = 0
        self._room = asyncio.Event()
        self._room.set()

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def newest(self) -> int:
        """The ``out_seq`` of the last row, 0 when the queue is empty."""
        return self._rows[-1].out_seq if self._rows else 0

    async def put(self, rows: Sequence[OutRow]) -> None:
        """Add rows that follow those put before, and return when there is room for more."""
        self._rows.extend(rows)
        self._bytes += sum(map(size_of, rows))
        self._arrived.set()
        self._signal()
        await self._room.wait()

    def has_gap(self, after: int) -> bool:
        """Tell whether rows are here, and the one that follows ``after`` is missing."""
        while self._rows and self._rows[0].out_seq <= after:
            self._bytes -= size_of(self._rows.popleft())
        return bool(self._rows) and self._rows[0].out_seq != after + 1

    def take(self, after: int, max_rows: int, max_bytes: int) -> list[OutRow]:
        """Take the rows that directly follow ``out_seq`` ``after``.

        At least one row is taken, whatever its size, then as many as the bounds allow.  Rows up
        to ``after`` are dropped.  An empty list means that the next row is not in the queue.
        """
        taken: list[OutRow] = []
        size = 0
        while self._rows and self._rows[0].out_seq <= after + 1:
            row = self._rows[0]
            if row.out_seq == after + 1:
                size += size_of(row)
                if taken and (size > max_bytes or len(taken) == max_rows):
                    break
                taken.append(row)
                after += 1
            self._rows.popleft()
            self._bytes -= size_of(row)
        self._signal()
        return taken

    def release(self) -> None:
        """Drop all rows, and end the waits of ``put``."""
        self._rows.clear()
        self._bytes = 0
        self._signal()

    def _signal(self) -> None:
        if self._bytes <= self._max_bytes:
            self._room.set()
        else:
            self._room.clear()
