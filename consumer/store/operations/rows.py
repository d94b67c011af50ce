"""Rows of the table ``operations`` as values of ``procedures.operations``."""

from __future__ import annotations

from typing import Any

from procedures.failures import Failure
from procedures.messages import Emit
from procedures.operations import Children, Operation, Phase, Status, Type

# What ``of_row`` makes an Operation of, in a SELECT or RETURNING from ``operations``.
COLUMNS = """
    operations.id, operations.type, operations.status, operations.did, operations.uri,
    operations.phase, operations.reason, operations.progress, operations.records_processed,
    operations.total_records, operations.created, operations.updated, operations.deleted,
    operations.attempts, operations.requested_by, operations.error, operations.failure,
    operations.new_cid, operations.version, operations.automatic, operations.emit_all,
    operations.same_as, operations.warnings, operations.via, operations.parent,
    operations.behind, operations.check_first, operations.children,
    extract(epoch FROM operations.requested_at)::float8 AS requested_at,
    extract(epoch FROM operations.started_at)::float8 AS started_at,
    extract(epoch FROM operations.completed_at)::float8 AS completed_at,
    extract(epoch FROM operations.run_after)::float8 AS run_after
"""


def of_row(row: dict[str, Any]) -> Operation:
    """Return the operation in a row of ``COLUMNS``.

    Raises ``ValueError`` for a type, status, phase or failure that is not known.
    """
    return Operation(
        **row
        | {
            "type": Type(row["type"]),
            "status": Status(row["status"]),
            "phase": None if row["phase"] is None else Phase(row["phase"]),
            "failure": None if row["failure"] is None else Failure(row["failure"]),
            "children": None if row["children"] is None else Children.from_json(row["children"]),
            "emit": Emit.ALL if row.pop("emit_all") else Emit.CHANGES,
        }
    )
