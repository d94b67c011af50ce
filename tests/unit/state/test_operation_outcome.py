from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from consumer.errors import Reason
from consumer.state.effects import AppliedOperation, OperationEffect
from consumer.state.operation_outcome import concluded
from procedures import operations
from procedures.failures import Failure
from procedures.operations import Operation, Phase, Status, Type
from procedures.retries import RetryPolicy
from procedures.syntax import DAG_CBOR_PREFIX, cid_text

NOW = 1_000.0
RETRIES = RetryPolicy()
DID = "did:plc:x"
CID = DAG_CBOR_PREFIX + bytes(32)


def running(kind: Type = Type.DID_SYNC, **fields: Any) -> Operation:
    """Return an operation in its first attempt, begun a second ago."""
    begun = replace(
        operations.queued("op", kind, DID, NOW - 2),
        status=Status.RUNNING,
        phase=Phase.INJECTED,
        attempts=1,
        started_at=NOW - 1,
        total_records=10,
        progress=40,
        version=5,
    )
    return replace(begun, **fields)


def went(effect: OperationEffect, reason: Reason | None = None, **fields: Any) -> AppliedOperation:
    return replace(AppliedOperation("op", DID, 1, effect, reason), **fields)


def end(operation: Operation, *done: AppliedOperation, active: bool = False) -> Operation:
    return concluded(operation, done, active=active, now=NOW, retries=RETRIES, chance=0.0)


def test_chunks_are_counted_and_move_the_progress() -> None:
    chunk = went(OperationEffect.ADVANCED, created=1, updated=2, deleted=3, entries=4)
    after = end(running(), chunk, chunk)
    assert (after.created, after.updated, after.deleted) == (2, 4, 6)
    assert (after.records_processed, after.progress, after.status) == (8, 90, "running")
    assert after.version == 6
    assert end(after, chunk).records_processed == 10, "never more than there are"


def test_the_last_message_completes() -> None:
    after = end(running(), went(OperationEffect.COMPLETED, entries=10, hint_missed=True))
    assert (after.status, after.phase, after.progress) == ("completed", "applied", 100)
    assert (after.completed_at, after.error, after.version) == (NOW, None, 6)


def test_a_refresh_tells_the_cid() -> None:
    refresh = running(Type.RECORD_REFRESH, total_records=None)
    after = end(refresh, went(OperationEffect.COMPLETED, new_cid=CID, entries=1))
    assert (after.new_cid, after.records_processed) == (cid_text(CID), 1)
    assert end(refresh, went(OperationEffect.COMPLETED, deleted=1)).new_cid is None


@pytest.mark.parametrize(
    "operation",
    [
        running(attempts=2),
        running(status=Status.CANCELLED, completed_at=NOW - 1),
        running(status=Status.QUEUED, phase=None),
    ],
    ids=["another attempt", "cancelled", "queued again"],
)
@pytest.mark.parametrize("effect", OperationEffect)
def test_what_applies_besides_is_only_counted(
    operation: Operation, effect: OperationEffect
) -> None:
    after = end(operation, went(effect, Reason.SNAPSHOT_STALE, created=1, entries=4))
    assert after == replace(operation, created=1, version=6)


def test_an_operation_that_never_began_has_no_messages() -> None:
    fresh = operations.queued("op", Type.DID_SYNC, DID, NOW)
    assert end(fresh, went(OperationEffect.COMPLETED)) == fresh


@pytest.mark.parametrize(
    ("reason", "failure"),
    [
        (Reason.ACCOUNT_INACTIVE, Failure.ACCOUNT_INACTIVE),
        (Reason.UNTRACKED, Failure.OUT_OF_SCOPE),
    ],
)
def test_what_would_not_help_is_not_tried_again(reason: Reason, failure: Failure) -> None:
    after = end(running(), went(OperationEffect.FAILED, reason))
    assert (after.status, after.failure, after.completed_at) == ("failed", failure, NOW)


@pytest.mark.parametrize(("automatic", "wait"), [(False, 0.5), (True, 30.0)])
def test_a_host_that_is_behind_is_asked_again_later(automatic: bool, wait: float) -> None:
    after = end(running(automatic=automatic), went(OperationEffect.AGAIN, Reason.SNAPSHOT_STALE))
    assert (after.status, after.failure) == ("queued", Failure.OLDER_THAN_KNOWN)
    assert (after.run_after, after.completed_at) == (NOW + wait, None)


def test_a_host_that_is_behind_for_a_day_is_given_up() -> None:
    long_ago = running(started_at=NOW - 90_000, attempts=9)
    after = end(long_ago, went(OperationEffect.AGAIN, Reason.SNAPSHOT_STALE, attempt=9))
    assert (after.status, after.failure) == ("failed", Failure.OLDER_THAN_KNOWN)


def test_a_missed_hint_is_said() -> None:
    after = end(running(), went(OperationEffect.AGAIN, Reason.SNAPSHOT_STALE, hint_missed=True))
    assert "announced" in (after.error or "")


@pytest.mark.parametrize(
    "reason", [Reason.SNAPSHOT_OUTDATED, Reason.SNAPSHOT_HOLE, Reason.SNAPSHOT_SCOPE]
)
def test_what_came_in_between_is_made_up_for_at_once_but_not_for_ever(reason: Reason) -> None:
    after = end(running(), went(OperationEffect.AGAIN, reason))
    assert (after.status, after.failure, after.run_after) == ("queued", None, NOW)
    late = RETRIES.at_once + 1
    after = end(running(attempts=late), went(OperationEffect.AGAIN, reason, attempt=late))
    assert (after.status, after.run_after) == ("queued", NOW + 4.0)


def test_a_host_that_contradicts_itself_is_not_asked_again() -> None:
    after = end(running(), went(OperationEffect.AGAIN, Reason.EQUIVOCATION))
    assert (after.status, after.failure) == ("failed", Failure.REPO_INVALID)


def test_an_automatic_sync_of_a_repo_that_is_right_is_moot() -> None:
    again = went(OperationEffect.AGAIN, Reason.SNAPSHOT_HOLE)
    assert end(running(automatic=True), again, active=True).status == "cancelled"
    assert end(running(), again, active=True).status == "queued", "it was asked for"


def test_every_reason_for_another_attempt_is_known() -> None:
    for reason in Reason:
        if reason.startswith("snapshot_"):
            assert end(running(), went(OperationEffect.AGAIN, reason)).status == "queued"
