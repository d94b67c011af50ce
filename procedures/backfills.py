"""``pub.chive.admin.getBackfillStatus``, ``getBackfillHistory`` and ``cancelBackfill``.

Chive's pages know the statuses running, completed, failed and cancelled, and show as under way
what is exactly ``running``.  So an operation that waits for its turn is shown as running, with
progress 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from procedures import operations
from procedures.client import Query
from procedures.contract import ErrorName, XrpcError
from procedures.operations import FINAL, Operation, Status

_OPEN = frozenset({Status.QUEUED, Status.RUNNING})


def shown(operation: Operation) -> dict[str, Any]:
    """Return the operation as XRPC shows it."""
    fields = operations.to_json(operation)
    if operation.status is Status.QUEUED:
        fields |= {"status": Status.RUNNING, "progress": 0}
    return fields


def status_query(fields: Mapping[str, Any]) -> Query:
    """Return which operations ``getBackfillStatus`` without an id asks for."""
    status = fields.get("status", Status.RUNNING)
    statuses = _OPEN if status == Status.RUNNING else frozenset({Status(status)})
    return Query(statuses, limit=fields["limit"])


def history_query(fields: Mapping[str, Any]) -> Query:
    """Return which operations ``getBackfillHistory`` asks for."""
    return Query(
        FINAL,
        fields.get("did"),
        fields["limit"],
        fields.get("cursor"),
        automatic=fields["automatic"],
    )


def cancelled_id(fields: Mapping[str, Any]) -> str:
    """Return the id that ``cancelBackfill`` names: as ``id``, or as Chive's pages, ``operationId``.

    Raises ``XrpcError(InvalidRequest)`` for none, and for two that differ.
    """
    named = {fields[name] for name in ("id", "operationId") if name in fields}
    if len(named) != 1:
        message = "id or operationId must name one operation"
        raise XrpcError(ErrorName.INVALID_REQUEST, message)
    identifier: str = named.pop()
    return identifier
