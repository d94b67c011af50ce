"""``pub.chive.sync.refreshRecord``: what it asks for and what it answers.  Pure.

The answer comes from the operation's end:

- the repository has the record: ``refreshed`` with its CID, whether or not that was new;
- it is proven absent, and the index had it: ``refreshed`` without a CID;
- neither has it: the error ``NotFound``;
- anything else, the deadline included: not ``refreshed``, and an ``error`` that names the
  operation, which goes on where it can.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from procedures.contract import ErrorName, XrpcError
from procedures.messages import RecordRefresh, is_record_uri
from procedures.operations import Operation, Status


def command(fields: Mapping[str, Any], identifier: str, caller: str, now: float) -> RecordRefresh:
    """Return the command for a checked input, on behalf of the DID ``caller``.

    Raises ``XrpcError(InvalidRequest)`` for an AT-URI that names no record of a DID.
    """
    uri: str = fields["uri"]
    if not is_record_uri(uri):
        expected = "at://DID/collection/rkey, with a DID and not a handle"
        raise XrpcError(ErrorName.INVALID_REQUEST, f"uri must name one record: {expected}")
    return RecordRefresh(id=identifier, uri=uri, requested_by=caller, requested_at=now)


def unfinished(uri: str, identifier: str, why: str) -> dict[str, Any]:
    """Return the output of a refresh without a result; the error names the operation."""
    return {"uri": uri, "refreshed": False, "error": f"operation {identifier}: {why}"}


def why(operation: Operation | None) -> str:
    """Return why there is no result (yet); ``operation`` None: nothing is known of it."""
    if operation is None:
        return "accepted, not begun yet"
    if not operation.ended:
        return _stage(operation)
    reason = ": ".join(filter(None, [operation.failure, operation.error]))
    return reason or str(operation.status)


def answer(refresh: RecordRefresh, operation: Operation | None) -> dict[str, Any]:
    """Return the output for an operation as it is at its end or at the deadline.

    ``operation`` None: nothing is known of it yet.  Raises ``XrpcError(NotFound)``.
    """
    if operation is None or operation.status is not Status.COMPLETED:
        return unfinished(refresh.uri, refresh.id, why(operation))
    if operation.new_cid is not None:
        return {"uri": refresh.uri, "refreshed": True, "newCid": operation.new_cid}
    if operation.deleted:
        return {"uri": refresh.uri, "refreshed": True}
    raise XrpcError(ErrorName.NOT_FOUND, "neither the index nor the repository has this record")


def _stage(operation: Operation) -> str:
    stage = f"not finished yet ({operation.phase or 'waiting'})"
    if operation.error is None:
        return stage
    return f"{stage}; the last attempt: {operation.failure or 'failed'}: {operation.error}"
