"""Discoveries: which listings of the relay were searched for repositories, and how far.

A listing is an NSID, ``*`` (all repositories), or ``#sweep`` (compare revs).  Each search of one
is an operation of type ``discovery``: its ``reason`` is the listing, its ``cursor`` the next
page.  The operation is leased like every other; each page advances it in the transaction that
queues the syncs of that page.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from uuid import uuid4

from psycopg.rows import dict_row

from consumer.store.arrays import Bigints, Texts
from consumer.store.database import Connection
from consumer.store.operations import write
from consumer.store.operations.rows import COLUMNS, of_row
from procedures import transitions
from procedures.failures import Failure
from procedures.operations import Operation, Status

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
_NEXT = f"""
SELECT {COLUMNS}, operations.cursor, extract(epoch FROM now())::float8 AS now FROM operations
WHERE type = 'discovery' AND (status = 'queued' AND run_after <= now()
    OR status = 'running' AND lease_until <= now())
ORDER BY operations.run_after LIMIT 1 FOR UPDATE SKIP LOCKED
"""  # noqa: S608 - our own columns
_MOVE = """
UPDATE operations SET cursor = %(cursor)s, records_processed = %(seen)s,
    lease_until = now() + make_interval(secs => %(lease)s), version = version + 1
WHERE id = %(id)s AND status = 'running' AND lease_owner = %(owner)s
"""
_CLOSE = """
UPDATE discoveries SET completed = true, due = now() + make_interval(secs => %(again)s)
WHERE operation = %(id)s
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
            AND (o.status IN ('queued', 'running')
                OR o.completed_at > now() - make_interval(secs => %(again)s))
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
    """Claim a due discovery for ``seconds``, or one whose lease expired; None if there is none."""
    async with connection.cursor(binary=True, row_factory=dict_row) as cursor:
        await cursor.execute(_NEXT)
        row = await cursor.fetchone()
    if row is None:
        return None
    page, now = row.pop("cursor"), row.pop("now")
    operation = of_row(row)
    if operation.status is Status.RUNNING:
        operation = transitions.requeue(operation, now, error="the fetcher was lost")
    operation = transitions.start(operation, now)
    await write.save(connection, [operation], lease=write.Lease(owner, seconds))
    listing, seen = operation.reason or "", operation.records_processed
    return Search(operation.id, listing, page, seen, operation.attempts)


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
    """End a discovery well; a sweep is due once more in ``again`` seconds."""
    for operation in await _held(connection, owner, search):
        await write.save(connection, [transitions.complete(operation, time.time())])
        await connection.execute(_CLOSE, {"id": search.operation, "again": again})


async def postpone(
    connection: Connection, owner: str, search: Search, delay: float, error: str
) -> None:
    """Give a discovery back; it goes on at its cursor in ``delay`` seconds."""
    for operation in await _held(connection, owner, search):
        after = transitions.requeue(operation, time.time() + delay, error=error)
        await write.save(connection, [after])


async def fail(
    connection: Connection, owner: str, search: Search, failure: Failure, error: str, again: float
) -> None:
    """End a discovery badly; its listing is tried again in ``again`` seconds."""
    for operation in await _held(connection, owner, search):
        after = transitions.fail(operation, time.time(), failure, error)
        await write.save(connection, [after])
        await connection.execute(_REPEAT, {"id": search.operation, "again": again})


async def _held(connection: Connection, owner: str, search: Search) -> list[Operation]:
    """Return the operation of ``search``, locked, if ``owner`` still holds it."""
    held = await write.lock_leased(connection, [owner])
    return [operation for operation in held if operation.id == search.operation]


async def queue_unknown(
    connection: Connection, found: Sequence[Found], reason: str, again: float
) -> int:
    """Queue a sync for each repository that has no row; return how many.

    None where a sync ended less than ``again`` seconds ago.
    """
    parameters = _columns(found, reason) | {"again": again}
    return (await connection.execute(_QUEUE_UNKNOWN, parameters)).rowcount


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
