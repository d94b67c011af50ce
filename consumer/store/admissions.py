"""Operations as the controller makes and changes them, in the transaction of the command."""

from __future__ import annotations

from typing import Any

from psycopg.rows import dict_row

from consumer.store.arrays import Texts
from consumer.store.database import Connection
from consumer.store.operations import COLUMNS, of_row
from procedures.messages import Emit
from procedures.operations import Operation

_READ = f"SELECT {COLUMNS} FROM operations WHERE id = %s FOR UPDATE"  # noqa: S608 - our own columns
_OPEN = f"""
SELECT {COLUMNS} FROM operations WHERE did = %s AND status IN ('queued', 'running')
ORDER BY requested_at, id FOR UPDATE
"""  # noqa: S608
_FOLLOWERS = f"""
SELECT {COLUMNS} FROM operations WHERE same_as = %s AND status = 'queued'
ORDER BY requested_at, id FOR UPDATE
"""  # noqa: S608
_READ_ALL = f"SELECT {COLUMNS} FROM operations WHERE id = ANY(%s)"  # noqa: S608
# ``want`` is read again when the download begins: a snapshot that was asked for before the
# repo was doubted once more must not complete it.  So asking for one need not raise it.
_INSERT = """
INSERT INTO operations (
    id, type, did, lane, uri, status, automatic, emit_all, same_as, run_after, requested_by,
    requested_at, error, failure, completed_at, version, want
) VALUES (
    %(id)s, %(type)s, %(did)s, %(lane)s, %(uri)s, %(status)s, %(automatic)s, %(emit_all)s,
    %(same_as)s, to_timestamp(%(run_after)s), %(requested_by)s, to_timestamp(%(requested_at)s),
    %(error)s, %(failure)s, to_timestamp(%(completed_at)s), %(version)s,
    coalesce((SELECT want FROM repos WHERE did = %(did)s), 0)
)
"""
_CHANGE = """
UPDATE operations SET status = %(status)s, automatic = %(automatic)s, same_as = %(same_as)s,
    run_after = to_timestamp(%(run_after)s), error = %(error)s, failure = %(failure)s,
    completed_at = to_timestamp(%(completed_at)s), version = %(version)s,
    lease_owner = CASE WHEN %(status)s = 'running' THEN lease_owner END,
    lease_until = CASE WHEN %(status)s = 'running' THEN lease_until END
WHERE id = %(id)s
"""


async def read(connection: Connection, identifier: str) -> Operation | None:
    """Return one operation, which nobody else changes until COMMIT."""
    found = await _rows(connection, _READ, [identifier])
    return found[0] if found else None


async def open_of(connection: Connection, did: str) -> list[Operation]:
    """Return the operations of ``did`` that have not ended, oldest first, locked."""
    return await _rows(connection, _OPEN, [did])


async def followers(connection: Connection, identifier: str) -> list[Operation]:
    """Return the open operations that ``identifier`` does the work of, oldest first, locked."""
    return await _rows(connection, _FOLLOWERS, [identifier])


async def read_all(connection: Connection, identifiers: list[str]) -> dict[str, Operation]:
    """Return operations by their ids."""
    found = await _rows(connection, _READ_ALL, [Texts(identifiers)])
    return {operation.id: operation for operation in found}


async def insert(connection: Connection, operation: Operation, lane: int) -> None:
    """Add a new operation; ``lane`` is that of its DID."""
    await connection.execute(_INSERT, _values(operation) | {"lane": lane})


async def change(connection: Connection, operation: Operation) -> None:
    """Write what a command has changed of a locked operation."""
    await connection.execute(_CHANGE, _values(operation))


async def _rows(connection: Connection, sql: str, parameters: list[Any]) -> list[Operation]:
    async with connection.cursor(binary=True, row_factory=dict_row) as cursor:
        await cursor.execute(sql, parameters)
        return [of_row(row) for row in await cursor.fetchall()]


def _values(operation: Operation) -> dict[str, Any]:
    names = (
        "id type did uri status automatic same_as run_after requested_by requested_at error"
        " failure completed_at version"
    )
    values = {name: getattr(operation, name) for name in names.split()}
    return values | {"emit_all": operation.emit is Emit.ALL}
