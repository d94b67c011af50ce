"""``pub.chive.sync.indexRecord``: what it asks for and what it answers.  Pure.

It is a record refresh that its author asks for right after a write: the record is read from the
repository, so that it is indexed before its commit has come by the firehose.  The commit that
comes later changes nothing.

- Only the record's owner or an administrator may ask.
- The repository has the record: ``indexed`` with its CID.  It is proven absent: ``NotFound``.
  Anything else: not ``indexed``, and an ``error`` that names the operation.
- A record that is written again is to be read again, and clients keep their tokens.  So this call
  is carried out again once it was answered (``Method.repeatable``).
"""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from typing import Any

from procedures import refresh_record
from procedures.contract import ErrorName, XrpcError
from procedures.messages import RecordRefresh
from procedures.operations import Operation, Status


def command(
    fields: Mapping[str, Any],
    identifier: str,
    caller: str,
    now: float,
    *,
    admins: AbstractSet[str],
) -> RecordRefresh:
    """Return the command for a checked input, on behalf of the DID ``caller``.

    Raises ``XrpcError``: InvalidRequest for an AT-URI that names no record of a DID, AdminRequired
    for a caller who is neither its owner nor one of ``admins``.
    """
    refresh = refresh_record.command(fields, identifier, caller, now)
    if caller != refresh.did and caller not in admins:
        message = "this is for the record's owner, and for administrators"
        raise XrpcError(ErrorName.ADMIN_REQUIRED, message)
    return refresh


def unfinished(uri: str, identifier: str, why: str) -> dict[str, Any]:
    """Return the output without a result; the error names the operation."""
    return {"uri": uri, "indexed": False, "error": f"operation {identifier}: {why}"}


def answer(refresh: RecordRefresh, operation: Operation | None) -> dict[str, Any]:
    """Return the output for an operation as it is at its end or at the deadline.

    ``operation`` None: nothing is known of it yet.  Raises ``XrpcError(NotFound)``.
    """
    if operation is None or operation.status is not Status.COMPLETED:
        return unfinished(refresh.uri, refresh.id, refresh_record.why(operation))
    if operation.new_cid is None:
        raise XrpcError(ErrorName.NOT_FOUND, "the repository does not have this record")
    return {"uri": refresh.uri, "indexed": True, "cid": operation.new_cid}
