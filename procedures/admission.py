"""What a command does to the operations: the controller's decision.  Pure.

- An id always names one operation: the same command again changes nothing, another subject
  under a used id is refused.
- A sync asked for while one for that DID is still queued is the same work: the new operation is
  coalesced with the queued one, its primary (``same_as``), and is answered through it.  The same
  goes for refreshes of one record.  A sync that publishes everything is coalesced only with one
  that does so too, and one that checks first stands in for no other.
- What is asked for goes before what is automatic: a primary is due at once and no longer
  automatic, unless it waits because its host said so (``RateLimited``).
- Cancelling a primary makes the oldest of its coalesced operations that can answer for all of
  them the new primary.
- A command for many repositories becomes a parent; its children are coalesced like operations
  that were asked for by themselves, but stay behind those (``Operation.behind``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from procedures import transitions
from procedures.failures import Failure
from procedures.messages import (
    BulkCommand,
    BulkSync,
    Cancel,
    Emit,
    Reconcile,
    Refusal,
    RefusalReason,
    SearchCommand,
    WorkCommand,
)
from procedures.operations import CHILD_TYPES, Operation, Status, Type, queued

PARENT_TYPES: Mapping[type[BulkCommand], Type] = {
    BulkSync: Type.BULK_SYNC,
    Reconcile: Type.RECONCILE,
}
"""What each command for many repositories becomes."""


@dataclass(frozen=True, slots=True)
class Accepted:
    """A new operation, and its primary if that has changed by it."""

    operation: Operation
    primary: Operation | None = None


@dataclass(frozen=True, slots=True)
class Repeated:
    """The command is known already: nothing changes."""

    operation: Operation


@dataclass(frozen=True, slots=True)
class Cancelled:
    """The operations that a cancel has changed, the cancelled one first; may be none."""

    changed: tuple[Operation, ...]


def _is_repeat(command: WorkCommand, known: Operation) -> bool:
    subject = (Type(command.kind), command.did, command.uri, command.emit)
    return subject == (known.type, known.did, known.uri, known.emit)


def is_same_work(wanted: Operation, operation: Operation) -> bool:
    """Tell whether ``operation``, not begun yet, will do what ``wanted`` is to do."""
    return (
        operation.status == Status.QUEUED
        and operation.same_as is None
        and (operation.type, operation.did, operation.uri) == (wanted.type, wanted.did, wanted.uri)
        and (wanted.emit == Emit.CHANGES or operation.emit == Emit.ALL)
        and (wanted.check_first or not operation.check_first)
    )


def _brought_forward(primary: Operation, wanted: Operation, now: float) -> Operation | None:
    waits_for_host = primary.failure == Failure.RATE_LIMITED
    due = primary.run_after if waits_for_host else min(primary.run_after, now)
    behind = wanted.behind and (primary.automatic or primary.behind)
    after = replace(primary, automatic=False, behind=behind, run_after=due)
    return None if after == primary else replace(after, version=primary.version + 1)


def _coalesced(wanted: Operation, open_operations: Sequence[Operation], now: float) -> Accepted:
    primary = next((other for other in open_operations if is_same_work(wanted, other)), None)
    if primary is None:
        return Accepted(wanted)
    return Accepted(replace(wanted, same_as=primary.id), _brought_forward(primary, wanted, now))


def accept(
    command: WorkCommand,
    known: Operation | None,
    open_operations: Sequence[Operation],
    now: float,
) -> Accepted | Repeated | Refusal:
    """Decide about a command that becomes an operation.

    ``known`` is the operation that has the command's id, if any; ``open_operations`` are those
    of its DID that have not ended, oldest first; ``now`` is Unix seconds.
    """
    if known is not None:
        if _is_repeat(command, known):
            return Repeated(known)
        return Refusal(RefusalReason.ID_TAKEN, f"{command.id} names another operation")
    operation = queued(
        command.id,
        Type(command.kind),
        command.did,
        now,
        uri=command.uri,
        emit=command.emit,
        requested_by=command.requested_by,
        requested_at=command.requested_at,
    )
    return _coalesced(operation, open_operations, now)


def bulk(command: BulkCommand, known: Operation | None, now: float) -> Accepted | Refusal | None:
    """Decide about a command for many repositories; None: it is known already.

    ``known`` is the operation that has the command's id, if any; ``now`` is Unix seconds.
    """
    kind, reason = PARENT_TYPES[type(command)], command.selection.text
    if known is not None:
        if (known.type, known.reason, known.emit) == (kind, reason, command.emit):
            return None
        return Refusal(RefusalReason.ID_TAKEN, f"{command.id} names another operation")
    operation = queued(
        command.id,
        kind,
        None,
        now,
        emit=command.emit,
        requested_by=command.requested_by,
        requested_at=command.requested_at,
        reason=reason,
    )
    return Accepted(operation)


def child(
    parent: Operation,
    identifier: str,
    did: str,
    open_operations: Sequence[Operation],
    now: float,
) -> Accepted:
    """Return the child of ``parent`` for ``did``, coalesced where its work is queued already.

    ``open_operations`` are those of the DID that have not ended, oldest first; ``now`` is Unix
    seconds.
    """
    wanted = queued(
        identifier,
        CHILD_TYPES[parent.type],
        did,
        now,
        emit=parent.emit,
        requested_by=parent.requested_by,
        parent=parent.id,
        check_first=parent.type is Type.RECONCILE,
    )
    return _coalesced(wanted, open_operations, now)


def search(
    command: SearchCommand, known: Operation | None, now: float
) -> Accepted | Refusal | None:
    """Decide about a command to read listings; None: it is known already.

    ``known`` is the operation that has the command's id, if any; ``now`` is Unix seconds.
    """
    if known is not None:
        if (known.type, known.reason) == (Type.DISCOVERY, command.subject):
            return None
        return Refusal(RefusalReason.ID_TAKEN, f"{command.id} names another operation")
    operation = queued(
        command.id,
        Type.DISCOVERY,
        None,
        now,
        requested_by=command.requested_by,
        requested_at=command.requested_at,
        reason=command.subject,
    )
    return Accepted(operation)


def _with_new_primary(coalesced: Sequence[Operation], now: float) -> tuple[Operation, ...]:
    waiting = [one for one in coalesced if not one.ended]
    if not waiting:
        return ()
    primary = min(waiting, key=lambda one: (one.emit != Emit.ALL, one.check_first))
    others = [one for one in waiting if one is not primary]
    changed = [replace(primary, same_as=None, run_after=now, version=primary.version + 1)]
    changed += [replace(one, same_as=primary.id, version=one.version + 1) for one in others]
    return tuple(changed)


def cancel(
    command: Cancel, target: Operation | None, coalesced: Sequence[Operation], now: float
) -> Cancelled | Refusal:
    """Decide about a cancel; ``coalesced`` are the operations ``same_as`` the target, oldest first.

    Cancelling what has ended changes nothing.  ``now`` is Unix seconds.
    """
    if target is None:
        detail = f"there is no operation {command.operation_id}"
        return Refusal(RefusalReason.UNKNOWN_OPERATION, detail)
    if target.ended:
        return Cancelled(())
    by = f" by {command.requested_by}" if command.requested_by else ""
    cancelled = transitions.cancel(target, now, f"cancelled{by}")
    return Cancelled((cancelled, *_with_new_primary(coalesced, now)))
