"""The only writer of operations' statuses.

``lock`` operations, decide with ``procedures.transitions``, ``save`` them, in one transaction:
the lock takes the place of a ``WHERE status = …``, and whatever else changes one of them sees
the outcome first.

Two statements change many rows in SQL, without a decision per row: ``settle`` and the way that
``save`` makes for an automatic sync that is queued again.  The trigger of migration 2 ends
coalesced operations with their primary.  A test holds the three to the pure transitions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from psycopg.rows import dict_row

from consumer.store.arrays import Bigints, Booleans, Doubles, Jsons, Texts
from consumer.store.database import Connection
from consumer.store.operations.rows import COLUMNS, of_row
from procedures import transitions
from procedures.messages import Emit
from procedures.operations import Operation, Status, Type


@dataclass(frozen=True, slots=True)
class Lease:
    """The names of leases, one for each operation, and the seconds that they last from now."""

    names: Sequence[str]
    seconds: float


_LOCK = f"SELECT {COLUMNS} FROM operations WHERE id = ANY(%s) ORDER BY id FOR UPDATE"  # noqa: S608 - our own columns
_LOCK_LEASED = f"""
SELECT {COLUMNS} FROM operations WHERE lease_owner = ANY(%s) AND status = 'running'
ORDER BY id FOR UPDATE
"""  # noqa: S608
# A command to forget the account is not cancelled by another one.
_LOCK_OPEN = f"""
SELECT {COLUMNS} FROM operations
WHERE did = ANY(%s) AND status IN ('queued', 'running') AND same_as IS NULL AND type <> 'forget'
ORDER BY id FOR UPDATE
"""  # noqa: S608
# A lease ends with the attempt, or when everything is injected: the worker does the rest.
_SAVE = """
UPDATE operations SET
    status = new.status,
    phase = new.phase,
    error = new.error,
    failure = new.failure,
    new_cid = new.new_cid,
    same_as = new.same_as,
    progress = new.progress,
    records_processed = new.records_processed,
    total_records = new.total_records,
    created = new.created,
    updated = new.updated,
    deleted = new.deleted,
    attempts = new.attempts,
    version = new.version,
    run_after = to_timestamp(new.run_after),
    started_at = to_timestamp(new.started_at),
    completed_at = to_timestamp(new.completed_at),
    automatic = new.automatic,
    warnings = new.warnings,
    via = new.via,
    behind = new.behind,
    children = new.children,
    lease_owner = CASE WHEN new.status = 'running' AND new.phase <> 'injected'
        THEN coalesce(new.lease, lease_owner) END,
    lease_until = CASE WHEN new.status = 'running' AND new.phase <> 'injected'
        THEN coalesce(now() + make_interval(secs => %(seconds)s), lease_until) END,
    injected_offset = CASE WHEN new.status <> 'queued'
        THEN coalesce(new.injected, injected_offset) END
FROM unnest(
    %(id)s, %(status)s, %(phase)s, %(error)s, %(failure)s, %(new_cid)s, %(same_as)s,
    %(progress)s, %(records_processed)s, %(total_records)s, %(created)s, %(updated)s,
    %(deleted)s, %(attempts)s, %(version)s, %(run_after)s, %(started_at)s, %(completed_at)s,
    %(automatic)s, %(warnings)s, %(via)s, %(behind)s, %(children)s, %(lease)s, %(injected)s
) AS new (
    id, status, phase, error, failure, new_cid, same_as,
    progress, records_processed, total_records, created, updated,
    deleted, attempts, version, run_after, started_at, completed_at,
    automatic, warnings, via, behind, children, lease, injected
)
WHERE operations.id = new.id
"""
# Before an automatic sync is queued again, the one that is queued for its DID gives way to it:
# there can be only one, and the older one knows how often it was tried.
_MOVE_COALESCED = """
UPDATE operations SET same_as = chosen.id, version = operations.version + 1
FROM operations AS waiting JOIN operations AS chosen ON chosen.did = waiting.did
WHERE operations.same_as = waiting.id AND operations.status = 'queued'
    AND chosen.id = ANY(%s) AND waiting.id <> chosen.id
    AND waiting.automatic AND waiting.type = 'didSync' AND waiting.status = 'queued'
"""
_GIVE_WAY = """
UPDATE operations SET
    status = 'cancelled',
    error = 'operation ' || chosen.id || ' does the same',
    failure = NULL,
    completed_at = now(),
    version = operations.version + 1
FROM operations AS chosen
WHERE chosen.id = ANY(%s) AND operations.did = chosen.did AND operations.id <> chosen.id
    AND operations.automatic AND operations.type = 'didSync' AND operations.status = 'queued'
"""
_SETTLE = """
UPDATE operations SET
    status = 'cancelled',
    error = 'the repository became active without it',
    failure = NULL,
    completed_at = now(),
    version = version + 1
WHERE did = ANY(%s) AND automatic AND type = 'didSync' AND status = 'queued'
    AND NOT EXISTS (
        SELECT FROM operations AS f WHERE f.same_as = operations.id AND f.status = 'queued'
    )
"""
# ``want`` is read again when the download begins: a snapshot that was asked for before the
# repo was marked for resync again must not complete it.  So asking for one need not raise it.
_INSERT = """
INSERT INTO operations (
    id, type, did, lane, uri, status, automatic, emit_all, same_as, run_after, requested_by,
    requested_at, error, failure, completed_at, version, reason, parent, behind, children,
    check_first, want
)
SELECT new.id, type, new.did, new.lane, uri, new.status, automatic, emit_all, same_as,
    to_timestamp(run_after), requested_by, to_timestamp(requested_at), error, failure,
    to_timestamp(completed_at), version, new.reason, parent, behind, children,
    check_first, coalesce(r.want, 0)
FROM unnest(
    %(id)s, %(type)s, %(did)s, %(lane)s, %(uri)s, %(status)s, %(automatic)s, %(emit_all)s,
    %(same_as)s, %(run_after)s, %(requested_by)s, %(requested_at)s, %(error)s, %(failure)s,
    %(completed_at)s, %(version)s, %(reason)s, %(parent)s, %(behind)s, %(children)s,
    %(check_first)s
) AS new (
    id, type, did, lane, uri, status, automatic, emit_all, same_as, run_after, requested_by,
    requested_at, error, failure, completed_at, version, reason, parent, behind, children,
    check_first
)
LEFT JOIN repos AS r ON r.did = new.did
"""
_TAKE_UNPUBLISHED = f"""
WITH chosen AS (
    SELECT id FROM operations WHERE published_version < version
    ORDER BY id LIMIT %s FOR UPDATE SKIP LOCKED
)
UPDATE operations SET published_version = version FROM chosen
WHERE operations.id = chosen.id
RETURNING {COLUMNS}
"""  # noqa: S608

_TEXTS = ("id", "status", "phase", "error", "failure", "new_cid", "same_as", "via")
_NUMBERS = (
    "progress",
    "records_processed",
    "total_records",
    "created",
    "updated",
    "deleted",
    "attempts",
    "version",
)
_TIMES = ("run_after", "started_at", "completed_at")
_INSERTED_TEXTS = (
    *("id", "type", "did", "uri", "status", "same_as", "requested_by", "error", "failure"),
    *("reason", "parent"),
)
_INSERTED_TIMES = ("run_after", "requested_at", "completed_at")


async def lock(connection: Connection, ids: Sequence[str]) -> list[Operation]:
    """Return the operations among ``ids`` in the order of their ids, locked until COMMIT."""
    return await _locked(connection, _LOCK, ids)


async def lock_leased(connection: Connection, leases: Sequence[str]) -> list[Operation]:
    """Return the running operations that ``leases`` still hold, locked until COMMIT."""
    return await _locked(connection, _LOCK_LEASED, leases)


async def save(
    connection: Connection,
    changed: Sequence[Operation],
    *,
    lease: Lease | None = None,
    injected: Sequence[int] | None = None,
) -> None:
    """Write locked operations as the pure transitions have left them.

    ``lease``: what attempts that begin are held by.  ``injected``: for each operation the offset
    of ``chive.backfill`` behind the last chunk of what was injected.  An automatic sync that is
    queued again replaces the one that is queued for its DID.
    """
    if not changed:
        return
    queued_again = [
        one.id
        for one in changed
        if one.automatic and one.status is Status.QUEUED and one.type is Type.DID_SYNC
    ]
    if queued_again:
        await connection.execute(_MOVE_COALESCED, [Texts(queued_again)])
        await connection.execute(_GIVE_WAY, [Texts(queued_again)])
    parameters: dict[str, object] = {
        "lease": Texts([None] * len(changed) if lease is None else lease.names),
        "seconds": None if lease is None else lease.seconds,
        "injected": Bigints([None] * len(changed) if injected is None else injected),
        "automatic": Booleans([one.automatic for one in changed]),
        "behind": Booleans([one.behind for one in changed]),
        "warnings": Jsons([one.warnings for one in changed]),
        "children": _children(changed),
    }
    parameters |= {name: Texts([getattr(one, name) for one in changed]) for name in _TEXTS}
    parameters |= {name: Bigints([getattr(one, name) for one in changed]) for name in _NUMBERS}
    parameters |= {name: Doubles([getattr(one, name) for one in changed]) for name in _TIMES}
    await connection.execute(_SAVE, parameters)


async def settle(connection: Connection, dids: Sequence[str]) -> None:
    """Cancel the automatic syncs that are still queued for ``dids``: they are moot.

    One that another operation is coalesced with stays: that one was asked for.
    """
    await connection.execute(_SETTLE, [Texts(dids)])


async def cancel_open(connection: Connection, did: str, now: float, why: str) -> None:
    """Cancel the syncs and refreshes of ``did`` that have not ended.

    ``now`` is Unix seconds, ``why`` their error.
    """
    found = await _locked(connection, _LOCK_OPEN, [did])
    await save(connection, [transitions.cancel(one, now, why) for one in found])


async def insert(connection: Connection, operation: Operation, lane: int) -> None:
    """Add an operation that has not begun; ``lane`` is that of its DID."""
    await insert_all(connection, [operation], [lane])


async def insert_all(
    connection: Connection, operations: Sequence[Operation], lanes: Sequence[int]
) -> None:
    """Add operations that have not begun; ``lanes`` are those of their DIDs."""
    parameters: dict[str, object] = {
        "lane": Bigints(lanes),
        "version": Bigints([one.version for one in operations]),
        "automatic": Booleans([one.automatic for one in operations]),
        "behind": Booleans([one.behind for one in operations]),
        "check_first": Booleans([one.check_first for one in operations]),
        "emit_all": Booleans([one.emit is Emit.ALL for one in operations]),
        "children": _children(operations),
    }
    parameters |= {n: Texts([getattr(one, n) for one in operations]) for n in _INSERTED_TEXTS}
    parameters |= {n: Doubles([getattr(one, n) for one in operations]) for n in _INSERTED_TIMES}
    await connection.execute(_INSERT, parameters)


def _children(operations: Sequence[Operation]) -> Jsons:
    return Jsons([one.children.to_json() if one.children else None for one in operations])


async def take_unpublished(connection: Connection, limit: int) -> list[Operation]:
    """Return operations whose newest version is not published, and note that it is.

    The caller writes them to the outbox in the same transaction.
    """
    async with connection.cursor(binary=True, row_factory=dict_row) as cursor:
        await cursor.execute(_TAKE_UNPUBLISHED, [limit])
        return [of_row(row) for row in await cursor.fetchall()]


async def _locked(connection: Connection, sql: str, names: Sequence[str]) -> list[Operation]:
    async with connection.cursor(binary=True, row_factory=dict_row) as cursor:
        await cursor.execute(sql, [Texts(names)])
        return [of_row(row) for row in await cursor.fetchall()]
