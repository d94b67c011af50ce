"""Lookups: what workers want to know from the fetchers.

A lookup is one row per (DID, kind).  A new request for the same raises ``version``, so that an
answer already on its way does not close the newer request.  A fetcher leases a due row, answers
on ``chive.backfill``, and then closes the row at the version that it leased.
"""

from __future__ import annotations

from collections.abc import Sequence

from consumer.backfill import Cause, LookupKind
from consumer.state.accounts import AccountRules
from consumer.store.arrays import Bigints, Doubles, Texts
from consumer.store.database import Connection
from consumer.store.rows import LeasedLookup, LookupRequest

CHANNEL = "lookups"

# A question about an account keeps its distance from the last answer, and from one on its way;
# ``every`` 0: none.
_DUE = """
    greatest(
        now() + make_interval(secs => new.delay),
        CASE WHEN new.kind = 'account' AND new.every > 0
            THEN answered.asked_at + make_interval(secs => new.every) END,
        CASE WHEN new.kind = 'account' AND running.lease_until > now()
            THEN now() + make_interval(secs => new.every) END
    )
"""
_KNOWN = """
    LEFT JOIN account_answers AS answered ON answered.did = new.did
    LEFT JOIN lookups AS running ON running.did = new.did AND running.kind = new.kind
"""
# A lookup that is backing off keeps its time: a new request does not hammer the host.  One that
# is on its way is due again when it is back, because its answer may be too old for the request.
# The cause of the newest frame's own question stays: its answer is the second source.  So does that
# of a person, whose question lifts what holds deletions.
_RENEW = """
ON CONFLICT (did, kind) DO UPDATE SET
    lane = EXCLUDED.lane,
    cause = CASE WHEN open.cause IN ('frame', 'person')
            AND (open.session, open.seq) >= (EXCLUDED.session, EXCLUDED.seq)
        THEN open.cause ELSE EXCLUDED.cause END,
    session = greatest(open.session, EXCLUDED.session),
    seq = CASE WHEN EXCLUDED.session > open.session THEN EXCLUDED.seq
               WHEN EXCLUDED.session = open.session THEN greatest(open.seq, EXCLUDED.seq)
               ELSE open.seq END,
    version = open.version + 1,
    run_after = CASE
        WHEN open.kind = 'account' AND open.lease_until > now() THEN EXCLUDED.run_after
        WHEN open.attempts = 0 THEN least(open.run_after, EXCLUDED.run_after)
        ELSE open.run_after END
"""
_REQUEST = f"""
INSERT INTO lookups AS open (did, kind, lane, session, seq, cause, run_after)
SELECT new.did, new.kind, new.lane, new.session, new.seq, new.cause, {_DUE}
FROM unnest(%s, %s, %s, %s, %s, %s, %s, %s)
    AS new (did, kind, lane, session, seq, cause, delay, every) {_KNOWN}
{_RENEW}
"""  # noqa: S608 - constants of this module
# The question of a process that is not the lane's owner.  A deleted account is not asked about
# because of what follows from its deletion.
_ASK = f"""
INSERT INTO lookups AS open (did, kind, lane, session, seq, cause, run_after)
SELECT new.did, new.kind, r.lane, r.status_session, r.status_seq, new.cause, {_DUE}
FROM (
    SELECT did, 'account' AS kind, cause, 0::float8 AS delay, every
    FROM unnest(%s, %s, %s) AS given (did, cause, every)
) AS new JOIN repos AS r ON r.did = new.did {_KNOWN}
WHERE r.status <> 'deleted' OR new.cause NOT IN ('refusal', 'directory')
{_RENEW}
"""  # noqa: S608
# A lease or an answer under way is waited for, so that ``_DUE``, a statement behind, sees it.
_SETTLE = """
SELECT FROM lookups WHERE kind = 'account' AND did = ANY(%s) ORDER BY did FOR UPDATE
"""
_NOTIFY = f"SELECT pg_notify(current_schema() || '_{CHANNEL}', '')"

_LEASE = """
UPDATE lookups SET lease_until = now() + make_interval(secs => %(lease)s)
WHERE (did, kind) IN (
    SELECT did, kind FROM lookups
    WHERE {chosen} run_after <= now() AND (lease_until IS NULL OR lease_until <= now())
    ORDER BY run_after LIMIT %(limit)s
    FOR UPDATE SKIP LOCKED
)
RETURNING did, kind, lane, session, seq, version, attempts, at_directory, cause
"""
# With a parameter PostgreSQL might plan for both, and read one to find the other.
_LEASES = {
    None: _LEASE.format(chosen=""),
    True: _LEASE.format(chosen="at_directory AND"),
    False: _LEASE.format(chosen="NOT at_directory AND"),
}
# A locked one is being opened or closed: its lease is extended the next time.
_EXTEND = """
WITH held AS (
    SELECT l.did, l.kind FROM lookups AS l
    JOIN unnest(%s, %s) AS mine (did, kind) ON l.did = mine.did AND l.kind = mine.kind
    WHERE l.lease_until IS NOT NULL FOR UPDATE OF l SKIP LOCKED
)
UPDATE lookups AS l SET lease_until = now() + make_interval(secs => %s)
FROM held WHERE l.did = held.did AND l.kind = held.kind
"""
_NEXT_DUE = """
SELECT extract(epoch FROM min(greatest(run_after, lease_until)) - now())::float8 FROM lookups
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
    if accounts := [each.did for each in requests if each.kind == LookupKind.ACCOUNT]:
        await connection.execute(_SETTLE, [Texts(accounts)])
    await connection.execute(
        _REQUEST,
        [
            Texts([each.did for each in requests]),
            Texts([each.kind for each in requests]),
            Bigints([each.lane for each in requests]),
            Bigints([each.epoch for each in requests]),
            Bigints([each.seq for each in requests]),
            Texts([each.cause for each in requests]),
            Doubles([each.delay for each in requests]),
            Doubles([each.every for each in requests]),
        ],
    )
    await connection.execute(_NOTIFY)


async def ask(
    connection: Connection, dids: Sequence[str], cause: Cause, rules: AccountRules
) -> None:
    """Ask about the accounts of ``dids``: a sign says that their status may be wrong.

    What is known of the newest frame comes from ``repos``, and an account without a repo is not
    asked about.  May be called in any transaction, as often as there is a sign: at most one
    question of an account is open, and the rules say how soon after an answer the next one may be
    asked.
    """
    unique = sorted(set(dids))  # in order, so that two transactions do not wait for each other
    if not unique:
        return
    await connection.execute(_SETTLE, [Texts(unique)])
    every = rules.pause(cause)
    parameters = [Texts(unique), Texts([cause] * len(unique)), Doubles([every] * len(unique))]
    await connection.execute(_ASK, parameters)
    await connection.execute(_NOTIFY)


async def lease(
    connection: Connection, limit: int, seconds: float, *, directory: bool | None = None
) -> list[LeasedLookup]:
    """Lease up to ``limit`` due lookups for ``seconds``; no other fetcher gets them meanwhile.

    ``directory``: True for those that go to the PLC directory only, False for all others, None
    for both.
    """
    parameters = {"limit": limit, "lease": seconds}
    cursor = await connection.execute(_LEASES[directory], parameters)
    return [LeasedLookup(*row) for row in await cursor.fetchall()]


async def extend(connection: Connection, leased: Sequence[LeasedLookup], seconds: float) -> None:
    """Lease leased lookups until ``seconds`` from now; one that is locked is passed over."""
    dids, kinds = Texts([each.did for each in leased]), Texts([each.kind for each in leased])
    await connection.execute(_EXTEND, [dids, kinds, seconds])


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
