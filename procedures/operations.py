"""Operations: what was asked of the system, and how far it has got.  Pure.

An operation is published on ``chive.operations``, keyed by its id, each time that it
changes; ``version`` tells newer from older.  Times are ISO 8601 in UTC with milliseconds.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum


class Type(StrEnum):
    """What an operation does."""

    DID_SYNC = "didSync"
    RECORD_REFRESH = "recordRefresh"


class Status(StrEnum):
    """Where an operation is; the last three are final."""

    QUEUED = "queued"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation; ``requested_by`` None: the system asked itself, for ``reason``."""

    id: str
    type: str
    status: str
    did: str
    uri: str | None
    phase: str | None
    reason: str | None
    progress: int
    records_processed: int
    total_records: int | None
    created: int
    updated: int
    deleted: int
    attempts: int
    requested_by: str | None
    error: str | None
    new_cid: str | None
    version: int
    requested_at: datetime
    started_at: datetime | None
    completed_at: datetime | None


def encode(operation: Operation) -> bytes:
    """Return the operation as the JSON object of ``chive.operations``.

    Members marked optional in the contract are left out when there is nothing to say.
    """
    optional = {
        "uri": operation.uri,
        "totalRecords": operation.total_records,
        "completedAt": _time(operation.completed_at),
        "error": operation.error,
        "newCid": operation.new_cid,
        "reason": operation.reason,
    }
    always = {
        "v": 1,
        "id": operation.id,
        "version": operation.version,
        "type": operation.type,
        "status": operation.status,
        "phase": operation.phase,
        "did": operation.did,
        "progress": operation.progress,
        "recordsProcessed": operation.records_processed,
        "created": operation.created,
        "updated": operation.updated,
        "deleted": operation.deleted,
        "attempts": operation.attempts,
        "requestedBy": operation.requested_by,
        "requestedAt": _time(operation.requested_at),
        "startedAt": _time(operation.started_at),
    }
    present = {name: value for name, value in optional.items() if value is not None}
    return json.dumps(always | present, separators=(",", ":"), ensure_ascii=False).encode()


def _time(moment: datetime | None) -> str | None:
    if moment is None:
        return None
    utc = moment.astimezone(UTC)
    return utc.isoformat(timespec="milliseconds").replace("+00:00", "Z")
