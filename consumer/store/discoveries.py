"""Discoveries: which listings of the relay were searched for repositories, and how far.

A listing is an NSID, ``*`` (all repositories), or ``#sweep`` (compare revs).  Each search of one
is an operation of type ``discovery``: its ``reason`` is the listing, its ``cursor`` the next
page.  The operation is leased like every other; each page advances it in the transaction that
queues the syncs of that page.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import uuid4

from consumer.store.arrays import Bigints, Texts
from consumer.store.database import Connection

SWEEP = "#sweep"


@dataclass(frozen=True, slots=True)
class Search:
    """A leased discovery: ``cursor`` is None at the start, ``seen`` counts repositories so far."""

    operation: str
    listing: str
    cursor: str | None
    seen: int
    attempts: int


@dataclass(frozen=True, slots=True)
class Found:
    """A repository in a listing; ``rev`` is None if the listing does not state it."""

    did: str
    lane: int
    rev: str | None = None


# A listing is searched once.  When due, a failed one is searched again, and a sweep is repeated.
_OPEN = """
WITH wanted AS (
    INSERT INTO discoveries AS known (listing, operation)
    SELECT listing, id FROM unnest(%(listings)s, %(ids)s) AS new (listing, id)
    ON CONFLICT (listing) DO UPDATE SET operation = EXCLUDED.operation, completed = false,
        due = 'infinity'
    WHERE known.due <= now() AND (NOT known.completed OR known.listing = '#sweep')
        AND NOT EXISTS (
            SELECT FROM operations AS o
            WHERE o.id = known.operation AND o.status IN ('queued', 'running')
        )
    RETURNING listing, operation
)
INSERT INTO operations (id, type, did, lane, automatic, reason)
SELECT operation, 'discovery', NULL, %(lane)s, true, listing FROM wanted
"""
_LEASE = """
UPDATE operations SET status = 'running', phase = 'listing', attempts = attempts + 1,
    started_at = coalesce(started_at, now()), lease_owner = %(owner)s,
    lease_until = now() + make_interval(secs => %(lease)s), version = version + 1,
    error = NULL, failure = NULL
WHERE id = (
    SELECT id FROM operations
    WHERE type = 'discovery' AND (status = 'queued' AND run_after <= now()
        OR status = 'running' AND lease_until <= now())
    ORDER BY run_after LIMIT 1 FOR UPDATE SKIP LOCKED
)
RETURNING id, reason, cursor, records_processed, attempts
"""
_MOVE = """
UPDATE operations SET cursor = %(cursor)s, records_processed = %(seen)s,
    lease_until = now() + make_interval(secs => %(lease)s), version = version + 1
WHERE id = %(id)s AND status = 'running' AND lease_owner = %(owner)s
"""
_END = """
UPDATE operations SET status = 'completed', phase = 'applied', progress = 100,
    completed_at = now(), lease_owner = NULL, lease_until = NULL, version = version + 1
WHERE id = %(id)s AND status = 'running' AND lease_owner = %(owner)s
"""
_CLOSE = """
UPDATE discoveries SET completed = true, due = now() + make_interval(secs => %(again)s)
WHERE operation = %(id)s
"""
_POSTPONE = """
UPDATE operations SET status = 'queued', phase = NULL, error = %(error)s,
    run_after = now() + make_interval(secs => %(delay)s),
    lease_owner = NULL, lease_until = NULL, version = version + 1
WHERE id = %(id)s AND status = 'running' AND lease_owner = %(owner)s
"""
_FAIL = """
UPDATE operations SET status = 'failed', error = %(error)s, failure = %(failure)s,
    completed_at = now(), lease_owner = NULL, lease_until = NULL, version = version + 1
WHERE id = %(id)s AND status = 'running' AND lease_owner = %(owner)s
"""
_REPEAT = """
UPDATE discoveries SET due = now() + make_interval(secs => %(again)s) WHERE operation = %(id)s
"""
# Not for known repositories, nor for those whose sync is open or ended within a day.
_QUEUE_UNKNOWN = """
INSERT INTO operations (id, type, did, lane, automatic, reason)
SELECT id, 'didSync', did, lane, true, %(reason)s
FROM unnest(%(ids)s, %(dids)s, %(lanes)s) AS new (id, did, lane)
WHERE NOT EXISTS (SELECT FROM repos AS r WHERE r.did = new.did)
    AND NOT EXISTS (
        SELECT FROM operations AS o WHERE o.did = new.did AND o.type = 'didSync'
            AND (o.status IN ('queued', 'running') OR o.completed_at > now() - interval '1 day')
    )
ON CONFLICT (did) WHERE automatic AND type = 'didSync' AND status = 'queued' DO NOTHING
"""
# The listing has a newer rev than the row of the repository.
_QUEUE_BEHIND = """
INSERT INTO operations (id, type, did, lane, automatic, reason, want)
SELECT id, 'didSync', new.did, new.lane, true, %(reason)s, r.want
FROM unnest(%(ids)s, %(dids)s, %(lanes)s, %(revs)s) AS new (id, did, lane, rev)
JOIN repos AS r ON r.did = new.did
WHERE r.status = 'active' AND (r.rev IS NULL OR r.rev < new.rev)
    AND NOT EXISTS (
        SELECT FROM operations AS o WHERE o.did = new.did AND o.type = 'didSync'
            AND o.status IN ('queued', 'running')
    )
ON CONFLICT (did) WHERE automatic AND type = 'didSync' AND status = 'queued' DO NOTHING
"""
_WAITING = """
SELECT count(*) FROM (
    SELECT FROM operations WHERE status = 'queued' AND automatic AND type = 'didSync' LIMIT %s
) AS waiting
"""


async def open_wanted(connection: Connection, lane: int, listings: Sequence[str]) -> None:
    """Queue a discovery for each of ``listings`` that is due; ``lane`` publishes them."""
    parameters = {
        "listings": Texts(listings),
        "ids": Texts([str(uuid4()) for _ in listings]),
        "lane": lane,
    }
    await connection.execute(_OPEN, parameters)


async def lease(connection: Connection, owner: str, seconds: float) -> Search | None:
    """Lease a due discovery, or one whose lease has expired, for ``seconds``; None if none is."""
    row = await (await connection.execute(_LEASE, {"owner": owner, "lease": seconds})).fetchone()
    return None if row is None else Search(*row)


async def move(
    connection: Connection, owner: str, search: Search, cursor: str, seen: int, seconds: float
) -> bool:
    """Store the next page and extend the lease by ``seconds``; False: the lease was lost."""
    parameters = {
        "id": search.operation,
        "owner": owner,
        "cursor": cursor,
        "seen": seen,
        "lease": seconds,
    }
    return (await connection.execute(_MOVE, parameters)).rowcount == 1


async def complete(connection: Connection, owner: str, search: Search, again: float) -> None:
    """Complete a discovery; a sweep is due again in ``again`` seconds."""
    ended = await connection.execute(_END, {"id": search.operation, "owner": owner})
    if ended.rowcount:
        await connection.execute(_CLOSE, {"id": search.operation, "again": again})


async def postpone(
    connection: Connection, owner: str, search: Search, delay: float, error: str
) -> None:
    """Give a discovery back; it resumes at its cursor in ``delay`` seconds."""
    parameters = {"id": search.operation, "owner": owner, "delay": delay, "error": error}
    await connection.execute(_POSTPONE, parameters)


async def fail(
    connection: Connection, owner: str, search: Search, failure: str, error: str, again: float
) -> None:
    """Fail a discovery; its listing is searched again in ``again`` seconds."""
    parameters = {"id": search.operation, "owner": owner, "failure": failure, "error": error}
    ended = await connection.execute(_FAIL, parameters)
    if ended.rowcount:
        await connection.execute(_REPEAT, {"id": search.operation, "again": again})


async def queue_unknown(connection: Connection, found: Sequence[Found], reason: str) -> int:
    """Queue a sync for each unknown repository; return how many."""
    return (await connection.execute(_QUEUE_UNKNOWN, _columns(found, reason))).rowcount


async def queue_behind(connection: Connection, found: Sequence[Found], reason: str) -> int:
    """Queue a sync for each known repository with a newer rev in the listing; return how many."""
    parameters = _columns(found, reason) | {"revs": Texts([each.rev for each in found])}
    return (await connection.execute(_QUEUE_BEHIND, parameters)).rowcount


async def waiting(connection: Connection, most: int) -> int:
    """Return how many automatic syncs are queued, counted up to ``most``."""
    row = await (await connection.execute(_WAITING, [most])).fetchone()
    return int(row[0]) if row else 0


def _columns(found: Sequence[Found], reason: str) -> dict[str, object]:
    return {
        "ids": Texts([str(uuid4()) for _ in found]),
        "dids": Texts([each.did for each in found]),
        "lanes": Bigints([each.lane for each in found]),
        "reason": reason,
    }
