"""Operations as they are: by id, by DID, those that wait for a primary, and their counts."""

from __future__ import annotations

from typing import Any

from psycopg.rows import dict_row

from consumer.store.arrays import Texts
from consumer.store.database import Connection
from consumer.store.operations.rows import COLUMNS, of_row
from procedures.operations import Operation

_READ = f"SELECT {COLUMNS} FROM operations WHERE id = %s FOR UPDATE"  # noqa: S608 - our own columns
_OPEN = f"""
SELECT {COLUMNS} FROM operations WHERE did = %s AND status IN ('queued', 'running')
ORDER BY requested_at, id FOR UPDATE
"""  # noqa: S608
_COALESCED = f"""
SELECT {COLUMNS} FROM operations WHERE same_as = %s AND status = 'queued'
ORDER BY requested_at, id FOR UPDATE
"""  # noqa: S608
_READ_ALL = f"SELECT {COLUMNS} FROM operations WHERE id = ANY(%s)"  # noqa: S608
_BY_STATUS = "SELECT status, count(*) FROM operations GROUP BY status"


async def read(connection: Connection, identifier: str) -> Operation | None:
    """Return one operation, locked until COMMIT; None if there is none."""
    found = await _rows(connection, _READ, [identifier])
    return found[0] if found else None


async def open_of(connection: Connection, did: str) -> list[Operation]:
    """Return the operations of ``did`` that have not ended, oldest first, locked."""
    return await _rows(connection, _OPEN, [did])


async def coalesced_with(connection: Connection, identifier: str) -> list[Operation]:
    """Return the queued operations that ``identifier`` does the work of, oldest first, locked."""
    return await _rows(connection, _COALESCED, [identifier])


async def read_all(connection: Connection, identifiers: list[str]) -> dict[str, Operation]:
    """Return operations by their ids."""
    found = await _rows(connection, _READ_ALL, [Texts(identifiers)])
    return {operation.id: operation for operation in found}


async def by_status(connection: Connection) -> dict[str, int]:
    """Return how many operations there are in each status."""
    return dict(await (await connection.execute(_BY_STATUS)).fetchall())


async def _rows(connection: Connection, sql: str, parameters: list[Any]) -> list[Operation]:
    async with connection.cursor(binary=True, row_factory=dict_row) as cursor:
        await cursor.execute(sql, parameters)
        return [of_row(row) for row in await cursor.fetchall()]
