"""Lookups: what workers want to know from the fetchers.

A lookup is one row per (DID, kind).  A new request for the same raises ``version``, so that an
answer already on its way does not close the newer request.  A fetcher leases a due row, answers
on ``chive.backfill``, and then closes the row at the version that it leased.
"""

from __future__ import annotations

from collections.abc import Sequence

from consumer.store.arrays import Bigints, Doubles, Texts
from consumer.store.database import Connection
from consumer.store.rows import LeasedLookup, LookupRequest

CHANNEL = "lookups"

# A lookup that is backing off keeps its time: a new request does not hammer the host.
_REQUEST = """
INSERT INTO lookups AS open (did, kind, lane, session, seq, run_after)
SELECT did, kind, lane, session, seq, now() + make_interval(secs => delay)
FROM unnest(%s, %s, %s, %s, %s, %s) AS new (did, kind, lane, session, seq, delay)
ON CONFLICT (did, kind) DO UPDATE SET
    lane = EXCLUDED.lane,
    session = greatest(open.session, EXCLUDED.session),
    seq = CASE WHEN EXCLUDED.session > open.session THEN EXCLUDED.seq
               WHEN EXCLUDED.session = open.session THEN greatest(open.seq, EXCLUDED.seq)
               ELSE open.seq END,
    version = open.version + 1,
    run_after = CASE WHEN open.attempts = 0 THEN least(open.run_after, EXCLUDED.run_after)
                     ELSE open.run_after END
"""
_NOTIFY = f"SELECT pg_notify(current_schema() || '_{CHANNEL}', '')"

# The only place that says which lookups go to the PLC directory and to no account's host.
_AT_DIRECTORY = "(kind = 'identity' AND did LIKE 'did:plc:%%')"
_LEASE = f"""
UPDATE lookups SET lease_until = now() + make_interval(secs => %(lease)s)
WHERE (did, kind) IN (
    SELECT did, kind FROM lookups
    WHERE run_after <= now() AND (lease_until IS NULL OR lease_until <= now())
        AND (%(directory)s::bool IS NULL OR {_AT_DIRECTORY} = %(directory)s)
    ORDER BY run_after LIMIT %(limit)s
    FOR UPDATE SKIP LOCKED
)
RETURNING did, kind, lane, session, seq, version, attempts, {_AT_DIRECTORY}
"""  # noqa: S608 - a constant of this module
_NEXT_DUE = """
SELECT extract(epoch FROM min(due) - now())::float8
FROM (SELECT greatest(run_after, lease_until) AS due FROM lookups) AS waiting
"""
_CLOSE = "DELETE FROM lookups WHERE did = %s AND kind = %s AND version = %s"
_REOPEN = """
UPDATE lookups SET lease_until = NULL, attempts = 0, error = NULL
WHERE did = %s AND kind = %s
"""
_POSTPONE = """
UPDATE lookups SET
    attempts = attempts + 1,
    run_after = now() + make_interval(secs => %(delay)s),
    lease_until = NULL,
    error = %(error)s
WHERE did = %(did)s AND kind = %(kind)s
"""
_DEFER = """
UPDATE lookups SET
    run_after = now() + make_interval(secs => %(delay)s),
    lease_until = NULL,
    error = %(error)s
WHERE did = %(did)s AND kind = %(kind)s
"""


async def request(connection: Connection, requests: Sequence[LookupRequest]) -> None:
    """Open or renew lookups (one per DID and kind) and wake the fetchers at commit."""
    if not requests:
        return
    await connection.execute(
        _REQUEST,
        [
            Texts([each.did for each in requests]),
            Texts([each.kind for each in requests]),
            Bigints([each.lane for each in requests]),
            Bigints([each.epoch for each in requests]),
            Bigints([each.seq for each in requests]),
            Doubles([each.delay for each in requests]),
        ],
    )
    await connection.execute(_NOTIFY)


async def lease(
    connection: Connection, limit: int, seconds: float, *, directory: bool | None = None
) -> list[LeasedLookup]:
    """Lease up to ``limit`` due lookups for ``seconds``; no other fetcher gets them meanwhile.

    ``directory``: True for those that go to the PLC directory only, False for all others, None
    for both.
    """
    parameters = {"limit": limit, "lease": seconds, "directory": directory}
    cursor = await connection.execute(_LEASE, parameters)
    return [LeasedLookup(*row) for row in await cursor.fetchall()]


async def next_due(connection: Connection) -> float | None:
    """Return the seconds until the next lookup is due, None when there is none."""
    row = await (await connection.execute(_NEXT_DUE)).fetchone()
    return row[0] if row else None


async def close(connection: Connection, lookup: LeasedLookup) -> bool:
    """Close an answered lookup.

    Returns False if it was requested again meanwhile: it stays open and is due at once.
    """
    key = [lookup.did, lookup.kind]
    closed = await connection.execute(_CLOSE, [*key, lookup.version])
    if closed.rowcount == 0:
        await connection.execute(_REOPEN, key)
    return closed.rowcount == 1


async def postpone(connection: Connection, lookup: LeasedLookup, delay: float, error: str) -> None:
    """Give a lookup back after a failed attempt; it is due again in ``delay`` seconds."""
    await connection.execute(_POSTPONE, _given_back(lookup, delay, error))


async def defer(connection: Connection, lookup: LeasedLookup, delay: float, error: str) -> None:
    """Give a lookup back that its host could not take: due in ``delay`` seconds, no attempt."""
    await connection.execute(_DEFER, _given_back(lookup, delay, error))


def _given_back(lookup: LeasedLookup, delay: float, error: str) -> dict[str, object]:
    return {"did": lookup.did, "kind": lookup.kind, "delay": delay, "error": error}
