"""Lanes: who owns one, and how far it has got.

``token`` proves ownership.  Claiming replaces the token that was seen; every later write of
the owner names the token and the positions it believes in, and finds no row when another
process has claimed meanwhile.  The nil token means: released in good order.
"""

from __future__ import annotations

from dataclasses import fields
from uuid import UUID

from consumer.store.database import Connection
from consumer.store.rows import RELEASED, Lane

_RENAMED = {"epoch": "session"}
_COLUMNS = ", ".join(_RENAMED.get(field.name, field.name) for field in fields(Lane))

_READ = f"SELECT {_COLUMNS} FROM lanes WHERE lane = %s"  # noqa: S608 — names of a dataclass
_READ_ALL = f"SELECT {_COLUMNS} FROM lanes ORDER BY lane"  # noqa: S608
_CREATE = "INSERT INTO lanes (lane, token) VALUES (%s, %s) ON CONFLICT (lane) DO NOTHING"
_CLAIM = f"UPDATE lanes SET token = %s WHERE lane = %s AND token = %s RETURNING {_COLUMNS}"  # noqa: S608
_RELEASE = "UPDATE lanes SET token = %s WHERE lane = %s AND token = %s"
_STALLS = "UPDATE lanes SET stalls = %s WHERE lane = %s AND token = %s"

_ADVANCE = """
UPDATE lanes SET
    firehose_offset = %(firehose_offset)s,
    backfill_offset = %(backfill_offset)s,
    control_offset = %(control_offset)s,
    session = %(epoch)s,
    last_seq = %(last_seq)s,
    last_out_seq = %(last_out_seq)s,
    stalls = %(stalls)s,
    scope = %(scope)s
WHERE lane = %(lane)s AND token = %(token)s
  AND firehose_offset = %(seen_firehose_offset)s
  AND backfill_offset = %(seen_backfill_offset)s
  AND control_offset = %(seen_control_offset)s
  AND last_out_seq = %(seen_last_out_seq)s
"""

_GUARD = """
SELECT 1 FROM lanes
WHERE lane = %(lane)s AND token = %(token)s
  AND firehose_offset = %(firehose_offset)s
  AND backfill_offset = %(backfill_offset)s
  AND control_offset = %(control_offset)s
  AND last_out_seq = %(last_out_seq)s
FOR UPDATE
"""


def _values(lane: Lane) -> dict[str, object]:
    return {field.name: getattr(lane, field.name) for field in fields(Lane)}


async def read(connection: Connection, lane: int) -> Lane | None:
    """Return the lane's row, None before its first claim."""
    row = await (await connection.execute(_READ, [lane])).fetchone()
    return Lane(*row) if row else None


async def read_all(connection: Connection) -> list[Lane]:
    """Return every lane that was ever claimed."""
    return [Lane(*row) for row in await (await connection.execute(_READ_ALL)).fetchall()]


async def claim(connection: Connection, lane: int, seen: UUID, token: UUID) -> Lane | None:
    """Replace the token ``seen`` by ``token``; None when another process was quicker."""
    row = await (await connection.execute(_CLAIM, [token, lane, seen])).fetchone()
    return Lane(*row) if row else None


async def create(connection: Connection, lane: int) -> None:
    """Make the row of a lane that has had no owner yet."""
    await connection.execute(_CREATE, [lane, RELEASED])


async def release(connection: Connection, lane: Lane) -> None:
    """Give the lane up in good order; nothing happens when it was lost already."""
    await connection.execute(_RELEASE, [RELEASED, lane.lane, lane.token])


async def set_stalls(connection: Connection, lane: Lane, stalls: int) -> bool:
    """Write the count of stalls outside of a batch; False when the lane was lost."""
    cursor = await connection.execute(_STALLS, [stalls, lane.lane, lane.token])
    return cursor.rowcount == 1


async def guard(connection: Connection, seen: Lane) -> bool:
    """Lock the lane's row; False when the token or a position is not the one ``seen``.

    The first statement of every batch: nothing is read or decided before it.
    """
    cursor = await connection.execute(_GUARD, _values(seen))
    return cursor.rowcount == 1


async def advance(connection: Connection, seen: Lane, new: Lane) -> bool:
    """Move the lane from ``seen`` to ``new``; False when it is not the caller's any more."""
    expected = {f"seen_{name}": value for name, value in _values(seen).items()}
    cursor = await connection.execute(_ADVANCE, _values(new) | expected)
    return cursor.rowcount == 1
