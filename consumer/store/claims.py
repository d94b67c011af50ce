"""Operations as fetchers take them, carry them out and give them back.

A claim is a lease: its owner extends it while it works, and whoever finds the row no longer its
own stops.  Syncs of one DID follow each other, so do refreshes of one record; what somebody
asked for goes first.  An injected operation needs no lease: the worker ends it.
"""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from dataclasses import dataclass

from psycopg.rows import dict_row

from consumer.store import applied, operations
from consumer.store.arrays import Texts
from consumer.store.database import Connection
from consumer.store.operations import COLUMNS, of_row
from procedures import transitions
from procedures.failures import Failure
from procedures.operations import Operation, Phase, Status, Type

CHANNEL = "work"


@dataclass(frozen=True, slots=True)
class Claim:
    """A claimed operation, and what the repo's row said then; ``floor`` None: no row."""

    operation: Operation
    lane: int
    want: int
    floor: str | None
    rev: str | None


_ONE_BY_ONE = "SELECT pg_advisory_xact_lock(hashtextextended(current_schema() || '_claims', 0))"
_CLAIM = f"""
WITH chosen AS (
    SELECT id FROM operations AS due
    WHERE status = 'queued' AND same_as IS NULL AND run_after <= now() AND type = %(type)s
        AND NOT EXISTS (
            SELECT FROM operations AS running
            WHERE running.status = 'running' AND running.type = due.type
                AND running.did = due.did AND running.uri IS NOT DISTINCT FROM due.uri
        )
    ORDER BY automatic, run_after LIMIT 1 FOR UPDATE SKIP LOCKED
)
UPDATE operations SET status = 'running', phase = 'resolving', progress = 0,
    records_processed = 0, total_records = NULL, attempts = attempts + 1,
    started_at = coalesce(started_at, now()), error = NULL, failure = NULL,
    lease_owner = %(owner)s, lease_until = now() + make_interval(secs => %(lease)s),
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
WHERE id = ANY(%s) AND lease_owner = %s AND status = 'running' RETURNING id
"""
_NOTE = """
UPDATE operations SET phase = %(phase)s, progress = greatest(progress, %(progress)s),
    total_records = coalesce(%(total)s, total_records), version = version + 1
WHERE id = %(id)s AND lease_owner = %(owner)s AND status = 'running'
"""
_INJECTED = """
UPDATE operations SET phase = 'injected', injected_offset = %(offset)s, lease_owner = NULL,
    lease_until = NULL, version = version + 1
WHERE id = %(id)s AND lease_owner = %(owner)s AND status = 'running' AND attempts = %(attempt)s
"""
_OWN = """
SELECT id FROM operations WHERE id = %s AND lease_owner = %s AND status = 'running' FOR UPDATE
"""
_GIVE_BACK = """
UPDATE operations SET lease_until = now() WHERE lease_owner = %s AND status = 'running'
"""
_LANE = "SELECT backfill_offset FROM lanes WHERE lane = %s"


async def claim(connection: Connection, kind: Type, owner: str, seconds: float) -> Claim | None:
    """Take the next due operation of ``kind``; None if there is none for us."""
    await connection.execute(_ONE_BY_ONE)
    async with connection.cursor(binary=True, row_factory=dict_row) as cursor:
        await cursor.execute(_CLAIM, {"type": kind, "owner": owner, "lease": seconds})
        row = await cursor.fetchone()
    if row is None:
        return None
    lane = int(row.pop("lane"))
    operation = of_row(row)
    repo = await (await connection.execute(_REPO, [operation.did])).fetchone()
    want, floor, rev = repo or (0, None, None)
    return Claim(operation, lane, want, floor, rev)


async def next_due(connection: Connection) -> float | None:
    """Return the seconds until something more is due, None if nothing is queued for later."""
    row = await (await connection.execute(_NEXT_DUE)).fetchone()
    return row[0] if row else None


async def extend(
    connection: Connection, owner: str, ids: Sequence[str], seconds: float
) -> set[str]:
    """Extend the leases of ``ids``, and return which of them are still ours."""
    cursor = await connection.execute(_EXTEND, [seconds, Texts(ids), owner])
    return {identifier for (identifier,) in await cursor.fetchall()}


async def note(
    connection: Connection,
    owner: str,
    identifier: str,
    phase: Phase,
    progress: int,
    total: int | None = None,
) -> None:
    """Note how far an operation is, if it is still ours; ``progress`` in percent."""
    parameters = {
        "id": identifier,
        "owner": owner,
        "phase": phase,
        "progress": progress,
        "total": total,
    }
    await connection.execute(_NOTE, parameters)


async def injected(
    connection: Connection, owner: str, identifier: str, attempt: int, offset: int
) -> None:
    """Leave an operation to the worker, which has ended it when it is past ``offset``."""
    parameters = {"id": identifier, "owner": owner, "attempt": attempt, "offset": offset}
    await connection.execute(_INJECTED, parameters)


async def failed(
    connection: Connection,
    owner: str,
    identifier: str,
    failure: Failure,
    detail: str,
    retry_after: float | None,
    *,
    held: bool,
) -> Operation | None:
    """End an attempt without a result, if it is still ours; return the operation after it.

    Not ``held``: the repository had no turn, and that is no failed attempt of its own.
    """
    if await (await connection.execute(_OWN, [identifier, owner])).fetchone() is None:
        return None
    (operation,) = await applied.lock(connection, [identifier])
    now = time.time()
    if held:
        after = transitions.try_again(
            operation,
            now,
            failure,
            detail,
            jitter=random.random(),  # noqa: S311
            retry_after=retry_after,
        )
    else:
        wait = max(retry_after or 0.0, 1.0) * random.uniform(1.0, 1.5)  # noqa: S311
        after = transitions.requeue(operation, now + wait, failure, detail)
    if after.status is Status.QUEUED and after.automatic:
        await applied.replace_queued(connection, [identifier])
    await applied.save(connection, [after])
    if after.ended and after.type is Type.DID_SYNC and after.did:
        await operations.renew(connection, [after.did])
    return after


async def give_back(connection: Connection, owner: str) -> None:
    """Let all leases of ``owner`` end now: a sweep queues the operations again."""
    await connection.execute(_GIVE_BACK, [owner])


async def backfill_offset(connection: Connection, lane: int) -> int:
    """Return the offset of ``chive.backfill`` that the worker of ``lane`` reads next."""
    row = await (await connection.execute(_LANE, [lane])).fetchone()
    return int(row[0]) if row else 0
