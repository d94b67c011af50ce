"""Sweeps: what nobody else notices is put right (invariant 8), a bounded portion at a time.

- An operation whose fetcher died comes back when its lease has expired.
- One that is injected, and whose last chunk the lane has passed without completing it, is
  fetched again: the message was refused, or lost with the topic.
- A repo that is desynchronized, and has no sync open, gets one.
- What ended long ago is forgotten.
"""

from __future__ import annotations

from consumer.store.arrays import Texts
from consumer.store.database import Connection
from consumer.store.operations import write

_LIMIT = 500

_LOST = """
SELECT id FROM operations WHERE status = 'running' AND lease_until < now() AND type <> 'discovery'
ORDER BY lease_until LIMIT %s FOR UPDATE SKIP LOCKED
"""
_PASSED = """
SELECT o.id FROM operations AS o JOIN lanes AS l ON l.lane = o.lane
WHERE o.status = 'running' AND o.phase = 'injected' AND l.backfill_offset >= o.injected_offset
ORDER BY o.id LIMIT %s FOR UPDATE OF o SKIP LOCKED
"""
_AUTOMATIC = "SELECT id FROM operations WHERE id = ANY(%s) AND automatic AND type = 'didSync'"
_REQUEUE = """
UPDATE operations SET status = 'queued', phase = NULL, run_after = now(), error = %s,
    lease_owner = NULL, lease_until = NULL, injected_offset = NULL, version = version + 1
WHERE id = ANY(%s) AND status = 'running'
"""
_REPAIR = """
INSERT INTO operations (id, type, did, lane, automatic, reason, want, setbacks, run_after)
SELECT gen_random_uuid()::text, 'didSync', r.did, r.lane, true, r.reason, r.resync_generation,
    coalesce(last.setbacks + 1, 0),
    CASE WHEN last.setbacks IS NULL THEN now()
         ELSE now() + least(interval '1 minute' * 2 ^ least(last.setbacks, 30), interval '1 day')
     END
FROM (
    SELECT did, lane, reason, want FROM repos AS one
    WHERE one.sync_state <> 'active' AND one.status = 'active' AND NOT EXISTS (
        SELECT FROM operations AS o WHERE o.did = one.did AND o.type = 'didSync'
            AND o.status IN ('queued', 'running')
    )
    LIMIT %s
) AS r LEFT JOIN LATERAL (
    SELECT setbacks FROM operations AS o
    WHERE o.did = r.did AND o.type = 'didSync' AND o.status IN ('failed', 'cancelled')
    ORDER BY completed_at DESC LIMIT 1
) AS last ON true
ON CONFLICT (did) WHERE automatic AND type = 'didSync' AND status = 'queued' DO NOTHING
"""
_FORGET = """
DELETE FROM operations WHERE id IN (
    SELECT id FROM operations WHERE completed_at < now() - make_interval(secs => %s)
    ORDER BY completed_at LIMIT %s
)
RETURNING id
"""


async def requeue_lost(connection: Connection) -> int:
    """Queue again what lost its fetcher; return how many."""
    return await _requeue(connection, _LOST, "the fetcher was lost")


async def requeue_passed(connection: Connection) -> int:
    """Queue again what was injected and has not come to its end; return how many."""
    return await _requeue(connection, _PASSED, "what was injected did not complete it")


async def repair(connection: Connection) -> int:
    """Queue a sync for desynchronized repos that have none; return how many."""
    return (await connection.execute(_REPAIR, [_LIMIT])).rowcount


async def forget(connection: Connection, seconds: float) -> list[str]:
    """Delete operations that ended more than ``seconds`` ago; return their ids."""
    cursor = await connection.execute(_FORGET, [seconds, _LIMIT])
    return [identifier for (identifier,) in await cursor.fetchall()]


async def _requeue(connection: Connection, chosen: str, error: str) -> int:
    ids = [found for (found,) in await (await connection.execute(chosen, [_LIMIT])).fetchall()]
    if not ids:
        return 0
    automatic = await (await connection.execute(_AUTOMATIC, [Texts(ids)])).fetchall()
    await write.replace_queued(connection, [found for (found,) in automatic])
    return (await connection.execute(_REQUEUE, [error, Texts(ids)])).rowcount
