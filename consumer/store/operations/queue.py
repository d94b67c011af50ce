"""Operations: queued by the worker in the transaction that notices the need.

At most one automatic sync of a DID is queued; asking again changes nothing.  Every change of
a row raises ``version``; the controller publishes rows whose newest version is not out.
"""

from __future__ import annotations

from collections.abc import Sequence
from uuid import uuid4

from consumer.store.arrays import Bigints, Texts
from consumer.store.database import Connection
from consumer.store.rows import SyncWanted

# Three an hour of a DID are due at once; beyond them the wait doubles from 10 s to an hour, so
# that an account whose repository breaks again and again costs ever less.
_QUEUE = """
INSERT INTO operations (id, type, did, lane, automatic, reason, want, run_after)
SELECT new.id, 'didSync', new.did, %s, true, new.reason, new.resync_generation,
    CASE WHEN recent.syncs < 3 THEN now()
         ELSE now() + least(interval '10 seconds' * 2 ^ least(recent.syncs - 3, 30),
                            interval '1 hour')
    END
FROM unnest(%s, %s, %s, %s) AS new (id, did, reason, want) CROSS JOIN LATERAL (
    SELECT count(*) AS syncs FROM operations AS o
    WHERE o.did = new.did AND o.type = 'didSync' AND o.automatic
        AND o.requested_at > now() - interval '1 hour'
) AS recent
ON CONFLICT (did) WHERE automatic AND type = 'didSync' AND status = 'queued' DO NOTHING
"""
_SETTLE = """
UPDATE operations SET
    status = 'cancelled',
    error = 'the repository became active without it',
    completed_at = now(),
    version = version + 1
WHERE did = ANY(%s) AND automatic AND type = 'didSync' AND status = 'queued'
    AND NOT EXISTS (
        SELECT FROM operations AS f WHERE f.same_as = operations.id AND f.status = 'queued'
    )
"""
# The last sync of a repo that still needs one has ended in vain: another, later each time.
_RENEW = """
INSERT INTO operations
    (id, type, did, lane, automatic, reason, want, setbacks, run_after)
SELECT gen_random_uuid()::text, 'didSync', r.did, r.lane, true, r.reason, r.resync_generation,
    least(last.setbacks, 30) + 1,
    now() + least(interval '1 minute' * 2 ^ least(last.setbacks, 30), interval '1 day')
        * (0.5 + random() / 2)
FROM repos AS r JOIN LATERAL (
    SELECT setbacks FROM operations AS o
    WHERE o.did = r.did AND o.type = 'didSync' AND o.status IN ('failed', 'cancelled')
    ORDER BY completed_at DESC LIMIT 1
) AS last ON true
WHERE r.did = ANY(%s) AND r.sync_state <> 'active' AND r.status = 'active'
    AND NOT EXISTS (
        SELECT FROM operations AS o WHERE o.did = r.did AND o.type = 'didSync'
            AND o.status IN ('queued', 'running')
    )
ON CONFLICT (did) WHERE automatic AND type = 'didSync' AND status = 'queued' DO NOTHING
"""


async def add(connection: Connection, lane: int, wanted: Sequence[SyncWanted]) -> None:
    """Queue automatic syncs, throttled per DID; a DID occurs at most once."""
    await connection.execute(
        _QUEUE,
        [
            lane,
            Texts([str(uuid4()) for _ in wanted]),
            Texts([sync.did for sync in wanted]),
            Texts([sync.reason for sync in wanted]),
            Bigints([sync.resync_generation for sync in wanted]),
        ],
    )


async def settle(connection: Connection, dids: Sequence[str]) -> None:
    """Cancel the automatic syncs that are still queued for ``dids``: they are moot.

    One that somebody's operation follows stays: it is what somebody asked for.
    """
    await connection.execute(_SETTLE, [Texts(dids)])


async def renew(connection: Connection, dids: Sequence[str]) -> None:
    """Queue later automatic syncs of ``dids`` whose sync has failed or was cancelled.

    Whoever ends a sync so calls it in the same transaction (invariant 8); it does nothing where
    the repo is active, or something is open.  The wait doubles from a minute to a day.
    """
    await connection.execute(_RENEW, [Texts(dids)])
