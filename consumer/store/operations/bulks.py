"""Parents that have not ended: what they selected, how far that is expanded, their children.

A row of ``bulks`` is there as long as its operation has not ended.  A child is *counted* once it
has ended and is in its parent's counts: what is not counted is open, or ended just now.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from consumer.store.arrays import Texts
from consumer.store.database import Connection
from consumer.store.operations.rows import COLUMNS, of_row
from procedures import selections
from procedures.operations import Operation
from procedures.selections import Selection

_OPEN = "INSERT INTO bulks (operation, selection, opened_at) VALUES (%s, %s, clock_timestamp())"
_OLDEST = """
SELECT operation, selection, expected, after, selected FROM bulks
ORDER BY opened_at, operation LIMIT %s
"""
_MOVE = """
UPDATE bulks SET expected = %(expected)s, after = %(after)s, selected = %(selected)s
WHERE operation = %(operation)s
"""
_CLOSE = "DELETE FROM bulks WHERE operation = %s"
_COUNT_ENDED = f"""
UPDATE operations SET counted = true WHERE id IN (
    SELECT id FROM operations
    WHERE parent = %s AND NOT counted AND status IN ('completed', 'failed', 'cancelled')
    ORDER BY id LIMIT %s FOR UPDATE
)
RETURNING {COLUMNS}
"""  # noqa: S608 - our own columns
_UNCOUNTED = """
SELECT parent, count(*) FROM operations WHERE parent = ANY(%s) AND NOT counted GROUP BY parent
"""
_CHILDREN = f"""
SELECT {COLUMNS} FROM operations
WHERE parent = %s AND NOT counted AND status IN ('queued', 'running') ORDER BY id FOR UPDATE
"""  # noqa: S608


@dataclass(frozen=True, slots=True)
class Bulk:
    """A parent that has not ended.

    ``expected``: how many children it will have, None if that is not known; ``after``: the last
    DID that was looked at; ``selected``: all are chosen.
    """

    operation: str
    selection: Selection
    expected: int | None = None
    after: str = ""
    selected: bool = False


async def begin(connection: Connection, operation: str, selection: Selection) -> None:
    """Remember what the parent ``operation`` is for."""
    await connection.execute(_OPEN, [operation, Jsonb(selections.to_fields(selection))])


async def oldest(connection: Connection, most: int) -> list[Bulk]:
    """Return the parents that have not ended, the oldest first, up to ``most``."""
    rows = await (await connection.execute(_OLDEST, [most])).fetchall()
    return [
        Bulk(operation, selections.of_fields(fields), expected, after, selected)
        for operation, fields, expected, after, selected in rows
    ]


async def move(connection: Connection, bulk: Bulk) -> None:
    """Remember how far the expansion is."""
    parameters = {
        "operation": bulk.operation,
        "expected": bulk.expected,
        "after": bulk.after,
        "selected": bulk.selected,
    }
    await connection.execute(_MOVE, parameters)


async def end(connection: Connection, operation: str) -> None:
    """Forget the parent ``operation``: it has ended."""
    await connection.execute(_CLOSE, [operation])


async def count_ended(connection: Connection, operation: str, most: int) -> list[Operation]:
    """Return children that have ended and were not counted yet, up to ``most``; each once."""
    async with connection.cursor(binary=True, row_factory=dict_row) as cursor:
        await cursor.execute(_COUNT_ENDED, [operation, most])
        return [of_row(row) for row in await cursor.fetchall()]


async def uncounted(connection: Connection, operations: Sequence[str]) -> dict[str, int]:
    """Return how many children of each are open, or have ended and are not counted; 0 left out."""
    rows = await (await connection.execute(_UNCOUNTED, [Texts(operations)])).fetchall()
    return {operation: int(count) for operation, count in rows}


async def open_children(connection: Connection, operation: str) -> Sequence[Operation]:
    """Return the children that have not ended, locked until COMMIT."""
    async with connection.cursor(binary=True, row_factory=dict_row) as cursor:
        await cursor.execute(_CHILDREN, [operation])
        return [of_row(row) for row in await cursor.fetchall()]
