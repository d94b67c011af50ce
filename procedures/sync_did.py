"""``pub.chive.admin.triggerDIDSync``: what it asks for and what it answers.  Pure.

The answer is the id of the operation, as soon as the broker has the command.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from procedures.messages import DidSync


def command(fields: Mapping[str, Any], identifier: str, caller: str, now: float) -> DidSync:
    """Return the command for a checked input, on behalf of the DID ``caller``."""
    return DidSync(id=identifier, did=fields["did"], requested_by=caller, requested_at=now)


def answer(sync: DidSync) -> dict[str, Any]:
    """Return the output: the operation can be followed under this id."""
    return {"operationId": sync.id}
