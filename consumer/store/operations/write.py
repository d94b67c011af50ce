"""Operations as workers and fetchers leave them: counted, ended or queued again.

``lock`` them, decide, ``save`` them, in one transaction, the worker's in that which applies
their messages: the lock takes the place of a ``WHERE status = …``, and whoever changes one of
them meanwhile sees the outcome first.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from psycopg.rows import dict_row

from consumer.store.arrays import Bigints, Doubles, Texts
from consumer.store.database import Connection
from consumer.store.operations.rows import COLUMNS, of_row
from procedures.messages import Emit
from procedures.operations import Operation

_LOCK = f"SELECT {COLUMNS} FROM operations WHERE id = ANY(%s) ORDER BY id FOR UPDATE"  # noqa: S608 - our own columns
_SAVE = """
UPDATE operations SET
    status = new.status,
    phase = new.phase,
    progress = new.progress,
    records_processed = new.records_processed,
    total_records = new.total_records,
    created = new.created,
    updated = new.updated,
    deleted = new.deleted,
    attempts = new.attempts,
    started_at = CASE WHEN new.attempts > 0 THEN started_at END,
    error = new.error,
    failure = new.failure,
    new_cid = new.new_cid,
    run_after = to_timestamp(new.run_after),
    completed_at = to_timestamp(new.completed_at),
    lease_owner = CASE WHEN new.status = 'running' THEN lease_owner END,
    lease_until = CASE WHEN new.status = 'running' THEN lease_until END,
    injected_offset = CASE WHEN new.status <> 'queued' THEN injected_offset END,
    version = new.version
FROM unnest(%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s) AS new (
    id, status, phase, error, failure, new_cid,
    progress, records_processed, total_records, created, updated, deleted, attempts, version,
    run_after, completed_at
)
WHERE operations.id = new.id
"""
# Before an automatic sync is queued again, the one that is queued for its DID gives way to it:
# there can be only one, and the older one knows how often it was tried.
_MOVE_FOLLOWERS = """
UPDATE operations SET same_as = heir.id, version = operations.version + 1
FROM operations AS waiting JOIN operations AS heir ON heir.did = waiting.did
WHERE operations.same_as = waiting.id AND operations.status = 'queued'
    AND heir.id = ANY(%s) AND waiting.id <> heir.id
    AND waiting.automatic AND waiting.type = 'didSync' AND waiting.status = 'queued'
"""
_GIVE_WAY = """
UPDATE operations SET
    status = 'cancelled',
    error = 'operation ' || heir.id || ' does the same',
    completed_at = now(),
    version = operations.version + 1
FROM operations AS heir
WHERE heir.id = ANY(%s) AND operations.did = heir.did AND operations.id <> heir.id
    AND operations.automatic AND operations.type = 'didSync' AND operations.status = 'queued'
"""

# ``want`` is read again when the download begins: a snapshot that was asked for before the
# repo was marked for resync again must not complete it.  So asking for one need not raise it.
_INSERT = """
INSERT INTO operations (
    id, type, did, lane, uri, status, automatic, emit_all, same_as, run_after, requested_by,
    requested_at, error, failure, completed_at, version, want
) VALUES (
    %(id)s, %(type)s, %(did)s, %(lane)s, %(uri)s, %(status)s, %(automatic)s, %(emit_all)s,
    %(same_as)s, to_timestamp(%(run_after)s), %(requested_by)s, to_timestamp(%(requested_at)s),
    %(error)s, %(failure)s, to_timestamp(%(completed_at)s), %(version)s,
    coalesce((SELECT want FROM repos WHERE did = %(did)s), 0)
)
"""
_CHANGE = """
UPDATE operations SET status = %(status)s, automatic = %(automatic)s, same_as = %(same_as)s,
    run_after = to_timestamp(%(run_after)s), error = %(error)s, failure = %(failure)s,
    completed_at = to_timestamp(%(completed_at)s), version = %(version)s,
    lease_owner = CASE WHEN %(status)s = 'running' THEN lease_owner END,
    lease_until = CASE WHEN %(status)s = 'running' THEN lease_until END
WHERE id = %(id)s
"""

_TEXTS = ("id", "status", "phase", "error", "failure", "new_cid")
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
_TIMES = ("run_after", "completed_at")


async def lock(connection: Connection, ids: Sequence[str]) -> list[Operation]:
    """Return the operations among ``ids``, which nobody else changes until COMMIT."""
    async with connection.cursor(binary=True, row_factory=dict_row) as cursor:
        await cursor.execute(_LOCK, [Texts(ids)])
        return [of_row(row) for row in await cursor.fetchall()]


async def save(connection: Connection, changed: Sequence[Operation]) -> None:
    """Write what applying their messages changed of locked operations."""
    columns = [
        *(Texts([getattr(one, name) for one in changed]) for name in _TEXTS),
        *(Bigints([getattr(one, name) for one in changed]) for name in _NUMBERS),
        *(Doubles([getattr(one, name) for one in changed]) for name in _TIMES),
    ]
    await connection.execute(_SAVE, columns)


async def replace_queued(connection: Connection, heirs: Sequence[str]) -> None:
    """End the automatic syncs that are queued for the DIDs of ``heirs``, running automatic ones.

    The caller queues each heir again; whoever followed what ends here follows the heir.
    """
    await connection.execute(_MOVE_FOLLOWERS, [Texts(heirs)])
    await connection.execute(_GIVE_WAY, [Texts(heirs)])


async def insert(connection: Connection, operation: Operation, lane: int) -> None:
    """Add a new operation; ``lane`` is that of its DID."""
    await connection.execute(_INSERT, _values(operation) | {"lane": lane})


async def change(connection: Connection, operation: Operation) -> None:
    """Write what a command has changed of a locked operation."""
    await connection.execute(_CHANGE, _values(operation))


def _values(operation: Operation) -> dict[str, Any]:
    names = (
        "id type did uri status automatic same_as run_after requested_by requested_at error"
        " failure completed_at version"
    )
    values = {name: getattr(operation, name) for name in names.split()}
    return values | {"emit_all": operation.emit is Emit.ALL}
