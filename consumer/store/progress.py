"""How far the lanes are: what the tailer has received, and what each lane has said of itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID

from consumer.state.progress import NOWHERE, LaneReport, Place, Reached, Received
from consumer.store.database import Connection
from procedures import times

_NOTE = """
INSERT INTO received (relay, session, seq, time, as_of, last)
VALUES (%s, %s, %s, %s, %s, %s::bigint[])
ON CONFLICT (relay) DO UPDATE SET
    session = EXCLUDED.session, seq = EXCLUDED.seq, time = EXCLUDED.time,
    as_of = EXCLUDED.as_of, last = EXCLUDED.last
"""
_RECEIVED = """
SELECT relay, session, seq, time, as_of, last FROM received ORDER BY session DESC LIMIT 1
"""
_READ = "SELECT session, seq, snapshot FROM progress WHERE lane = %s"
_WRITE = """
INSERT INTO progress AS known (lane, session, seq, snapshot)
SELECT * FROM unnest(%s::integer[], %s::bigint[], %s::bigint[], %s::uuid[])
ON CONFLICT (lane) DO UPDATE SET
    session = EXCLUDED.session, seq = EXCLUDED.seq,
    snapshot = coalesce(EXCLUDED.snapshot, known.snapshot)
"""


@dataclass(frozen=True, slots=True)
class Said:
    """What a lane has said of itself: up to where it is complete, the newest whole snapshot."""

    place: Place = NOWHERE
    snapshot: UUID | None = None


async def note_received(
    connection: Connection,
    relay: str,
    place: Place,
    time: float | None,
    as_of: float,
    last: Sequence[int],
) -> None:
    """Keep what ``Received`` says, of a cursor that is durable; times are Unix seconds."""
    shown = None if time is None else datetime.fromtimestamp(time, UTC)
    until = datetime.fromtimestamp(as_of, UTC)
    await connection.execute(_NOTE, [relay, *place, shown, until, list(last)])


async def received(connection: Connection) -> Received | None:
    """Return what the tailer has received from the relay that it read last, None if nothing."""
    row = await (await connection.execute(_RECEIVED)).fetchone()
    if row is None:
        return None
    relay, epoch, seq, time, as_of, last = row
    shown = times.to_text((time or as_of).timestamp())
    return Received(Reached(relay, Place(epoch, seq), shown, as_of.timestamp()), tuple(last))


async def said(connection: Connection, lane: int) -> Said:
    """Return what the lane has said of itself so far."""
    row = await (await connection.execute(_READ, [lane])).fetchone()
    return Said() if row is None else Said(Place(row[0], row[1]), row[2])


async def write(connection: Connection, reports: Sequence[LaneReport]) -> None:
    """Keep what lanes say of themselves, in the transaction that says it."""
    columns = [
        [one.lane for one in reports],
        [one.place.epoch for one in reports],
        [one.place.seq for one in reports],
        [one.snapshot for one in reports],
    ]
    await connection.execute(_WRITE, columns)
