"""``pub.chive.sync.verify`` and ``checkStaleness``: what they ask for and what they answer.  Pure.

What the index knows cannot tell whether it is behind.  So both read the record from its repository
now, as ``refreshRecord`` does, and say what the index had before.  What differs is put right by
that, and published: a second call finds it in step.

- No answer of the repository in time is an error, and never "in step".
- When a record was indexed is not kept, so ``indexedAt`` is left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from procedures import refresh_record, times
from procedures.contract import ErrorName, XrpcError
from procedures.failures import GONE, Failure
from procedures.messages import RecordRefresh
from procedures.operations import Operation, Status

_ABSENT = GONE | {Failure.OUT_OF_SCOPE}
_SOON = {"Retry-After": "5"}


@dataclass(frozen=True, slots=True)
class Indexed:
    """What the index has of a record (None: it has none), and the origin of its PDS if known."""

    cid: str | None
    pds: str | None


class Index(Protocol):
    """The records of the deployment."""

    async def indexed(self, uri: str) -> Indexed:
        """Return what is known of the record at ``uri``; raise ``Unavailable``."""


def verify(refresh: RecordRefresh, before: Indexed, operation: Operation | None) -> dict[str, Any]:
    """Return the output of ``verify``; ``before``: as it was when ``operation`` was asked for.

    Raises ``XrpcError``: NotFound, ServiceUnavailable.
    """
    ended = _compared(refresh, before, operation)
    in_sync = before.cid == ended.new_cid
    output = {"uri": refresh.uri, "indexed": before.cid is not None, "inSync": in_sync}
    if ended.completed_at is not None:
        output["lastSyncedAt"] = times.to_text(ended.completed_at)
    return output | {"staleDays": 0} if in_sync else output


def staleness(
    refresh: RecordRefresh, before: Indexed, operation: Operation | None
) -> dict[str, Any]:
    """Return the output of ``checkStaleness``; the same as ``verify`` otherwise."""
    ended = _compared(refresh, before, operation)
    known = {"indexedCid": before.cid, "pdsCid": ended.new_cid, "pdsUrl": before.pds}
    return {"uri": refresh.uri, "isStale": before.cid != ended.new_cid} | {
        name: value for name, value in known.items() if value is not None
    }


def unavailable(refresh: RecordRefresh, why: str) -> XrpcError:
    """Return the error of a comparison without a result."""
    message = f"the repository did not tell: operation {refresh.id}: {why}"
    return XrpcError(ErrorName.SERVICE_UNAVAILABLE, message, _SOON)


def _compared(refresh: RecordRefresh, before: Indexed, operation: Operation | None) -> Operation:
    why = refresh_record.why(operation)
    if operation is None or not operation.ended:
        raise unavailable(refresh, why)
    if operation.failure in _ABSENT:
        raise XrpcError(ErrorName.NOT_FOUND, f"operation {refresh.id}: {why}")
    if operation.status is not Status.COMPLETED:
        raise unavailable(refresh, why)
    if operation.new_cid is None and before.cid is None:
        message = "neither the index nor the repository has this record"
        raise XrpcError(ErrorName.NOT_FOUND, message)
    return operation
