"""Automatic syncs: queued where the need is noticed, and again after one ended in vain.

Beside them automatic refreshes, of single records whose bytes a host did not send: they are
renewed by the same rule, a bounded number of times.

At most one automatic sync of a DID is queued at a time; asking again changes nothing.  How long
a new one waits is decided by the rules of ``procedures.retries``: SQL gets their ``steps``.
"""

from __future__ import annotations

from collections.abc import Sequence
from uuid import uuid4

from consumer.state.effects import SyncRequest
from consumer.store.arrays import Bigints, Doubles, Texts
from consumer.store.database import Connection
from consumer.store.rows import RefreshWanted
from procedures.failures import Failure
from procedures.retries import Backoff, Throttle

REFRESHES_IN_VAIN = 30
"""Automatic refreshes of one record in a row that may fail; the next sync begins anew."""

_ADD = """
INSERT INTO operations (id, type, did, lane, automatic, reason, want, run_after)
SELECT new.id, 'didSync', new.did, %(lane)s, true, new.reason, new.want,
    now() + make_interval(
        secs => (%(waits)s::float8[])[least(recent.syncs + 1, cardinality(%(waits)s::float8[]))]
    )
FROM unnest(%(ids)s, %(dids)s, %(reasons)s, %(wants)s) AS new (id, did, reason, want)
CROSS JOIN LATERAL (
    SELECT count(*) AS syncs FROM operations AS o
    WHERE o.did = new.did AND o.type = 'didSync' AND o.automatic
        AND o.requested_at > now() - make_interval(secs => %(window)s)
) AS recent
ON CONFLICT (did) WHERE automatic AND type = 'didSync' AND status = 'queued' DO NOTHING
"""

_ADD_REFRESHES = """
INSERT INTO operations (id, type, did, uri, lane, automatic, reason, run_after)
SELECT new.id, 'recordRefresh', new.did, new.uri, %(lane)s, true, %(reason)s,
    now() + make_interval(secs => %(seconds)s)
FROM unnest(%(ids)s, %(dids)s, %(uris)s) AS new (id, did, uri)
WHERE NOT EXISTS (
    SELECT FROM operations AS o
    WHERE o.did = new.did AND o.uri = new.uri AND o.type = 'recordRefresh'
        AND o.status IN ('queued', 'running')
)
"""

# The row of an operation that failed says all that the next one needs.
_RENEW_REFRESHES = """
INSERT INTO operations (id, type, did, uri, lane, automatic, reason, setbacks, run_after)
SELECT gen_random_uuid()::text, old.type, old.did, old.uri, old.lane, true, old.reason,
    old.setbacks + 1, now() + make_interval(secs =>
        (%(waits)s::float8[])[least(old.setbacks + 1, cardinality(%(waits)s::float8[]))]
            * (1 - %(jitter)s + %(jitter)s * random()))
FROM operations AS old JOIN repos AS r ON r.did = old.did
WHERE old.id = ANY(%(ids)s) AND old.type = 'recordRefresh' AND old.automatic
    AND old.status = 'failed' AND old.failure IS DISTINCT FROM %(unwanted)s
    AND old.setbacks < %(most)s AND r.status = 'active'
    AND NOT EXISTS (
        SELECT FROM operations AS o
        WHERE o.did = old.did AND o.uri = old.uri AND o.type = 'recordRefresh'
            AND o.status IN ('queued', 'running')
    )
"""

# Others have a newer rev than the row of the repository.
_ADD_BEHIND = """
INSERT INTO operations (id, type, did, lane, automatic, reason, want)
SELECT id, 'didSync', new.did, new.lane, true, 'listed_newer', r.want
FROM unnest(%(ids)s, %(dids)s, %(lanes)s, %(revs)s) AS new (id, did, lane, rev)
JOIN repos AS r ON r.did = new.did
WHERE r.status = 'active' AND (r.rev IS NULL OR r.rev < new.rev)
    AND NOT EXISTS (
        SELECT FROM operations AS o WHERE o.did = new.did AND o.type = 'didSync'
            AND o.status IN ('queued', 'running')
    )
ON CONFLICT (did) WHERE automatic AND type = 'didSync' AND status = 'queued' DO NOTHING
"""

# A repo that needs a sync and has none open, and how often its syncs ended in vain before.
_NEEDY = """
    r.sync_state <> 'active' AND r.status = 'active' AND NOT EXISTS (
        SELECT FROM operations AS o WHERE o.did = r.did AND o.type = 'didSync'
            AND o.status IN ('queued', 'running')
    )
"""
_LAST_VAIN = """
    SELECT setbacks FROM operations AS o
    WHERE o.did = r.did AND o.type = 'didSync' AND o.status IN ('failed', 'cancelled')
    ORDER BY completed_at DESC LIMIT 1
"""
_INSERT_RENEWED = """
INSERT INTO operations (id, type, did, lane, automatic, reason, want, setbacks, run_after)
SELECT gen_random_uuid()::text, 'didSync', r.did, r.lane, true, r.reason, r.want,
    CASE WHEN last.setbacks IS NULL THEN 0 ELSE least(last.setbacks, 30) + 1 END,
    CASE WHEN last.setbacks IS NULL THEN now() ELSE now() + make_interval(secs =>
        (%(waits)s::float8[])[least(last.setbacks + 1, cardinality(%(waits)s::float8[]))]
            * (1 - %(jitter)s + %(jitter)s * random()))
    END
"""
_ONE_QUEUED = (
    "ON CONFLICT (did) WHERE automatic AND type = 'didSync' AND status = 'queued' DO NOTHING"
)
_RENEW = f"""
{_INSERT_RENEWED}
FROM repos AS r JOIN LATERAL ({_LAST_VAIN}) AS last ON true
WHERE r.did = ANY(%(dids)s) AND {_NEEDY}
{_ONE_QUEUED}
"""
# After a loss window, or with another scope, there are as many as there are repositories.
_DESYNCHRONIZED = """
SELECT did FROM repos WHERE sync_state <> 'active' AND status = 'active' AND did > %s
ORDER BY did LIMIT %s
"""
_REPAIR = f"""
{_INSERT_RENEWED}
FROM repos AS r LEFT JOIN LATERAL ({_LAST_VAIN}) AS last ON true
WHERE r.did = ANY(%(dids)s) AND {_NEEDY}
{_ONE_QUEUED}
"""


async def add(
    connection: Connection, lane: int, wanted: Sequence[SyncRequest], throttle: Throttle
) -> None:
    """Queue automatic syncs, throttled per DID; a DID occurs at most once in ``wanted``."""
    parameters = {
        "lane": lane,
        "ids": Texts([str(uuid4()) for _ in wanted]),
        "dids": Texts([sync.did for sync in wanted]),
        "reasons": Texts([sync.reason for sync in wanted]),
        "wants": Bigints([sync.resync_generation for sync in wanted]),
        "waits": Doubles(throttle.steps),
        "window": throttle.window,
    }
    await connection.execute(_ADD, parameters)


async def add_behind(connection: Connection, behind: Sequence[tuple[str, int, str]]) -> int:
    """Queue a sync for each (DID, lane, rev) whose rev is newer than what is known.

    Returns how many.
    """
    parameters = {
        "ids": Texts([str(uuid4()) for _ in behind]),
        "dids": Texts([did for did, _, _ in behind]),
        "lanes": Bigints([lane for _, lane, _ in behind]),
        "revs": Texts([rev for _, _, rev in behind]),
    }
    return (await connection.execute(_ADD_BEHIND, parameters)).rowcount


async def add_refreshes(
    connection: Connection, lane: int, wanted: Sequence[RefreshWanted], reason: str, seconds: float
) -> None:
    """Queue automatic refreshes, due in ``seconds``, of records that have none open."""
    unique = list(dict.fromkeys(wanted))
    parameters = {
        "lane": lane,
        "reason": reason,
        "seconds": seconds,
        "ids": Texts([str(uuid4()) for _ in unique]),
        "dids": Texts([one.did for one in unique]),
        "uris": Texts([f"at://{one.did}/{one.path}" for one in unique]),
    }
    await connection.execute(_ADD_REFRESHES, parameters)


async def renew(connection: Connection, dids: Sequence[str], backoff: Backoff) -> None:
    """Queue another automatic sync of each of ``dids`` whose last one failed or was cancelled.

    What ends a sync so calls it in the same transaction (invariant 8).  It does nothing where
    the repo is active or has a sync open.
    """
    await connection.execute(_RENEW, _waits(backoff) | {"dids": Texts(dids)})


async def renew_refreshes(
    connection: Connection, identifiers: Sequence[str], backoff: Backoff
) -> None:
    """Queue another automatic refresh for each of ``identifiers`` that is one and has failed.

    At most ``REFRESHES_IN_VAIN`` in a row; none where the account is not active any more, or the
    collection is not wanted.  A refresh completes when its record's bytes come, and when the
    repository proves that the record is gone: it is not renewed then.
    """
    parameters = {
        "ids": Texts(identifiers),
        "most": REFRESHES_IN_VAIN,
        "unwanted": Failure.OUT_OF_SCOPE.value,
    }
    await connection.execute(_RENEW_REFRESHES, _waits(backoff) | parameters)


async def repair(
    connection: Connection, backoff: Backoff, after: str, limit: int
) -> tuple[int, str]:
    """Queue a sync for repos that need one and have none; return how many, and where to go on.

    Looks at ``limit`` desynchronized repos behind the DID ``after``, in order; goes on at "" when
    there are no more.  At once where no sync has ended in vain, else after the wait of ``renew``.
    """
    rows = await (await connection.execute(_DESYNCHRONIZED, [after, limit])).fetchall()
    dids = [did for (did,) in rows]
    if not dids:
        return 0, ""
    parameters = _waits(backoff) | {"dids": Texts(dids)}
    queued = (await connection.execute(_REPAIR, parameters)).rowcount
    return queued, dids[-1] if len(dids) == limit else ""


def _waits(backoff: Backoff) -> dict[str, object]:
    return {"waits": Doubles(backoff.steps), "jitter": backoff.jitter}
