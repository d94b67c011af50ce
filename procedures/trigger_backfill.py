"""``pub.chive.admin.triggerBackfill``: what it asks for and what it answers.

Chive starts all its long work by this method.  What is here is the sync of a DID, which is the
same as ``triggerDIDSync``.  The other types are work of Chive's own and are refused by a name of
their own, so that its page can tell them from a mistake.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from procedures import backfills, sync_did
from procedures.contract import ErrorName, XrpcError
from procedures.messages import DidSync
from procedures.operations import Type, queued

_DID_SYNC = frozenset({"didSync", "did-sync"})  # Chive's pages say the one, its lexicon the other


def command(fields: Mapping[str, Any], identifier: str, caller: str, now: float) -> DidSync:
    """Return the command for a checked input, on behalf of the DID ``caller``.

    Raises ``XrpcError``: InvalidBackfillType for another type, InvalidRequest without a DID.
    """
    if fields["type"] not in _DID_SYNC:
        message = "type must be didSync: this service does no other work"
        raise XrpcError(ErrorName.INVALID_BACKFILL_TYPE, message)
    if "did" not in fields:
        raise XrpcError(ErrorName.INVALID_REQUEST, "a didSync must have the member 'did'")
    return sync_did.command(fields, identifier, caller, now)


def answer(sync: DidSync) -> dict[str, Any]:
    """Return the output: the operation as it begins, to be followed under its id."""
    operation = queued(
        sync.id,
        Type.DID_SYNC,
        sync.did,
        sync.requested_at,
        emit=sync.emit,
        requested_by=sync.requested_by,
        requested_at=sync.requested_at,
    )
    return {"operation": backfills.shown(operation)}
