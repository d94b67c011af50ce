"""Look-ups: questions of the workers to the fetchers.

A question is one row per (DID, kind).  Asking again raises ``version``, so that an answer
that was on its way already does not close the newer question.  A fetcher leases a due row,
answers on ``chive.backfill``, and then closes the row at the version that it took.
"""

from __future__ import annotations

from collections.abc import Sequence

from consumer.store.arrays import Bigints, Doubles, Texts
from consumer.store.database import Connection
from consumer.store.rows import Lookup, Question

CHANNEL = "lookups"


# A question that is being backed off keeps its time: asking again does not hammer the host.
_ASK = """
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

_LEASE = """
UPDATE lookups SET lease_until = now() + make_interval(secs => %(lease)s)
WHERE (did, kind) IN (
    SELECT did, kind FROM lookups
    WHERE run_after <= now() AND (lease_until IS NULL OR lease_until <= now())
        AND (%(directory)s::bool IS NULL
             OR (kind = 'identity' AND did LIKE 'did:plc:%%') = %(directory)s)
    ORDER BY run_after LIMIT %(limit)s
    FOR UPDATE SKIP LOCKED
)
RETURNING did, kind, lane, session, seq, version, attempts
"""
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


async def ask(connection: Connection, questions: Sequence[Question]) -> None:
    """Open or renew questions (one per DID and kind) and wake the fetchers at commit."""
    if not questions:
        return
    await connection.execute(
        _ASK,
        [
            Texts([q.did for q in questions]),
            Texts([q.kind for q in questions]),
            Bigints([q.lane for q in questions]),
            Bigints([q.epoch for q in questions]),
            Bigints([q.seq for q in questions]),
            Doubles([q.delay for q in questions]),
        ],
    )
    await connection.execute(_NOTIFY)


async def lease(
    connection: Connection, limit: int, seconds: float, *, directory: bool | None = None
) -> list[Lookup]:
    """Take up to ``limit`` due questions; nobody else gets them for ``seconds``.

    ``directory``: only those that it alone can answer, or only the others.
    """
    bounds = {"limit": limit, "lease": seconds, "directory": directory}
    cursor = await connection.execute(_LEASE, bounds)
    return [Lookup(*row) for row in await cursor.fetchall()]


async def next_due(connection: Connection) -> float | None:
    """Return the seconds until the next question is due, None when there is none."""
    row = await (await connection.execute(_NEXT_DUE)).fetchone()
    return row[0] if row else None


async def close(connection: Connection, lookup: Lookup) -> bool:
    """Close an answered question; False: it was asked again meanwhile, and is due at once."""
    key = [lookup.did, lookup.kind]
    closed = await connection.execute(_CLOSE, [*key, lookup.version])
    if closed.rowcount == 0:
        await connection.execute(_REOPEN, key)
    return closed.rowcount == 1


async def postpone(connection: Connection, lookup: Lookup, delay: float, error: str) -> None:
    """Give a question back after a failure; it is due again in ``delay`` seconds."""
    await connection.execute(
        _POSTPONE,
        {"did": lookup.did, "kind": lookup.kind, "delay": delay, "error": error},
    )


async def defer(connection: Connection, lookup: Lookup, delay: float, error: str) -> None:
    """Give a question back that could not be asked; that is no attempt at it."""
    await connection.execute(
        _DEFER,
        {"did": lookup.did, "kind": lookup.kind, "delay": delay, "error": error},
    )
