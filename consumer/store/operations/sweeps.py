"""Sweeps: what nothing else notices is put right (invariant 8), a bounded portion at a time.

- An operation whose fetcher died is queued again when its lease has expired.
- One that is injected, and whose last chunk the lane has passed without completing it, is
  fetched again: the message was refused, or lost with the topic.
- A repo that is desynchronized, and has no sync open, gets one.
- What ended long ago is deleted.
"""

from __future__ import annotations

import time

from consumer.store.database import Connection
from consumer.store.operations import queue, write
from procedures import transitions
from procedures.retries import Backoff

_LIMIT = 500
_LOOKED_AT = 2_000  # desynchronized repos; almost all have a sync

_LOST = """
SELECT id FROM operations WHERE status = 'running' AND lease_until < now() AND type <> 'discovery'
ORDER BY lease_until LIMIT %s FOR UPDATE SKIP LOCKED
"""
_PASSED = """
SELECT o.id FROM operations AS o JOIN lanes AS l ON l.lane = o.lane
WHERE o.status = 'running' AND o.phase = 'injected' AND l.backfill_offset >= o.injected_offset
ORDER BY o.id LIMIT %s FOR UPDATE OF o SKIP LOCKED
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


async def repair(connection: Connection, backoff: Backoff, after: str) -> tuple[int, str]:
    """Queue a sync for desynchronized repos behind the DID ``after`` that have none.

    Returns how many, and the DID to go on behind.
    """
    return await queue.repair(connection, backoff, after, _LOOKED_AT)


async def forget(connection: Connection, seconds: float) -> list[str]:
    """Delete operations that ended more than ``seconds`` ago; return their ids."""
    cursor = await connection.execute(_FORGET, [seconds, _LIMIT])
    return [identifier for (identifier,) in await cursor.fetchall()]


async def _requeue(connection: Connection, chosen: str, error: str) -> int:
    ids = [found for (found,) in await (await connection.execute(chosen, [_LIMIT])).fetchall()]
    if not ids:
        return 0
    now = time.time()
    after = [
        transitions.requeue(one, now, error=error) for one in await write.lock(connection, ids)
    ]
    await write.save(connection, after)
    return len(after)
