"""How many rows there are, and of which kind, in tables that are too large to be read for that.

A table above ``READ`` bytes is counted in a sample of its pages, of about that size: the answer
takes as long for a billion rows as for a million.
"""

from __future__ import annotations

from dataclasses import dataclass

from consumer.store.database import Connection

READ = 128 * 1024 * 1024

_SIZE = "SELECT pg_relation_size(%s::regclass)"


@dataclass(frozen=True, slots=True)
class Sample:
    """What of a table is read: ``clause`` goes behind its name, ``share`` is how much that is."""

    clause: str = ""
    share: float = 1.0

    @property
    def partial(self) -> bool:
        """Whether counts are estimates."""
        return self.share < 1

    def all_of(self, count: int) -> int:
        """Return about how many rows the table has, if the sample has ``count``."""
        return round(count / self.share)


async def sample_of(connection: Connection, table: str, read: int = READ) -> Sample:
    """Return what to read of ``table`` to count its rows: all of it, or about ``read`` bytes."""
    row = await (await connection.execute(_SIZE, [table])).fetchone()
    size = int(row[0]) if row else 0
    if size <= read:
        return Sample()
    share = read / size
    return Sample(f"TABLESAMPLE SYSTEM ({100 * share})", share)
