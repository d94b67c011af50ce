"""Rows of the table ``operations`` as values of ``procedures.operations``."""

from __future__ import annotations

from typing import Any

from procedures.failures import Failure
from procedures.messages import Emit
from procedures.operations import Operation, Phase, Status, Type

# What ``of_row`` makes an Operation of, in a SELECT or RETURNING without another table that has
# columns of these names.
COLUMNS = """
    operations.id, type, status, did, uri, phase, reason, progress, records_processed,
    total_records, created, updated, deleted, attempts, requested_by, error, failure, new_cid,
    version, automatic, emit_all, same_as,
    extract(epoch FROM requested_at)::float8 AS requested_at,
    extract(epoch FROM started_at)::float8 AS started_at,
    extract(epoch FROM completed_at)::float8 AS completed_at,
    extract(epoch FROM run_after)::float8 AS run_after
"""


def of_row(row: dict[str, Any]) -> Operation:
    """Return the operation in a row of ``COLUMNS``."""
    return Operation(
        **row
        | {
            "type": Type(row["type"]),
            "status": Status(row["status"]),
            "phase": None if row["phase"] is None else Phase(row["phase"]),
            "failure": None if row["failure"] is None else Failure(row["failure"]),
            "emit": Emit.ALL if row.pop("emit_all") else Emit.CHANGES,
        }
    )
