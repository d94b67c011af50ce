"""Rows of operations as they may be, on a real PostgreSQL."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any

from psycopg.types.json import Jsonb

from consumer.store.database import Connection
from consumer.store.operations import read
from procedures.messages import Emit
from procedures.operations import (
    Operation,
    Phase,
    Status,
    Type,
    queued,
)
from procedures.retries import RetryPolicy
from tests.unit.procedures.strategies import DID

POLICY = RetryPolicy()


PAST, FUTURE = 1_000_000_000.0, 4_100_000_000.0


_INSERT = """
INSERT INTO operations (
    id, type, status, did, uri, phase, reason, progress, records_processed, total_records,
    created, updated, deleted, attempts, requested_by, error, failure, new_cid, version,
    automatic, emit_all, same_as, requested_at, started_at, completed_at, run_after, lane,
    lease_owner, lease_until, warnings, via, parent, behind, children
) VALUES (
    %(id)s, %(type)s, %(status)s, %(did)s, %(uri)s, %(phase)s, %(reason)s, %(progress)s,
    %(records_processed)s, %(total_records)s, %(created)s, %(updated)s, %(deleted)s,
    %(attempts)s, %(requested_by)s, %(error)s, %(failure)s, %(new_cid)s, %(version)s,
    %(automatic)s, %(emit_all)s, %(same_as)s, to_timestamp(%(requested_at)s),
    to_timestamp(%(started_at)s), to_timestamp(%(completed_at)s), to_timestamp(%(run_after)s),
    0, %(lease)s, to_timestamp(%(lease_until)s), %(warnings)s, %(via)s, %(parent)s,
    %(behind)s, %(children)s
)
"""


async def put(
    connection: Connection, operations: Sequence[Operation], lease_until: float = FUTURE
) -> None:
    """Make ``operations`` the only rows; what runs is leased under its id."""
    await connection.execute("DELETE FROM operations")
    for one in operations:
        values: dict[str, Any] = {field.name: getattr(one, field.name) for field in fields(one)}
        leased = one.status is Status.RUNNING and one.phase is not Phase.INJECTED
        values |= {"emit_all": one.emit is Emit.ALL, "lease": one.id if leased else None}
        values |= {"lease_until": lease_until if leased else None}
        values |= {"children": None if one.children is None else Jsonb(one.children.to_json())}
        values |= {"warnings": None if one.warnings is None else Jsonb(one.warnings)}
        await connection.execute(_INSERT, values)


async def rows(connection: Connection) -> dict[str, Operation]:
    """Return all operations by their ids."""
    found = await (await connection.execute("SELECT id FROM operations")).fetchall()
    return await read.read_all(connection, [identifier for (identifier,) in found])


async def now_of(connection: Connection) -> float:
    """Return the time of the transaction."""
    row = await (await connection.execute("SELECT extract(epoch FROM now())::float8")).fetchone()
    assert row is not None
    return float(row[0])


def sync(identifier: str = "op", **changes: Any) -> Operation:
    return replace(queued(identifier, Type.DID_SYNC, DID, PAST), **changes)
