"""The states of an operation, and every legal step between them.  Pure.

    queued ──start──▶ running ──complete──▶ completed
       ▲                │ │
       ├───try_again────┤ ├──fail──▶ failed
       └───put_off──────┘ └──cancel▶ cancelled        (fail and cancel also from queued)

- A final status never changes again; what applies afterwards only raises the counts
  (``count``): chunks that were injected before a cancel still apply.
- Within an attempt the phase never goes back; a new attempt begins anew, but keeps the counts
  of what was applied: facts are idempotent, so nothing is counted twice.
- A parent runs from the first page of its selection until its last child has ended; then it is
  completed, whatever became of them: ``children`` tells (``note_children``).
- Each step raises ``version`` by one.  Each raises ``IllegalTransition`` where it is not legal;
  the store guards the same with ``WHERE status = …``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from procedures.failures import PERMANENT, Failure
from procedures.operations import CHILD_TYPES, IN_STEP, Children, Operation, Phase, Status, Type
from procedures.retries import RetryPolicy

_PHASES = tuple(Phase)
_DONE = 100


class IllegalTransition(ValueError):
    """A step that the operation's state does not allow: two processes disagree about it."""

    def __init__(self, operation: Operation, step: str) -> None:
        state = f"{operation.status}/{operation.phase or '-'}"
        super().__init__(f"operation {operation.id} is {state}: cannot {step}")
        self.operation = operation.id
        self.step = step


def _need(operation: Operation, step: str, *statuses: Status) -> None:
    if operation.status not in statuses:
        raise IllegalTransition(operation, step)


def start(operation: Operation, now: float) -> Operation:
    """Begin an attempt: a fetcher has claimed the operation.

    ``now`` is Unix seconds.  A discovery goes on where it was.  Raises ``IllegalTransition``
    unless the operation is queued, due, and not coalesced with another.
    """
    _need(operation, "start", Status.QUEUED)
    if operation.same_as is not None:
        raise IllegalTransition(operation, f"start: {operation.same_as} does its work")
    if operation.run_after > now:
        raise IllegalTransition(operation, "start: not due")
    goes_on = operation.type is Type.DISCOVERY  # at its cursor
    lists = goes_on or operation.type in CHILD_TYPES
    return replace(
        operation,
        status=Status.RUNNING,
        phase=Phase.LISTING if lists else Phase.RESOLVING,
        progress=0,
        records_processed=operation.records_processed if goes_on else 0,
        total_records=None,
        attempts=operation.attempts + 1,
        started_at=now if operation.started_at is None else operation.started_at,
        error=None,
        failure=None,
        version=operation.version + 1,
    )


def advance(
    operation: Operation,
    phase: Phase,
    *,
    progress: int | None = None,
    records_processed: int | None = None,
    total_records: int | None = None,
) -> Operation:
    """Note how far a running operation is; progress never falls and reaches 100 at its end."""
    _need(operation, f"advance to {phase}", Status.RUNNING)
    before = operation.phase
    if before is not None and _PHASES.index(phase) < _PHASES.index(before):
        raise IllegalTransition(operation, f"go back to {phase}")
    wanted = operation.progress if progress is None else progress
    return replace(
        operation,
        phase=phase,
        progress=max(operation.progress, min(wanted, _DONE - 1)),
        records_processed=max(operation.records_processed, records_processed or 0),
        total_records=operation.total_records if total_records is None else total_records,
        version=operation.version + 1,
    )


def count(
    operation: Operation, *, created: int = 0, updated: int = 0, deleted: int = 0
) -> Operation:
    """Add what the worker has applied; legal at any time after the first start."""
    if operation.attempts == 0:
        raise IllegalTransition(operation, "count what was applied")
    return replace(
        operation,
        created=operation.created + created,
        updated=operation.updated + updated,
        deleted=operation.deleted + deleted,
        version=operation.version + 1,
    )


def note_children(
    operation: Operation,
    *,
    selected: bool,
    expected: int | None,
    chosen: int = 0,
    skipped: int = 0,
    ended: Sequence[Operation] = (),
) -> Operation:
    """Note what has become of a running parent's children since the last time.

    ``selected``: all are chosen; else ``expected`` is how many there will be, None if that is not
    known.  ``chosen`` and ``skipped`` are how many more of these there are; the records of
    ``ended``, children that have ended since, are added to the parent's.  Raises
    ``IllegalTransition`` unless the parent is running.
    """
    before = operation.children or Children()
    failed = Counter(
        one.failure or Failure.INTERNAL for one in ended if one.status is Status.FAILED
    )
    names = sorted(before.failed.keys() | {failure.value for failure in failed})
    statuses = Counter(one.status for one in ended)
    all_chosen = before.chosen + chosen
    children = Children(
        expected=all_chosen if selected else expected,
        chosen=all_chosen,
        completed=before.completed + statuses[Status.COMPLETED],
        failed={name: before.failed.get(name, 0) + failed[Failure(name)] for name in names},
        cancelled=before.cancelled + statuses[Status.CANCELLED],
        skipped=before.skipped + skipped,
        in_step=None
        if before.in_step is None
        else before.in_step + sum(one.via == IN_STEP for one in ended),
    )
    after = advance(
        operation,
        Phase.CHILDREN if selected else Phase.LISTING,
        progress=_DONE * children.done // children.expected if children.expected else None,
        records_processed=operation.records_processed + sum(o.records_processed for o in ended),
    )
    return replace(
        after,
        children=children,
        created=operation.created + sum(one.created for one in ended),
        updated=operation.updated + sum(one.updated for one in ended),
        deleted=operation.deleted + sum(one.deleted for one in ended),
    )


def requeue(
    operation: Operation,
    run_after: float,
    failure: Failure | None = None,
    error: str | None = None,
) -> Operation:
    """End an attempt without a result: to be tried again, or its process was lost."""
    _need(operation, "requeue", Status.RUNNING)
    return replace(
        operation,
        status=Status.QUEUED,
        phase=None,
        run_after=run_after,
        failure=failure,
        error=error,
        version=operation.version + 1,
    )


def put_off(operation: Operation, run_after: float, failure: Failure, error: str) -> Operation:
    """Take back an attempt in which nothing was tried: nothing was sent to the host."""
    _need(operation, "put off", Status.RUNNING)
    waiting = requeue(operation, run_after, failure, error)
    attempts = waiting.attempts - 1
    return replace(waiting, attempts=attempts, started_at=waiting.started_at if attempts else None)


def wait_for_host(
    operation: Operation,
    now: float,
    seconds: float,
    failure: Failure,
    error: str,
    *,
    policy: RetryPolicy,
) -> Operation:
    """Put off an attempt at a host that has failed and is not asked for ``seconds``.

    One of many gives up if that is too long.  Raises ``IllegalTransition`` unless it is running.
    """
    if operation.behind and _too_late(operation, now + seconds, policy):
        return fail(operation, now, failure, f"given up: {error}")
    return put_off(operation, now + seconds, failure, error)


def _too_late(operation: Operation, then: float, policy: RetryPolicy) -> bool:
    """Tell whether ``then`` (Unix seconds) is too late for another attempt."""
    asked_for, started = operation.requested_at, operation.started_at
    if operation.check_first:
        return then - (asked_for if started is None else started) > policy.check_give_up_after
    if operation.behind:
        return then - asked_for > policy.behind_give_up_after
    return then - (asked_for if started is None else started) > policy.give_up_after


def try_again(
    operation: Operation,
    now: float,
    failure: Failure,
    error: str,
    *,
    policy: RetryPolicy,
    chance: float,
    retry_after: float | None = None,
) -> Operation:
    """Decide after a failed attempt: requeue with a wait, or fail for good.

    ``chance`` is a random number in [0, 1); ``retry_after`` the seconds that the host asked
    for.  Permanent failures fail at once, others when the operation would be tried for longer
    than ``policy.give_up_after``, or ``behind_give_up_after`` for one of many.  Raises
    ``IllegalTransition`` unless the operation is running.
    """
    _need(operation, "try again", Status.RUNNING)
    if failure in PERMANENT:
        return fail(operation, now, failure, error)
    automatic = operation.automatic
    wait = policy.attempt_wait(operation.attempts, chance, retry_after, automatic=automatic)
    if _too_late(operation, now + wait, policy):
        return fail(
            operation, now, failure, f"given up after {operation.attempts} attempts: {error}"
        )
    return requeue(operation, now + wait, failure, error)


def complete(
    operation: Operation,
    now: float,
    *,
    new_cid: str | None = None,
    warnings: dict[str, int] | None = None,
    via: str | None = None,
) -> Operation:
    """End well: the worker has applied everything; ``warnings`` counts what was left out."""
    _need(operation, "complete", Status.RUNNING)
    return replace(
        operation,
        status=Status.COMPLETED,
        phase=Phase.APPLIED,
        progress=_DONE,
        total_records=operation.records_processed,
        completed_at=now,
        new_cid=new_cid,
        warnings=warnings,
        via=via,
        error=None,
        failure=None,
        version=operation.version + 1,
    )


def fail(operation: Operation, now: float, failure: Failure, error: str) -> Operation:
    """End badly, for good."""
    _need(operation, "fail", Status.QUEUED, Status.RUNNING)
    return replace(
        operation,
        status=Status.FAILED,
        completed_at=now,
        failure=failure,
        error=error,
        version=operation.version + 1,
    )


def cancel(operation: Operation, now: float, error: str = "cancelled") -> Operation:
    """Stop: nothing more is fetched; what was injected still applies."""
    _need(operation, "cancel", Status.QUEUED, Status.RUNNING)
    return replace(
        operation,
        status=Status.CANCELLED,
        completed_at=now,
        failure=None,
        error=error,
        version=operation.version + 1,
    )
