"""Operations as they are: by id, by DID, those that wait for a primary, and their counts."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

from psycopg.rows import dict_row

from consumer.store.arrays import Texts
from consumer.store.database import Connection
from consumer.store.operations.rows import COLUMNS, of_row
from procedures.operations import Operation

_READ = f"SELECT {COLUMNS} FROM operations WHERE id = %s FOR UPDATE"  # noqa: S608 - our own columns
_COALESCED = f"""
SELECT {COLUMNS} FROM operations WHERE same_as = %s AND status = 'queued'
ORDER BY requested_at, id FOR UPDATE
"""  # noqa: S608
_OPEN_OF_ALL = f"""
SELECT {COLUMNS} FROM operations WHERE did = ANY(%s) AND status IN ('queued', 'running')
ORDER BY id FOR UPDATE
"""  # noqa: S608
_COALESCED_WITH_ALL = f"""
SELECT {COLUMNS} FROM operations WHERE same_as = ANY(%s) AND status = 'queued'
ORDER BY id FOR UPDATE
"""  # noqa: S608
_READ_ALL = f"SELECT {COLUMNS} FROM operations WHERE id = ANY(%s)"  # noqa: S608
_BY_STATUS = "SELECT status, count(*) FROM operations GROUP BY status"
# In the order of the index of what is to be published: most of the operations that are kept is not,
# and PostgreSQL, which expects a third of them, would read them all to find none.
_NEEDS_CONTROLLER = """
SELECT (SELECT id FROM operations WHERE published_version < version ORDER BY id LIMIT 1) IS NOT NULL
    OR EXISTS (SELECT FROM bulks)
"""


async def read(connection: Connection, identifier: str) -> Operation | None:
    """Return one operation, locked until COMMIT; None if there is none."""
    found = await _rows(connection, _READ, [identifier])
    return found[0] if found else None


async def coalesced_with(connection: Connection, identifier: str) -> list[Operation]:
    """Return the queued operations that ``identifier`` does the work of, oldest first, locked."""
    return await _rows(connection, _COALESCED, [identifier])


async def open_of_all(connection: Connection, dids: Sequence[str]) -> dict[str, list[Operation]]:
    """Return the operations of ``dids`` that have not ended, oldest first, by DID, locked."""
    return _grouped(await _rows(connection, _OPEN_OF_ALL, [Texts(dids)]), lambda one: one.did)


async def coalesced_with_all(
    connection: Connection, identifiers: Sequence[str]
) -> dict[str, list[Operation]]:
    """Return what ``coalesced_with`` returns of each of ``identifiers``, by their ids."""
    found = await _rows(connection, _COALESCED_WITH_ALL, [Texts(identifiers)])
    return _grouped(found, lambda one: one.same_as)


async def read_all(connection: Connection, identifiers: list[str]) -> dict[str, Operation]:
    """Return operations by their ids."""
    found = await _rows(connection, _READ_ALL, [Texts(identifiers)])
    return {operation.id: operation for operation in found}


async def by_status(connection: Connection) -> dict[str, int]:
    """Return how many operations there are in each status."""
    return dict(await (await connection.execute(_BY_STATUS)).fetchall())


def _grouped(
    operations: list[Operation], key: Callable[[Operation], str | None]
) -> dict[str, list[Operation]]:
    """Return the operations by their keys, oldest first."""
    grouped: defaultdict[str, list[Operation]] = defaultdict(list)
    for one in sorted(operations, key=lambda one: (one.requested_at, one.id)):
        grouped[key(one) or ""].append(one)
    return grouped


async def _rows(connection: Connection, sql: str, parameters: list[Any]) -> list[Operation]:
    async with connection.cursor(binary=True, row_factory=dict_row) as cursor:
        await cursor.execute(sql, parameters)
        return [of_row(row) for row in await cursor.fetchall()]


async def needs_controller(connection: Connection) -> bool:
    """Tell whether operations are to be published, or parents are open."""
    row = await (await connection.execute(_NEEDS_CONTROLLER)).fetchone()
    return row is not None and bool(row[0])
