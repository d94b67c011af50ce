"""Operations read back from their JSON form, as a consumer of the topic may do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from procedures import times
from procedures.failures import Failure
from procedures.messages import Emit
from procedures.operations import Children, Operation, Phase, Status, Type


def _moment(fields: Mapping[str, Any], name: str) -> float | None:
    return None if fields.get(name) is None else times.from_text(fields[name])


def from_json(fields: Mapping[str, Any]) -> Operation:
    """Return the operation of a JSON object that ``to_json`` made.

    Raises ``KeyError`` or ``ValueError`` for another one.
    """
    phase, failure = fields.get("phase"), fields.get("errorName")
    requested_at = times.from_text(fields["requestedAt"])
    return Operation(
        id=fields["id"],
        type=Type(fields["type"]),
        status=Status(fields["status"]),
        did=fields.get("did"),
        uri=fields.get("uri"),
        phase=None if phase is None else Phase(phase),
        reason=fields.get("reason"),
        progress=fields["progress"],
        records_processed=fields["recordsProcessed"],
        total_records=fields.get("totalRecords"),
        created=fields["created"],
        updated=fields["updated"],
        deleted=fields["deleted"],
        attempts=fields["attempts"],
        requested_by=fields.get("requestedBy"),
        error=fields.get("error"),
        new_cid=fields.get("newCid"),
        version=fields["version"],
        requested_at=requested_at,
        started_at=_moment(fields, "startedAt") if fields["attempts"] else None,
        completed_at=_moment(fields, "completedAt"),
        automatic=fields["automatic"],
        emit=Emit(fields["emit"]),
        same_as=fields.get("sameAs"),
        run_after=_moment(fields, "nextAttemptAt") or requested_at,
        failure=None if failure is None else Failure(failure),
        warnings=fields.get("warnings"),
        via=fields.get("via"),
        parent=fields.get("parent"),
        children=Children.from_json(fields["children"]) if "children" in fields else None,
    )
