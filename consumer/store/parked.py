"""Parked frames wait for their account's key; later frames of the account wait behind them.

A DID with parked frames has one row in ``parking``.  With ``ready`` an answer about its identity
has come since, and its frames are to be tried again, oldest first.  With ``doubted`` frames of the
account may be missing behind them.
"""

from __future__ import annotations

from collections.abc import Sequence

from consumer.state.progress import Place, Reached
from consumer.store.arrays import Bigints, Booleans, Texts
from consumer.store.database import Connection
from consumer.store.rows import ParkedFrame, Parking
from procedures import times

_APPEND = """
COPY parked (did, lane, log_offset, log_time, seq, session, relay, frame)
FROM STDIN (FORMAT BINARY)
"""
_TYPES = ["text", "int4", "int8", "int8", "int8", "int8", "text", "bytea"]
# The first frame is always read, further ones while their sum is below the bound.
_TAKE = """
SELECT did, log_offset, log_time, seq, session, relay, frame
FROM (
    SELECT oldest.*, sum(octet_length(frame)) OVER earlier AS bytes_before
    FROM unnest(%(dids)s) AS ready (did) CROSS JOIN LATERAL (
        SELECT * FROM parked WHERE parked.did = ready.did
        ORDER BY log_offset LIMIT %(frames)s
    ) AS oldest
    WINDOW earlier AS (
        ORDER BY oldest.did, log_offset ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
    )
) AS measured
WHERE coalesce(bytes_before, 0) < %(bytes)s
ORDER BY did, log_offset LIMIT %(frames)s
"""
_DROP = """
DELETE FROM parked AS p USING unnest(%s, %s) AS gone (did, log_offset)
WHERE p.did = gone.did AND p.log_offset <= gone.log_offset
"""
_SET = """
INSERT INTO parking (did, lane, ready, doubted)
SELECT did, %s, ready, doubted FROM unnest(%s, %s, %s) AS s (did, ready, doubted)
ON CONFLICT (did) DO UPDATE SET ready = EXCLUDED.ready, doubted = EXCLUDED.doubted
"""
_OLDEST = """
SELECT DISTINCT ON (p.did) p.did, p.relay, p.session, p.seq, p.log_time
FROM parking JOIN parked AS p ON p.did = parking.did
WHERE parking.lane = %s ORDER BY p.did, p.log_offset
"""
_DOUBT = "UPDATE parking SET doubted = true WHERE lane = %s"
_CLEAR = "DELETE FROM parking WHERE did = ANY(%s)"
_READ = """
SELECT did, ready, frames, size, doubted FROM parking CROSS JOIN LATERAL (
    SELECT count(*) AS frames, coalesce(sum(octet_length(frame)), 0)::int8 AS size
    FROM parked WHERE parked.did = parking.did
) AS measured WHERE lane = %s
"""


async def read(connection: Connection, lane: int) -> list[Parking]:
    """Return the DIDs of the lane that have parked frames."""
    return [Parking(*row) for row in await (await connection.execute(_READ, [lane])).fetchall()]


async def oldest(connection: Connection, lane: int) -> dict[str, Reached]:
    """Return the place of the oldest parked frame of each DID of the lane."""
    rows = await (await connection.execute(_OLDEST, [lane])).fetchall()
    return {
        did: Reached(relay, Place(epoch, seq), times.to_text(log_time / 1000), log_time / 1000)
        for did, relay, epoch, seq, log_time in rows
    }


async def append(connection: Connection, lane: int, frames: Sequence[ParkedFrame]) -> None:
    """Park frames of ``lane`` behind those that are parked already."""
    async with connection.cursor() as cursor, cursor.copy(_APPEND) as copy:
        copy.set_types(_TYPES)
        for f in frames:
            await copy.write_row(
                (f.did, lane, f.log_offset, f.log_time, f.seq, f.epoch, f.relay, f.frame)
            )


async def take(
    connection: Connection, dids: Sequence[str], *, max_frames: int, max_bytes: int
) -> list[ParkedFrame]:
    """Return the oldest parked frames of ``dids``, account by account.

    At most ``max_frames``, about ``max_bytes``: the last frame may exceed that bound.
    """
    bounds = {"dids": Texts(dids), "frames": max_frames, "bytes": max_bytes}
    cursor = await connection.execute(_TAKE, bounds, binary=True)
    return [ParkedFrame(*row) for row in await cursor.fetchall()]


async def drop(connection: Connection, through: dict[str, int]) -> None:
    """Delete the parked frames of each DID up to its offset: they are decided."""
    dids, offsets = list(through), list(through.values())
    await connection.execute(_DROP, [Texts(dids), Bigints(offsets)])


async def write(connection: Connection, lane: int, parkings: Sequence[Parking]) -> None:
    """Write that DIDs have parked frames, whether they are ready, and the account doubted."""
    dids = Texts([one.did for one in parkings])
    ready = Booleans([one.ready for one in parkings])
    doubted = Booleans([one.doubted for one in parkings])
    await connection.execute(_SET, [lane, dids, ready, doubted])


async def doubt(connection: Connection, lane: int) -> None:
    """Write that frames may be missing behind all parked frames of ``lane``."""
    await connection.execute(_DOUBT, [lane])


async def clear(connection: Connection, dids: Sequence[str]) -> None:
    """Write that ``dids`` have no parked frames."""
    await connection.execute(_CLEAR, [Texts(dids)])
