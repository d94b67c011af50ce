"""``pub.chive.admin.listDLQEntries`` and ``retryDLQEntry``: what they ask for and answer.  Pure.

A dead letter is input that broke a rule, and would break it again.  So its bytes are never input
again: what is tried again is the account that it is about, by a sync.

Chive names an entry by its place in the list, newest first, where a new letter moves the others
on.  So the answer says which account is synced, and an entry can be named by its ``id``, too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from procedures import times
from procedures.contract import ErrorName, XrpcError
from procedures.messages import DidSync


@dataclass(frozen=True, slots=True)
class Letter:
    """A dead letter; ``id`` is its place on the topic, ``created`` is in Unix seconds.

    ``did``: the account that it is about, None where that is not known.
    """

    id: str
    did: str | None
    reason: str
    detail: str
    created: float


class Letters(Protocol):
    """The dead letters of the deployment."""

    async def newest(self) -> Sequence[Letter]:
        """Return those that can be listed, newest first; raise ``Unavailable``."""


def page(letters: Sequence[Letter], fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the output of ``listDLQEntries``."""
    first = fields["offset"]
    shown = letters[first : first + fields["limit"]]
    return {"entries": [_entry(letter) for letter in shown], "total": len(letters)}


def named(letters: Sequence[Letter], fields: Mapping[str, Any]) -> Letter:
    """Return the letter that ``retryDLQEntry`` names.

    Raises ``XrpcError``: InvalidRequest where none is named, NotFound where there is none (any
    more).
    """
    if "id" in fields:
        found = [letter for letter in letters if letter.id == fields["id"]]
    elif "index" in fields:
        found = list(letters[fields["index"] : fields["index"] + 1])
    else:
        raise XrpcError(ErrorName.INVALID_REQUEST, "id or index must name an entry")
    if not found:
        raise XrpcError(ErrorName.NOT_FOUND, "there is no such entry among those that are listed")
    return found[0]


def command(letter: Letter, identifier: str, caller: str, now: float) -> DidSync | None:
    """Return the sync of the letter's account; None: it is about no account that is known."""
    if letter.did is None:
        return None
    return DidSync(id=identifier, did=letter.did, requested_by=caller, requested_at=now)


def answer(letter: Letter, sync: DidSync | None) -> dict[str, Any]:
    """Return the output of ``retryDLQEntry``."""
    if sync is None:
        message = f"{letter.id} ({letter.reason}) names no account: there is nothing to sync"
        return {"success": False, "message": message}
    message = f"operation {sync.id} syncs {sync.did} of {letter.id} ({letter.reason})"
    return {"success": True, "message": message, "operationId": sync.id}


def _entry(letter: Letter) -> dict[str, Any]:
    entry = {
        "id": letter.id,
        "errorType": letter.reason,
        "errorMessage": letter.detail,
        "retryCount": 0,
        "createdAt": times.to_text(letter.created),
    }
    return entry if letter.did is None else entry | {"did": letter.did}
