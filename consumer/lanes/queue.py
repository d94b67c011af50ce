"""The short way from a lane's batches to its publisher: outbox rows in memory, bounded.

Rows are put after the COMMIT that wrote them, in ``out_seq`` order, and are a copy: whatever
is lost here is read again from Postgres.  Whoever puts more than fits waits for room, so that
a Kafka that is away stops the lane instead of filling memory.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence

from consumer.runtime.tasks import until
from consumer.store.rows import OutRow

_ROW_BYTES = 256  # what a row costs beside its key and value


def size_of(row: OutRow) -> int:
    """Return roughly how many bytes of memory a row takes."""
    return len(row.key or b"") + len(row.value or b"") + _ROW_BYTES


class OutboxQueue:
    """A queue of rows; it holds at most ``max_bytes`` and what was put last."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._rows: deque[OutRow] = deque()
        self._bytes = 0
        self._arrived = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def newest(self) -> int:
        """The ``out_seq`` put last, 0 when the queue is empty."""
        return self._rows[-1].out_seq if self._rows else 0

    async def put(self, rows: Sequence[OutRow]) -> None:
        """Add the rows that follow those put before, then wait until there is room for more."""
        self._rows.extend(rows)
        self._bytes += sum(map(size_of, rows))
        self._signal()
        await self._room.wait()

    def take(self, after: int, *, max_rows: int, max_bytes: int) -> list[OutRow]:
        """Take the rows that directly follow ``out_seq`` ``after``, and at least one of them.

        Rows up to ``after`` are dropped.  An empty list means that the next row is not here.
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

    async def wait(self, seconds: float, stop: asyncio.Event) -> None:
        """Wait until rows are here, for at most ``seconds`` or until told to stop."""
        await until(self._arrived, stop, seconds)

    def release(self) -> None:
        """Drop everything and let whoever waits go."""
        self._rows.clear()
        self._bytes = 0
        self._signal()

    def _signal(self) -> None:
        for event, state in (
            (self._arrived, bool(self._rows)),
            (self._room, self._bytes <= self._max_bytes),
        ):
            if state:
                event.set()
            else:
                event.clear()
