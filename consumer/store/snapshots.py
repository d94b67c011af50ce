"""Snapshots of a scope: its initial search, and whether a lane has all that it led to.

The scope has one; a new scope begins a new one.  What is found belongs to it until the search
ends.  A sync that has failed for long is not waited for: its host may be away for days.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from consumer.store.database import Connection

_BEGIN = """
WITH others AS (DELETE FROM snapshots WHERE scope <> %(scope)s)
INSERT INTO snapshots (scope) VALUES (%(scope)s) ON CONFLICT (scope) DO NOTHING
"""
_SEARCHED = """
UPDATE snapshots SET searched_at = now(), unread = %s WHERE scope = %s AND searched_at IS NULL
"""
_READ = "SELECT id, scope, began_at, searched_at, unread FROM snapshots WHERE scope = %s"
# Nothing has come of it yet, and it may be soon.
_UNDER_WAY = """
    o.status = 'running' AND (o.attempts <= 1 OR o.requested_at > now() - %(patience)s)
    OR o.status = 'queued' AND (o.failure IS NULL OR o.requested_at > now() - %(patience)s)
"""
# A repository that needs a sync gets one soon: invariant 8.
_UNQUEUED = """
SELECT now(), EXISTS (
    SELECT FROM repos AS r
    WHERE r.lane = %(lane)s AND r.sync_state <> 'active' AND r.status = 'active'
        AND NOT EXISTS (
            SELECT FROM operations AS o WHERE o.did = r.did AND o.type = 'didSync'
                AND o.status IN ('queued', 'running')
        )
)
"""
_WAITING = f"""
SELECT EXISTS (
    SELECT FROM found AS f LEFT JOIN operations AS o ON o.id = f.operation
    WHERE f.lane = %(lane)s AND f.tries = 0 AND f.found_at <= %(searched)s
        AND (f.operation IS NULL OR {_UNDER_WAY})
) OR EXISTS (
    SELECT FROM operations AS o
    WHERE o.lane = %(lane)s AND o.type = 'didSync' AND o.automatic
        AND o.status IN ('queued', 'running') AND o.requested_at <= %(until)s AND ({_UNDER_WAY})
)
"""  # noqa: S608 - our own SQL
_COUNTS = """
SELECT (SELECT count(*) FROM repos WHERE lane = %(lane)s),
    (SELECT count(*) FROM repos
     WHERE lane = %(lane)s AND sync_state <> 'active' AND status = 'active'),
    (SELECT count(*) FROM found AS f
     WHERE f.lane = %(lane)s AND f.found_at <= %(searched)s
        AND NOT EXISTS (SELECT FROM repos AS r WHERE r.did = f.did))
"""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One row; ``searched_at`` is None while listings are read.

    ``unread``: hosts whose listing could not be read to its end.
    """

    id: UUID
    scope: bytes
    began_at: datetime
    searched_at: datetime | None
    unread: int


@dataclass(frozen=True, slots=True)
class Counts:
    """What a lane has: repositories, those that are not in step, and listed ones that failed."""

    repositories: int
    desynchronized: int
    failed: int


async def begin(connection: Connection, scope: bytes) -> None:
    """Begin the snapshot of ``scope``, the digest of all that is wanted, unless it has begun."""
    await connection.execute(_BEGIN, {"scope": scope})


async def searched(connection: Connection, scope: bytes, unread: int) -> None:
    """Note that every listing was read, but for those of ``unread`` hosts."""
    await connection.execute(_SEARCHED, [unread, scope])


async def read(connection: Connection, scope: bytes) -> Snapshot | None:
    """Return the snapshot of ``scope``, None before it begins."""
    row = await (await connection.execute(_READ, [scope])).fetchone()
    return None if row is None else Snapshot(*row)


async def all_queued(connection: Connection, lane: int) -> datetime | None:
    """Return the time if every repository of ``lane`` that needs a sync has one, else None."""
    row = await (await connection.execute(_UNQUEUED, {"lane": lane})).fetchone()
    return None if row is None or row[1] else row[0]


async def whole(
    connection: Connection, lane: int, searched_at: datetime, until: datetime, patience: float
) -> Counts | None:
    """Return what ``lane`` has once all that was found for it, and queued, has ended; else None.

    It was found until ``searched_at`` and queued ``until`` then.  A sync that failed is waited for
    at most ``patience`` seconds.
    """
    wanted = {
        "lane": lane,
        "searched": searched_at,
        "until": until,
        "patience": timedelta(seconds=patience),
    }
    row = await (await connection.execute(_WAITING, wanted)).fetchone()
    if row is None or row[0]:
        return None
    counts = await (await connection.execute(_COUNTS, wanted)).fetchone()
    return None if counts is None else Counts(*counts)
