"""Lanes: who owns one, and how far it has got.

``token`` proves ownership.  Claiming replaces the token that was seen; every later write of
the owner names the token and the positions it believes in, and finds no row when another
process has claimed meanwhile.  The tokens of ``NOBODY`` mean: released in good order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from uuid import UUID

from consumer.store.database import Connection
from consumer.store.rows import RELEASED, UNPUBLISHED, Lane

_RENAMED = {"epoch": "session"}
_COLUMNS = ", ".join(_RENAMED.get(field.name, field.name) for field in fields(Lane))

_MARKS = ("lane", "token", "firehose_offset", "backfill_offset", "control_offset", "last_out_seq")
_POSITION = (
    *("lane", "firehose_offset", "backfill_offset", "control_offset"),
    *("epoch", "last_seq", "last_out_seq", "stalls", "scope"),
)

_READ = f"SELECT {_COLUMNS} FROM lanes WHERE lane = %s"  # noqa: S608 — names of a dataclass
_READ_ALL = f"SELECT {_COLUMNS} FROM lanes ORDER BY lane"  # noqa: S608
_CREATE = "INSERT INTO lanes (lane, token) VALUES (%s, %s) ON CONFLICT (lane) DO NOTHING"
_CLAIM = f"UPDATE lanes SET token = %s WHERE lane = %s AND token = %s RETURNING {_COLUMNS}"  # noqa: S608
_SEEN = """
unnest(%s::integer[], %s::uuid[], %s::bigint[], %s::bigint[], %s::bigint[], %s::bigint[])
    AS seen (lane, token, firehose_offset, backfill_offset, control_offset, last_out_seq)
"""
_UNCHANGED = """
lanes.lane = seen.lane AND lanes.token = seen.token
    AND lanes.firehose_offset = seen.firehose_offset
    AND lanes.backfill_offset = seen.backfill_offset
    AND lanes.control_offset = seen.control_offset
    AND lanes.last_out_seq = seen.last_out_seq
"""
_RELEASE = "UPDATE lanes SET token = %s WHERE lane = %s AND token = %s"
_STALLS = "UPDATE lanes SET stalls = %s WHERE lane = %s AND token = %s"

# The rows are locked in the order of their numbers, so that two transactions cannot wait for
# each other.
_GUARD = f"""
SELECT lanes.lane FROM lanes JOIN {_SEEN} ON {_UNCHANGED} ORDER BY lanes.lane FOR UPDATE OF lanes
"""  # noqa: S608 — constants
_ADVANCE = f"""
UPDATE lanes SET
    firehose_offset = new.firehose_offset,
    backfill_offset = new.backfill_offset,
    control_offset = new.control_offset,
    session = new.session,
    last_seq = new.last_seq,
    last_out_seq = new.last_out_seq,
    stalls = new.stalls,
    scope = new.scope
FROM {_SEEN}
JOIN unnest(%s::integer[], %s::bigint[], %s::bigint[], %s::bigint[], %s::bigint[], %s::bigint[],
            %s::bigint[], %s::integer[], %s::bytea[])
     AS new (lane, firehose_offset, backfill_offset, control_offset, session, last_seq,
             last_out_seq, stalls, scope)
     ON new.lane = seen.lane
WHERE {_UNCHANGED} RETURNING lanes.lane
"""  # noqa: S608 — constants


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


async def release(connection: Connection, lane: Lane, *, published: bool) -> None:
    """Give the lane up in good order; nothing happens when it was lost already.

    ``published``: Kafka has answered for all that was handed to the publisher.
    """
    token = RELEASED if published else UNPUBLISHED
    await connection.execute(_RELEASE, [token, lane.lane, lane.token])


async def set_stalls(connection: Connection, lane: Lane, stalls: int) -> bool:
    """Write the count of stalls outside of a batch; False when the lane was lost."""
    cursor = await connection.execute(_STALLS, [stalls, lane.lane, lane.token])
    return cursor.rowcount == 1


async def guard(connection: Connection, seen: Sequence[Lane]) -> set[int]:
    """Lock the rows of lanes; return those whose token and positions are the ones ``seen``.

    The first statement of every batch: nothing is read or decided before it.
    """
    cursor = await connection.execute(_GUARD, _columns(seen, _MARKS))
    return {lane for (lane,) in await cursor.fetchall()}


async def advance(connection: Connection, seen: Sequence[Lane], new: Sequence[Lane]) -> set[int]:
    """Move lanes from ``seen`` to ``new``; return those that are still the caller's and moved."""
    columns = [*_columns(seen, _MARKS), *_columns(new, _POSITION)]
    cursor = await connection.execute(_ADVANCE, columns)
    return {lane for (lane,) in await cursor.fetchall()}


def _columns(lanes: Sequence[Lane], names: Sequence[str]) -> list[list[object]]:
    return [[getattr(lane, name) for lane in lanes] for name in names]
