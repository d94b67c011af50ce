"""Operations as fetchers take them, carry them out and give them back.

A claim is a lease with a name of its own: its holder extends it while it works, and stops when
the row does not bear the name any more.  Syncs of one DID follow each other, so do refreshes of
one record; what somebody asked for goes first.  An injected operation needs no lease: the
worker ends it.
"""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from uuid import uuid4

from psycopg.rows import dict_row

from consumer.store.arrays import Texts
from consumer.store.database import Connection
from consumer.store.operations import queue, write
from consumer.store.operations.rows import COLUMNS, of_row
from procedures import transitions
from procedures.failures import Failure
from procedures.operations import Operation, Phase, Status, Type

CHANNEL = "work"


@dataclass(frozen=True, slots=True)
class Claim:
    """A claimed operation, and what the repo's row said then; ``floor`` None: no row."""

    lease: str
    operation: Operation
    lane: int
    resync_generation: int
    floor: str | None
    rev: str | None


_ONE_BY_ONE = "SELECT pg_advisory_xact_lock(hashtextextended(current_schema() || '_claims', 0))"
# No further than so many: what waits for a busy host must not make claims slow.
_CLAIM = f"""
WITH due AS (
    SELECT id, did, automatic, run_after, host FROM operations AS o
    WHERE status = 'queued' AND same_as IS NULL AND run_after <= now() AND type = %(type)s
        AND (%(automatic)s OR NOT automatic)
        AND NOT EXISTS (
            SELECT FROM operations AS running
            WHERE running.status = 'running' AND running.type = o.type
                AND running.did = o.did AND running.uri IS NOT DISTINCT FROM o.uri
        )
    ORDER BY automatic, run_after LIMIT 2000
), chosen AS (
    SELECT o.id FROM due JOIN operations AS o USING (id) LEFT JOIN repos AS r ON r.did = due.did
    WHERE coalesce(due.host, substring(r.pds FROM '//(.*)'), '') <> ALL(%(busy)s)
    ORDER BY due.automatic, due.run_after LIMIT 1 FOR UPDATE OF o SKIP LOCKED
)
UPDATE operations SET status = 'running', phase = 'resolving', progress = 0,
    records_processed = 0, total_records = NULL, attempts = attempts + 1,
    started_at = coalesce(started_at, now()), error = NULL, failure = NULL,
    lease_owner = %(lease)s, lease_until = now() + make_interval(secs => %(seconds)s),
    injected_offset = NULL, version = version + 1
FROM chosen WHERE operations.id = chosen.id
RETURNING {COLUMNS}, lane
"""  # noqa: S608 - our own columns
_REPO = "SELECT want, floor_rev, rev FROM repos WHERE did = %s"
_NEXT_DUE = """
SELECT extract(epoch FROM min(run_after) - now())::float8 FROM operations
WHERE status = 'queued' AND same_as IS NULL AND type <> 'discovery' AND run_after > now()
"""
_EXTEND = """
UPDATE operations SET lease_until = now() + make_interval(secs => %s)
WHERE lease_owner = ANY(%s) AND status = 'running' RETURNING lease_owner
"""
_NOTE = """
UPDATE operations SET phase = %(phase)s, progress = greatest(progress, %(progress)s),
    total_records = coalesce(%(total)s, total_records), version = version + 1
WHERE lease_owner = %(lease)s AND status = 'running'
"""
_INJECTED = """
UPDATE operations SET phase = 'injected', injected_offset = %s, lease_owner = NULL,
    lease_until = NULL, version = version + 1
WHERE lease_owner = %s AND status = 'running'
"""
_HELD = "SELECT id FROM operations WHERE lease_owner = ANY(%s) AND status = 'running' FOR UPDATE"
_AT_HOST = "UPDATE operations SET host = %s WHERE id = ANY(%s)"
_LANE = "SELECT backfill_offset FROM lanes WHERE lane = %s"


async def claim(
    connection: Connection,
    kind: Type,
    seconds: float,
    *,
    busy: Sequence[str] = (),
    automatic: bool = True,
) -> Claim | None:
    """Take the next due operation of ``kind`` for so many seconds; None if there is none.

    What is known to go to one of the ``busy`` hosts is passed over, and what nobody has asked
    for unless ``automatic``.
    """
    lease = str(uuid4())
    parameters = {
        "type": kind,
        "lease": lease,
        "seconds": seconds,
        "busy": Texts(busy),
        "automatic": automatic,
    }
    await connection.execute(_ONE_BY_ONE)
    async with connection.cursor(binary=True, row_factory=dict_row) as cursor:
        await cursor.execute(_CLAIM, parameters)
        row = await cursor.fetchone()
    if row is None:
        return None
    lane = int(row.pop("lane"))
    operation = of_row(row)
    repo = await (await connection.execute(_REPO, [operation.did])).fetchone()
    generation, floor, rev = repo or (0, None, None)
    return Claim(lease, operation, lane, generation, floor, rev)


async def next_due(connection: Connection) -> float | None:
    """Return the seconds until something more is due, None if nothing is queued for later."""
    row = await (await connection.execute(_NEXT_DUE)).fetchone()
    return row[0] if row else None


async def extend(connection: Connection, leases: Sequence[str], seconds: float) -> set[str]:
    """Extend ``leases``, and return those that hold still."""
    cursor = await connection.execute(_EXTEND, [seconds, Texts(leases)])
    return {lease for (lease,) in await cursor.fetchall()}


async def note(
    connection: Connection, lease: str, phase: Phase, progress: int, total: int | None = None
) -> None:
    """Note how far an operation is, if the lease holds; ``progress`` in percent."""
    parameters = {"lease": lease, "phase": phase, "progress": progress, "total": total}
    await connection.execute(_NOTE, parameters)


async def injected(connection: Connection, lease: str, offset: int) -> None:
    """Leave an operation to the worker, which has ended it when it is past ``offset``."""
    await connection.execute(_INJECTED, [offset, lease])


async def failed(
    connection: Connection,
    lease: str,
    failure: Failure,
    detail: str,
    retry_after: float | None,
) -> Operation | None:
    """End a failed attempt, if the lease holds; return the operation after it."""
    held = await _held(connection, [lease])
    if not held:
        return None
    after = transitions.try_again(
        held[0],
        time.time(),
        failure,
        detail,
        jitter=random.random(),  # noqa: S311
        retry_after=retry_after,
    )
    await _release(connection, [after])
    if after.ended and after.type is Type.DID_SYNC and after.did:
        await queue.renew(connection, [after.did])
    return after


async def put_off(
    connection: Connection, lease: str, failure: Failure, detail: str, seconds: float, host: str
) -> None:
    """End an attempt in which nothing was tried, because ``host`` had no place for it."""
    run_after = time.time() + seconds * random.uniform(1.0, 1.5)  # noqa: S311
    held = await _held(connection, [lease])
    after = [transitions.put_off(one, run_after, failure, detail) for one in held]
    await _release(connection, after)
    await connection.execute(_AT_HOST, [host, Texts([one.id for one in after])])


async def give_back(connection: Connection, leases: Sequence[str]) -> None:
    """Queue again whatever the leases still hold: their holder stops."""
    now, error = time.time(), "the fetcher stopped"
    held = await _held(connection, leases)
    await _release(connection, [transitions.requeue(one, now, error=error) for one in held])


async def _held(connection: Connection, leases: Sequence[str]) -> list[Operation]:
    ids = await (await connection.execute(_HELD, [Texts(leases)])).fetchall()
    return await write.lock(connection, [identifier for (identifier,) in ids])


async def _release(connection: Connection, after: Sequence[Operation]) -> None:
    queued = [one.id for one in after if one.status is Status.QUEUED and one.automatic]
    await write.replace_queued(connection, queued)
    await write.save(connection, after)


async def backfill_offset(connection: Connection, lane: int) -> int:
    """Return the offset of ``chive.backfill`` that the worker of ``lane`` reads next."""
    row = await (await connection.execute(_LANE, [lane])).fetchone()
    return int(row[0]) if row else 0
