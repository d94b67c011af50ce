"""Operations: what was asked of the system, and how far it has got.  Pure.

An operation is published on ``chive.operations``, keyed by its id, each time that it
changes; ``version`` tells newer from older.  Times are Unix seconds inside, ISO 8601 in UTC
with milliseconds in JSON.

- ``started_at`` is None exactly as long as ``attempts`` is 0; JSON shows ``requestedAt`` then.
- ``completed_at`` is None exactly as long as the status is not final.
- ``same_as`` names the operation that does the work of this one.
- A *parent* is what a command for many repositories became: one operation with ``children``, which
  bear its id as ``parent``.  It runs while they do, and has their counts.

How a new kind of parent is added: its ``Type`` and that of its children in ``CHILD_TYPES``; a
``BulkCommand`` for it in ``procedures/messages.py`` and its type in ``procedures/admission.py``
(``PARENT_TYPES``); what carries its children out in ``consumer/fetch``.  The expansion of its
selection, progress, end and cancel (``consumer/control/bulks.py``) are the same for all.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, Self

import orjson

from procedures import times
from procedures.failures import Failure
from procedures.messages import Emit


class Type(StrEnum):
    """What an operation does."""

    DID_SYNC = "didSync"
    RECORD_REFRESH = "recordRefresh"
    DISCOVERY = "discovery"  # find the repos that already hold wanted records
    BULK_SYNC = "bulkSync"  # a parent: many DID syncs
    RECONCILE = "reconcile"  # a parent: DID syncs of those repositories that are behind
    FORGET = "forget"


CHILD_TYPES: Mapping[Type, Type] = {
    Type.BULK_SYNC: Type.DID_SYNC,
    Type.RECONCILE: Type.DID_SYNC,
}
"""The types of parents, and of their children."""

IN_STEP = "latestCommit"
"""How a sync of a reconcile was completed that found the repository in step (``via``)."""


class Status(StrEnum):
    """Where an operation is; the last three are final."""

    QUEUED = "queued"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


FINAL = frozenset({Status.COMPLETED, Status.FAILED, Status.CANCELLED})


class Phase(StrEnum):
    """What a running operation is at, in the order in which it goes through them."""

    RESOLVING = "resolving"
    LISTING = "listing"  # discovery, and a parent whose children are not all chosen yet
    CHILDREN = "children"  # a parent that waits for the last of them
    DOWNLOADING = "downloading"
    VERIFYING = "verifying"
    INJECTING = "injecting"
    INJECTED = "injected"  # all is on chive.backfill; the worker does the rest
    APPLIED = "applied"


@dataclass(frozen=True, slots=True)
class Children:
    """What became of a parent's children.

    ``expected``: how many there will be, None as long as that is not known; ``chosen``: how many
    there are so far, the ended ones included; ``failed``: how many, by the name of the failure;
    ``skipped``: repositories that were selected and whose accounts are deleted; ``in_step``: how
    many of the completed ones of a reconcile had nothing to repair, None for other parents.
    """

    expected: int | None = None
    chosen: int = 0
    completed: int = 0
    failed: dict[str, int] = field(default_factory=dict)
    cancelled: int = 0
    skipped: int = 0
    in_step: int | None = None

    @property
    def done(self) -> int:
        """How many have ended."""
        return self.completed + sum(self.failed.values()) + self.cancelled

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object, which is stored, too."""
        expected = {} if self.expected is None else {"expected": self.expected}
        in_step = {} if self.in_step is None else {"inStep": self.in_step}
        return (
            expected
            | in_step
            | {
                "chosen": self.chosen,
                "done": self.done,
                "completed": self.completed,
                "failed": self.failed,
                "cancelled": self.cancelled,
                "skipped": self.skipped,
            }
        )

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Self:
        """Return what ``to_json`` made an object of."""
        names = {"inStep": "in_step"}
        known = {name: value for name, value in fields.items() if name != "done"}
        return cls(**{names.get(name, name): value for name, value in known.items()})


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation; ``requested_by`` None: the system began it itself, for ``reason``.

    ``progress`` is in percent; the counts are of records; ``requested_at``, ``started_at``,
    ``completed_at`` and ``run_after`` (not before then is it due) are Unix seconds.  A discovery
    and a parent have no ``did``.  ``warnings`` counts by reason what a completed sync left out of
    the repository; ``via`` tells what a completed refresh read, the ``record`` with its proof or
    the whole ``repository``, and that a completed sync read no more than the ``latestCommit``.
    ``check_first``: a sync that ends there if the repository is in step.  ``behind``: asked for
    with many others, so that what was asked for by itself goes before it, and automatic operations
    take turns with it.
    """

    id: str
    type: Type
    status: Status
    did: str | None
    uri: str | None
    phase: Phase | None
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
    requested_at: float
    started_at: float | None
    completed_at: float | None
    automatic: bool = False
    emit: Emit = Emit.CHANGES
    same_as: str | None = None
    run_after: float = 0.0
    failure: Failure | None = None
    warnings: dict[str, int] | None = None
    via: str | None = None
    parent: str | None = None
    behind: bool = False
    check_first: bool = False
    children: Children | None = None

    @property
    def ended(self) -> bool:
        return self.status in FINAL


def queued(
    identifier: str,
    kind: Type,
    did: str | None,
    now: float,
    *,
    uri: str | None = None,
    emit: Emit = Emit.CHANGES,
    requested_by: str | None = None,
    requested_at: float | None = None,
    reason: str | None = None,
    automatic: bool = False,
    parent: str | None = None,
    check_first: bool = False,
) -> Operation:
    """Return a new operation, due at ``now`` (Unix seconds); ``parent``: the id of its parent."""
    return Operation(
        id=identifier,
        type=kind,
        status=Status.QUEUED,
        did=did,
        uri=uri,
        phase=None,
        reason=reason,
        progress=0,
        records_processed=0,
        total_records=None,
        created=0,
        updated=0,
        deleted=0,
        attempts=0,
        requested_by=requested_by,
        error=None,
        new_cid=None,
        version=1,
        requested_at=now if requested_at is None else requested_at,
        started_at=None,
        completed_at=None,
        automatic=automatic,
        emit=emit,
        run_after=now,
        parent=parent,
        behind=parent is not None,
        check_first=check_first,
        children=_no_children(kind),
    )


def _no_children(kind: Type) -> Children | None:
    if kind not in CHILD_TYPES:
        return None
    return Children(in_step=0 if kind is Type.RECONCILE else None)


def answered_through(operation: Operation, primary: Operation) -> Operation:
    """Return a coalesced operation (``same_as`` = ``primary.id``) as it is shown: as its primary.

    One that was cancelled by itself stays so.  The store raises the version of coalesced
    operations together with the primary's.
    """
    if operation.ended:
        return operation
    return replace(
        primary,
        id=operation.id,
        same_as=primary.id,
        emit=operation.emit,
        automatic=operation.automatic,
        parent=operation.parent,
        behind=operation.behind,
        reason=operation.reason,
        requested_by=operation.requested_by,
        requested_at=operation.requested_at,
        version=operation.version,
    )


def to_json(operation: Operation) -> dict[str, Any]:
    """Return the operation as the JSON object of ``chive.operations``.

    Members marked optional in the contract are left out when there is nothing to say.
    """
    started = operation.requested_at if operation.started_at is None else operation.started_at
    always = {
        "v": 1,
        "id": operation.id,
        "version": operation.version,
        "type": operation.type,
        "status": operation.status,
        "phase": operation.phase,
        "automatic": operation.automatic,
        "emit": operation.emit,
        "progress": operation.progress,
        "recordsProcessed": operation.records_processed,
        "created": operation.created,
        "updated": operation.updated,
        "deleted": operation.deleted,
        "attempts": operation.attempts,
        "requestedBy": operation.requested_by,
        "requestedAt": times.to_text(operation.requested_at),
        "startedAt": times.to_text(started),
    }
    waiting = operation.status == Status.QUEUED and operation.attempts > 0
    optional = {
        "did": operation.did,
        "uri": operation.uri,
        "totalRecords": operation.total_records,
        "completedAt": None
        if operation.completed_at is None
        else times.to_text(operation.completed_at),
        "nextAttemptAt": times.to_text(operation.run_after) if waiting else None,
        "sameAs": operation.same_as,
        "error": operation.error,
        "errorName": operation.failure,
        "newCid": operation.new_cid,
        "warnings": operation.warnings,
        "via": operation.via,
        "reason": operation.reason,
        "parent": operation.parent,
        "children": None if operation.children is None else operation.children.to_json(),
    }
    return always | {name: value for name, value in optional.items() if value is not None}


def encode(operation: Operation) -> bytes:
    """Return the message of ``chive.operations``."""
    return orjson.dumps(to_json(operation))


def from_json(fields: Mapping[str, Any]) -> Operation:
    """Return the operation of a JSON object that ``to_json`` made.

    Whether it is ``behind`` others is not told.  Raises ``KeyError`` or ``ValueError`` for another
    object, also for one of a newer program with values unknown here.
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


def _moment(fields: Mapping[str, Any], name: str) -> float | None:
    return None if fields.get(name) is None else times.from_text(fields[name])
