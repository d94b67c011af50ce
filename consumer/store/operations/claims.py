"""Operations as fetchers claim them, carry them out and give them back.

A claim is a lease with a name of its own: its holder extends it while it works, and stops when
the row no longer bears the name.  Syncs of one DID follow each other, so do refreshes of one
record; what was asked for by itself goes first, then come what was asked for with many others
and what is automatic, together, by the time at which they are due.  An injected operation needs
no lease: the worker ends it.
"""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from uuid import uuid4

from psycopg.rows import dict_row

from consumer.store.arrays import Booleans, Texts
from consumer.store.database import Connection
from consumer.store.operations import queue, write
from consumer.store.operations.rows import COLUMNS, of_row
from consumer.store.rows import DueOperation, WantedOperations
from procedures import transitions
from procedures.failures import Failure
from procedures.operations import IN_STEP, Operation, Phase, Type
from procedures.retries import RetryPolicy

CHANNEL = "work"

CHUNK_ROWS = 1_000
"""Known records of a repository that one chunk may cover."""


@dataclass(frozen=True, slots=True)
class Claim:
    """A claimed operation, and what the repo's row said then.

    ``lane`` is the number of the DID's lane; ``floor``
    and ``rev`` are revisions, None without one or without a row.  ``account`` is the account's
    status (None without a row), ``epoch`` and ``seq`` are those of its newest ``#account`` frame.
    ``rows``: how many rows of records a sync's DID has, ``CHUNK_ROWS`` if there are more.
    """

    lease: str
    operation: Operation
    lane: int
    resync_generation: int
    floor: str | None
    rev: str | None
    account: str | None = None
    epoch: int = 0
    seq: int = 0
    rows: int = 0


_ONE_BY_ONE = "SELECT pg_advisory_xact_lock(hashtextextended(current_schema() || '_claims', 0))"
# At most 2,000: what waits for a busy host must not make claims slow.
_DUE = """
SELECT wanted.type, due.id, due.did, due.uri, due.automatic, due.behind, due.host
FROM unnest(%(types)s, %(automatic)s, %(behind)s) AS wanted (type, automatic, behind)
CROSS JOIN LATERAL (
    SELECT o.id, o.did, o.uri, o.automatic, o.behind, o.later, o.run_after, asked.host
    FROM (
        SELECT id, did, uri, automatic, behind, automatic OR behind AS later, run_after, host
        FROM operations AS queued
        WHERE status = 'queued' AND same_as IS NULL AND run_after <= now()
            AND type = wanted.type
            AND (wanted.automatic OR NOT automatic) AND (wanted.behind OR NOT behind)
            AND NOT EXISTS (
                SELECT FROM operations AS running
                WHERE running.status = 'running' AND running.type = queued.type
                    AND running.did = queued.did AND running.uri IS NOT DISTINCT FROM queued.uri
            )
        ORDER BY (automatic OR behind), run_after LIMIT 2000
    ) AS o
    LEFT JOIN repos AS r ON r.did = o.did
    CROSS JOIN LATERAL (
        SELECT CASE WHEN wanted.type = 'forget' THEN ''
            ELSE coalesce(o.host, substring(r.pds FROM '//(.*)'), '') END AS host
    ) AS asked
    WHERE asked.host <> ALL(%(busy)s)
    ORDER BY o.later, o.run_after LIMIT %(most)s
) AS due
ORDER BY due.later, due.run_after
"""
# A row is locked as it is now, which may be later than what was seen to be due.  The rows are found
# by their ids (OFFSET 0 sees to it): where few were queued when PostgreSQL last counted, it would
# read all that is due for them.
_CLAIM = f"""
SELECT {COLUMNS}, operations.lane, coalesce(r.want, 0) AS want, r.floor_rev AS floor, r.rev,
    r.status AS account, coalesce(r.status_session, 0) AS epoch, coalesce(r.status_seq, 0) AS seq,
    (
        SELECT count(*) FROM (
            SELECT FROM records
            WHERE records.did = operations.did AND operations.type = 'didSync' LIMIT %(rows)s
        ) AS first_rows
    ) AS rows,
    extract(epoch FROM now())::float8 AS now
FROM (
    SELECT * FROM operations WHERE id = ANY(%(ids)s) OFFSET 0 FOR UPDATE SKIP LOCKED
) AS operations LEFT JOIN repos AS r ON r.did = operations.did
WHERE operations.status = 'queued'
    AND operations.same_as IS NULL AND operations.run_after <= now()
ORDER BY (operations.automatic OR operations.behind), operations.run_after
"""  # noqa: S608 - our own columns
# What is no part of the operation.
_BESIDE = ("lane", "want", "floor", "rev", "account", "epoch", "seq", "rows", "now")
# The first of each kind: any number may wait for later.
_NEXT_DUE = """
SELECT extract(epoch FROM min(next.run_after) - now())::float8
FROM unnest(%s) AS claimed (type) CROSS JOIN (VALUES (false), (true)) AS turn (later)
CROSS JOIN LATERAL (
    SELECT run_after FROM operations
    WHERE status = 'queued' AND same_as IS NULL AND type = claimed.type
        AND (automatic OR behind) = turn.later AND run_after > now()
    ORDER BY run_after LIMIT 1
) AS next
"""
_CLAIMED = [kind for kind in Type if kind is not Type.DISCOVERY]
_EXTEND = """
UPDATE operations SET lease_until = now() + make_interval(secs => %s)
WHERE lease_owner = ANY(%s) AND status = 'running' RETURNING lease_owner
"""
_AT_HOST = "UPDATE operations SET host = %s WHERE id = ANY(%s)"
_AGAIN = """
SELECT want, floor_rev, rev, status, status_session, status_seq FROM repos WHERE did = %s
"""
_LANE = "SELECT backfill_offset FROM lanes WHERE lane = %s"


async def due(
    connection: Connection,
    wanted: Sequence[WantedOperations],
    *,
    most: int,
    busy: Sequence[str] = (),
) -> list[DueOperation]:
    """Return what is due now and not claimed, ``most`` of each type, in the order to claim it in.

    What is known to go to one of the ``busy`` hosts is passed over.  Until the transaction ends,
    no other fetcher gets an answer.
    """
    parameters = {
        "types": Texts([each.type for each in wanted]),
        "automatic": Booleans([each.automatic for each in wanted]),
        "behind": Booleans([each.behind for each in wanted]),
        "busy": Texts(busy),
        "most": most,
    }
    async with connection.cursor(binary=True) as cursor:
        async with connection.together():
            await connection.execute(_ONE_BY_ONE)
            await cursor.execute(_DUE, parameters)
        return [DueOperation(Type(kind), *rest) for kind, *rest in await cursor.fetchall()]


async def claim(connection: Connection, ids: Sequence[str], seconds: float) -> list[Claim]:
    """Claim those of the operations that are still due, for ``seconds``."""
    parameters = {"ids": Texts(ids), "rows": CHUNK_ROWS}
    async with connection.cursor(binary=True, row_factory=dict_row) as cursor:
        await cursor.execute(_CLAIM, parameters)
        rows = await cursor.fetchall()
    claimed: list[Claim] = []
    for row in rows:
        lane, generation, floor, rev, account, epoch, seq, known, now = (
            row.pop(name) for name in _BESIDE
        )
        operation = transitions.start(of_row(row), now)
        lease = str(uuid4())
        claimed.append(
            Claim(lease, operation, lane, generation, floor, rev, account, epoch, seq, known)
        )
    leases = write.Lease([each.lease for each in claimed], seconds)
    await write.save(connection, [each.operation for each in claimed], lease=leases)
    return claimed


async def look_again(connection: Connection, claim: Claim) -> Claim:
    """Return ``claim`` with what the repo's row says now."""
    row = await (await connection.execute(_AGAIN, [claim.operation.did])).fetchone()
    if row is None:
        return claim
    generation, floor, rev, account, epoch, seq = row
    return replace(
        claim,
        resync_generation=generation,
        floor=floor,
        rev=rev,
        account=account,
        epoch=epoch,
        seq=seq,
    )


async def next_due(connection: Connection) -> float | None:
    """Return the seconds until something more is due, None if nothing is queued for later."""
    row = await (await connection.execute(_NEXT_DUE, [Texts(_CLAIMED)])).fetchone()
    return row[0] if row else None


async def extend(connection: Connection, leases: Sequence[str], seconds: float) -> set[str]:
    """Extend ``leases`` to ``seconds`` from now, and return those that still hold."""
    cursor = await connection.execute(_EXTEND, [seconds, Texts(leases)])
    return {lease for (lease,) in await cursor.fetchall()}


async def note(
    connection: Connection, lease: str, phase: Phase, progress: int, total: int | None = None
) -> None:
    """Note how far an operation is, if the lease holds; ``progress`` in percent."""
    held = await write.lock_leased(connection, [lease])
    advanced = [
        transitions.advance(one, phase, progress=progress, total_records=total) for one in held
    ]
    await write.save(connection, advanced)


async def injected(connection: Connection, ended: Sequence[tuple[Claim, int]]) -> None:
    """Leave operations to the worker, which has ended them when it is past their offsets."""
    held = await write.lock_leased(connection, [claim.lease for claim, _ in ended])
    after = [transitions.advance(one, Phase.INJECTED) for one in held]
    by_id = {claim.operation.id: offset for claim, offset in ended}
    await write.save(connection, after, injected=[by_id[one.id] for one in after])


async def in_step(connection: Connection, leases: Sequence[str]) -> None:
    """Complete syncs that were to check first, and found nothing to do, if the leases hold."""
    held = await write.lock_leased(connection, leases)
    after = [transitions.complete(one, time.time(), via=IN_STEP) for one in held]
    await write.save(connection, after)


async def failed(
    connection: Connection,
    lease: str,
    failure: Failure,
    detail: str,
    retry_after: float | None,
    policy: RetryPolicy,
) -> Operation | None:
    """End a failed attempt, if the lease holds; return the operation after it.

    ``retry_after``: the seconds that the host asked for.
    """
    held = await write.lock_leased(connection, [lease])
    if not held:
        return None
    after = transitions.try_again(
        held[0],
        time.time(),
        failure,
        detail,
        policy=policy,
        chance=random.random(),  # noqa: S311
        retry_after=retry_after,
    )
    await write.save(connection, [after])
    if after.ended and after.type is Type.DID_SYNC and after.did:
        await queue.renew(connection, [after.did], policy.renewal)
    if after.ended and after.type is Type.RECORD_REFRESH:
        await queue.renew_refreshes(connection, [after.id], policy.renewal)
    return after


async def put_off(
    connection: Connection, lease: str, failure: Failure, detail: str, seconds: float, host: str
) -> None:
    """End an attempt in which nothing was tried, because ``host`` had no slot for it.

    It is due again in ``seconds``.
    """
    run_after = time.time() + seconds
    held = await write.lock_leased(connection, [lease])
    after = [transitions.put_off(one, run_after, failure, detail) for one in held]
    await write.save(connection, after)
    await connection.execute(_AT_HOST, [host, Texts([one.id for one in after])])


async def wait_for_host(
    connection: Connection,
    lease: str,
    failure: Failure,
    detail: str,
    seconds: float,
    host: str,
    *,
    policy: RetryPolicy,
) -> None:
    """End an attempt in which nothing was tried, because ``host`` failed before.

    It is due again in ``seconds``, or fails if it cannot wait for so long.
    """
    now = time.time()
    held = await write.lock_leased(connection, [lease])
    after = [
        transitions.wait_for_host(one, now, seconds, failure, detail, policy=policy) for one in held
    ]
    await write.save(connection, after)
    await connection.execute(_AT_HOST, [host, Texts([one.id for one in after])])
    ended = [one.did for one in after if one.ended and one.type is Type.DID_SYNC and one.did]
    await queue.renew(connection, ended, policy.renewal)
    vain = [one.id for one in after if one.ended and one.type is Type.RECORD_REFRESH]
    await queue.renew_refreshes(connection, vain, policy.renewal)


async def give_back(connection: Connection, leases: Sequence[str]) -> None:
    """Queue again what ``leases`` still hold: their holder stops."""
    now, error = time.time(), "the fetcher stopped"
    held = await write.lock_leased(connection, leases)
    await write.save(connection, [transitions.requeue(one, now, error=error) for one in held])


async def backfill_offset(connection: Connection, lane: int) -> int:
    """Return the offset of ``chive.backfill`` that the worker of ``lane`` reads next."""
    row = await (await connection.execute(_LANE, [lane])).fetchone()
    return int(row[0]) if row else 0
