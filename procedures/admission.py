"""What a command does to the operations: the controller's decision.  Pure.

- An id names one operation for ever: the same command again changes nothing, another subject
  under a used id is refused.
- A sync asked for while one for that DID is still queued is the same work: the new operation
  follows the queued one (``same_as``) and is answered through it.  The same goes for refreshes
  of one record.  A sync that publishes everything follows only one that does so too.
- What somebody asks for goes first: an operation that gets a follower is due at once and no
  longer automatic, unless it waits because its host said so (``RateLimited``).
- Cancelling an operation that others follow hands the work to the oldest of them that can
  answer for all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from procedures import transitions
from procedures.failures import Failure
from procedures.messages import Cancel, DidSync, Emit, RecordRefresh, Refusal, RefusalReason
from procedures.operations import Operation, Status, Type, queued


@dataclass(frozen=True, slots=True)
class Admitted:
    """A new operation, and the one it follows if that has changed by it."""

    operation: Operation
    leader: Operation | None = None


@dataclass(frozen=True, slots=True)
class Repeated:
    """The command is known already: nothing changes."""

    operation: Operation


@dataclass(frozen=True, slots=True)
class Stopped:
    """The operations that a cancel has changed, the cancelled one first; may be none."""

    changed: tuple[Operation, ...]


def _emit(command: DidSync | RecordRefresh) -> Emit:
    return command.emit if isinstance(command, DidSync) else Emit.CHANGES


def _uri(command: DidSync | RecordRefresh) -> str | None:
    return command.uri if isinstance(command, RecordRefresh) else None


def _type(command: DidSync | RecordRefresh) -> Type:
    return Type.DID_SYNC if isinstance(command, DidSync) else Type.RECORD_REFRESH


def _is_repeat(command: DidSync | RecordRefresh, known: Operation) -> bool:
    subject = (_type(command), command.did, _uri(command), _emit(command))
    return subject == (known.type, known.did, known.uri, known.emit)


def is_same_work(command: DidSync | RecordRefresh, operation: Operation) -> bool:
    """Tell whether ``operation``, not begun yet, will do what ``command`` asks for."""
    return (
        operation.status == Status.QUEUED
        and operation.same_as is None
        and (operation.type, operation.did, operation.uri)
        == (_type(command), command.did, _uri(command))
        and (_emit(command) == Emit.CHANGES or operation.emit == Emit.ALL)
    )


def _hastened(leader: Operation, now: float) -> Operation | None:
    waits_for_host = leader.failure == Failure.RATE_LIMITED
    due = leader.run_after if waits_for_host else min(leader.run_after, now)
    if not leader.automatic and due == leader.run_after:
        return None
    return replace(leader, automatic=False, run_after=due, version=leader.version + 1)


def admit(
    command: DidSync | RecordRefresh,
    known: Operation | None,
    open_operations: Sequence[Operation],
    now: float,
) -> Admitted | Repeated | Refusal:
    """Decide about a sync or refresh that was asked for.

    ``known`` is the operation that has the command's id, if any; ``open_operations`` are those
    of its DID that have not ended, oldest first.
    """
    if known is not None:
        if _is_repeat(command, known):
            return Repeated(known)
        return Refusal(RefusalReason.ID_TAKEN, f"{command.id} names another operation")
    operation = queued(
        command.id,
        _type(command),
        command.did,
        now,
        uri=_uri(command),
        emit=_emit(command),
        requested_by=command.requested_by,
        requested_at=command.requested_at,
    )
    leader = next((other for other in open_operations if is_same_work(command, other)), None)
    if leader is None:
        return Admitted(operation)
    return Admitted(replace(operation, same_as=leader.id), _hastened(leader, now))


def _inherit(followers: Sequence[Operation], now: float) -> tuple[Operation, ...]:
    waiting = [follower for follower in followers if not follower.ended]
    if not waiting:
        return ()
    heir = next((follower for follower in waiting if follower.emit == Emit.ALL), waiting[0])
    others = [follower for follower in waiting if follower is not heir]
    changed = [replace(heir, same_as=None, run_after=now, version=heir.version + 1)]
    changed += [replace(o, same_as=heir.id, version=o.version + 1) for o in others]
    return tuple(changed)


def stop(
    command: Cancel, target: Operation | None, followers: Sequence[Operation], now: float
) -> Stopped | Refusal:
    """Decide about a cancel; ``followers`` are the operations ``same_as`` the target, oldest first.

    Cancelling what has ended changes nothing.
    """
    if target is None:
        detail = f"there is no operation {command.operation_id}"
        return Refusal(RefusalReason.UNKNOWN_OPERATION, detail)
    if target.ended:
        return Stopped(())
    by = f" by {command.requested_by}" if command.requested_by else ""
    cancelled = transitions.cancel(target, now, f"cancelled{by}")
    return Stopped((cancelled, *_inherit(followers, now)))
