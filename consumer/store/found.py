"""Repositories that were listed, until they are synced or known to be gone.

A row is made for each listed repository that is not known.  ``feed`` queues automatic syncs for
rows that are due; when a sync has ended without making the repository known, the row is due again
later, and later each time.  Listings are hearsay: a row is ``confirmed`` once the DID's document
named a PDS, and a source may have a bounded number of rows that are not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from consumer.store.arrays import Bigints, Booleans, Doubles, Texts
from consumer.store.database import Connection
from procedures.failures import Failure

DISCOVERED = "discovered"
"""The reason of the syncs that ``feed`` queues."""
QUARANTINE = "quarantine"
"""The source of repositories of which only a quarantined frame has come."""
SETTINGS = "scope.dids"
"""The source of repositories that the settings name."""

_NOTE = """
INSERT INTO found (did, lane, source, listing, host)
SELECT did, lane, %(source)s, %(listing)s, %(host)s FROM unnest(%(dids)s, %(lanes)s) AS new (did, lane)
WHERE NOT EXISTS (SELECT FROM repos AS r WHERE r.did = new.did)
ON CONFLICT (did) DO NOTHING
"""  # noqa: E501
# What is due later, because its host is away, is no crowd.  The order keeps to the index of what is
# queued, among all operations that are kept.
_CROWD = """
SELECT count(*) FROM (
    SELECT FROM operations
    WHERE status = 'queued' AND same_as IS NULL AND (automatic OR behind) AND run_after <= now()
        AND automatic
        AND type = 'didSync'
    ORDER BY run_after LIMIT %s
) AS waiting
"""
_FEED = """
WITH due AS MATERIALIZED (
    SELECT did, lane FROM found WHERE operation IS NULL AND next_try <= now()
    ORDER BY next_try LIMIT %(limit)s FOR UPDATE SKIP LOCKED
), open AS MATERIALIZED (
    SELECT DISTINCT ON (o.did) o.did, o.id FROM operations AS o JOIN due ON due.did = o.did
    WHERE o.type = 'didSync' AND o.status IN ('queued', 'running')
), made AS (
    INSERT INTO operations (id, type, did, lane, automatic, reason)
    SELECT gen_random_uuid()::text, 'didSync', due.did, due.lane, true, %(reason)s FROM due
    WHERE NOT EXISTS (SELECT FROM open WHERE open.did = due.did)
        AND NOT EXISTS (SELECT FROM repos AS r WHERE r.did = due.did)
    ON CONFLICT (did) WHERE automatic AND type = 'didSync' AND status = 'queued' DO NOTHING
    RETURNING did, id
)
UPDATE found SET operation = coalesce(made.id, open.id, 'none')
FROM due LEFT JOIN made ON made.did = due.did LEFT JOIN open ON open.did = due.did
WHERE found.did = due.did
"""
# An operation that is no longer kept ended long ago.
_ENDED = """
SELECT f.did, f.source, f.tries, o.failure,
    EXISTS (SELECT FROM repos AS r WHERE r.did = f.did)
FROM found AS f LEFT JOIN operations AS o ON o.id = f.operation
WHERE f.operation IS NOT NULL AND (o.id IS NULL OR o.status IN ('completed', 'failed', 'cancelled'))
LIMIT %s
"""
_FORGET = "DELETE FROM found WHERE did = ANY(%s)"
_AGAIN = """
UPDATE found SET operation = NULL, tries = tries + 1, failure = new.failure,
    confirmed = found.confirmed OR new.confirmed,
    next_try = now() + make_interval(secs => new.wait)
FROM unnest(%(dids)s, %(failures)s, %(confirmed)s, %(waits)s) AS new (did, failure, confirmed, wait)
WHERE found.did = new.did
"""
_UNCONFIRMED = """
SELECT count(*) FROM (
    SELECT FROM found WHERE source = %s AND NOT confirmed AND tries >= %s LIMIT %s
) AS hearsay
"""
_HOST = "SELECT host FROM found WHERE did = %s"
_COUNTS = """
SELECT count(*), count(*) FILTER (WHERE operation IS NOT NULL), count(*) FILTER (WHERE tries > 0)
FROM found
"""


@dataclass(frozen=True, slots=True)
class EndedSync:
    """A found repository whose sync has ended; ``known``: the repository has a row."""

    did: str
    source: str
    tries: int
    failure: Failure | None
    known: bool


@dataclass(frozen=True, slots=True)
class Retry:
    """A found repository that is due again in ``wait`` seconds."""

    did: str
    failure: Failure | None
    confirmed: bool
    wait: float


async def note(
    connection: Connection,
    listed: Sequence[tuple[str, int]],
    source: str,
    listing: str,
    host: str | None,
) -> int:
    """Remember each (DID, lane) that is not known; return how many are new.

    ``host``: the host whose own listing it was, None for the listing of another.
    """
    unique = dict(listed)
    parameters = {
        "dids": Texts(list(unique)),
        "lanes": Bigints(list(unique.values())),
        "source": source,
        "listing": listing,
        "host": host,
    }
    return (await connection.execute(_NOTE, parameters)).rowcount


async def feed(connection: Connection, most: int) -> int:
    """Queue syncs for what is due, until ``most`` automatic syncs are due; return how many."""
    row = await (await connection.execute(_CROWD, [most])).fetchone()
    limit = most - (int(row[0]) if row else 0)
    if limit <= 0:
        return 0
    parameters = {"limit": limit, "reason": DISCOVERED}
    return (await connection.execute(_FEED, parameters)).rowcount


async def ended(connection: Connection, limit: int) -> list[EndedSync]:
    """Return up to ``limit`` found repositories whose sync has ended."""
    rows = await (await connection.execute(_ENDED, [limit])).fetchall()
    return [
        EndedSync(did, source, tries, None if failure is None else Failure(failure), known)
        for did, source, tries, failure, known in rows
    ]


async def forget(connection: Connection, dids: Sequence[str]) -> None:
    """Forget what is known now, or gone."""
    await connection.execute(_FORGET, [Texts(dids)])


async def again(connection: Connection, retries: Sequence[Retry]) -> None:
    """Let each be due again."""
    parameters = {
        "dids": Texts([each.did for each in retries]),
        "failures": Texts([each.failure for each in retries]),
        "confirmed": Booleans([each.confirmed for each in retries]),
        "waits": Doubles([each.wait for each in retries]),
    }
    await connection.execute(_AGAIN, parameters)


async def unconfirmed(connection: Connection, source: str, most: int, *, tried: bool) -> bool:
    """Tell whether ``source`` has ``most`` unconfirmed rows; ``tried``: of those tried before."""
    cursor = await connection.execute(_UNCONFIRMED, [source, 1 if tried else 0, most])
    row = await cursor.fetchone()
    return row is not None and int(row[0]) >= most


async def host_of(connection: Connection, did: str) -> str | None:
    """Return the host whose own listing named ``did``; None: no listing of a host's did."""
    row = await (await connection.execute(_HOST, [did])).fetchone()
    return None if row is None else row[0]


async def counts(connection: Connection) -> tuple[int, int, int]:
    """Return how many are remembered, how many of them are being synced, how many failed before."""
    row = await (await connection.execute(_COUNTS)).fetchone()
    return (0, 0, 0) if row is None else (int(row[0]), int(row[1]), int(row[2]))
