"""What applied chunks and proofs mean for their operation.  Pure.

The worker ends an operation in the transaction that applies its last message.  Only messages
of the running attempt end the operation or move its progress.  Messages of an earlier attempt,
or of a cancelled operation, raise the counts alone.

An operation that must be fetched again is queued again itself, so that a repo that is behind has
one open:

- if the host served less than is known: with a delay, as after any failure;
- if something came in between (a cause for another sync, another snapshot, another scope): at
  once in the first attempts (``RetryPolicy.at_once``), with a wait from then on;
- an automatic operation of a repo that has become active meanwhile is cancelled instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from consumer.errors import Reason
from consumer.state.effects import AppliedOperation, OperationEffect
from procedures import transitions
from procedures.failures import Failure
from procedures.operations import Operation, Phase, Status, Type
from procedures.retries import RetryPolicy
from procedures.syntax import cid_text

_FETCHED = 50  # percent: a sync that is fetched and verified is half done
_WHOLE = 100

_MOOT = "the repository became active without it"
_HINT = "the host has not reached a commit that was announced, and could not be verified"
_WHY: dict[Reason, tuple[Failure, str]] = {
    Reason.SNAPSHOT_STALE: (Failure.OLDER_THAN_KNOWN, "the host served less than is known"),
    Reason.SNAPSHOT_OUTDATED: (
        Failure.OLDER_THAN_KNOWN,
        "after the download began there was cause for another",
    ),
    Reason.SNAPSHOT_HOLE: (Failure.INTERNAL, "another snapshot of the repository came in between"),
    Reason.SNAPSHOT_SCOPE: (Failure.INTERNAL, "other collections are wanted than it was cut for"),
    Reason.EQUIVOCATION: (Failure.REPO_INVALID, "the host signed two trees with one revision"),
    Reason.ACCOUNT_INACTIVE: (Failure.ACCOUNT_INACTIVE, "the account is not active"),
    Reason.UNTRACKED: (Failure.OUT_OF_SCOPE, "its collection is not wanted here"),
}
_CAME_BETWEEN = frozenset(
    {Reason.SNAPSHOT_OUTDATED, Reason.SNAPSHOT_HOLE, Reason.SNAPSHOT_SCOPE},
)


def concluded(
    operation: Operation,
    done: Sequence[AppliedOperation],
    *,
    active: bool,
    now: float,
    retries: RetryPolicy,
    chance: float,
) -> Operation:
    """Return the operation after ``done``, what its messages in one batch did, in order.

    ``active``: the repo is, after the batch.  ``now`` is Unix seconds, ``chance`` a random
    number in [0, 1).
    """
    if operation.attempts == 0:
        return operation  # it never started: these are not its messages
    after = transitions.count(
        operation,
        created=sum(one.created for one in done),
        updated=sum(one.updated for one in done),
        deleted=sum(one.deleted for one in done),
    )
    running = operation.status is Status.RUNNING
    own = [one for one in done if running and one.attempt == operation.attempts]
    if own:
        after = _progressed(after, sum(one.entries for one in own))
    last = next((one for one in own if one.effect is not OperationEffect.ADVANCED), None)
    if last is not None:
        after = _ended(after, last, active=active, now=now, retries=retries, chance=chance)
    return replace(after, version=operation.version + 1)


def _progressed(operation: Operation, entries: int) -> Operation:
    processed, total = operation.records_processed + entries, operation.total_records
    progress = None
    if total and operation.type is Type.DID_SYNC:
        processed = min(processed, total)
        progress = _FETCHED + (_WHOLE - _FETCHED) * processed // total
    phase = operation.phase or Phase.INJECTING
    return transitions.advance(operation, phase, progress=progress, records_processed=processed)


def _ended(
    operation: Operation,
    last: AppliedOperation,
    *,
    active: bool,
    now: float,
    retries: RetryPolicy,
    chance: float,
) -> Operation:
    if last.effect is OperationEffect.COMPLETED:
        new_cid = None if last.new_cid is None else cid_text(last.new_cid)
        return transitions.complete(
            operation, now, new_cid=new_cid, warnings=dict(last.warnings) or None, via=last.via
        )
    reason = last.reason or Reason.SNAPSHOT_STALE
    failure, error = _WHY[reason]
    if last.effect is OperationEffect.FAILED:
        return transitions.fail(operation, now, failure, error)
    if operation.automatic and active:
        return transitions.cancel(operation, now, _MOOT)
    if reason in _CAME_BETWEEN and operation.attempts <= retries.at_once:
        return transitions.requeue(operation, now, error=error)
    error = _HINT if last.hint_missed else error
    return transitions.try_again(operation, now, failure, error, policy=retries, chance=chance)
