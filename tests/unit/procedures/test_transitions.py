"""Every legal step between the states of an operation, and no other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from procedures import transitions
from procedures.failures import PERMANENT, Failure
from procedures.operations import IN_STEP, Children, Operation, Phase, Status, Type, queued
from procedures.retries import RetryPolicy
from procedures.transitions import IllegalTransition
from tests.unit.procedures.strategies import DID, MOMENTS
from tests.unit.procedures.strategies import operations as any_operation

NOW = 4_000_000_001.0
POLICY = RetryPolicy()
_FAILURES = st.sampled_from(Failure)

Step = Callable[[Operation], Operation]
STEPS: dict[str, tuple[Step, set[Status]]] = {
    "start": (lambda o: transitions.start(o, NOW), {Status.QUEUED}),
    "advance": (lambda o: transitions.advance(o, Phase.APPLIED), {Status.RUNNING}),
    "requeue": (lambda o: transitions.requeue(o, NOW), {Status.RUNNING}),
    "put off": (
        lambda o: transitions.put_off(o, NOW, Failure.HOST_ERROR, "busy"),
        {Status.RUNNING},
    ),
    "complete": (lambda o: transitions.complete(o, NOW), {Status.RUNNING}),
    "fail": (
        lambda o: transitions.fail(o, NOW, Failure.INTERNAL, "x"),
        {Status.QUEUED, Status.RUNNING},
    ),
    "cancel": (lambda o: transitions.cancel(o, NOW), {Status.QUEUED, Status.RUNNING}),
}


def _running() -> Operation:
    return transitions.start(queued("op", Type.DID_SYNC, DID, 1_000.0), 1_000.0)


def test_an_attempt_that_was_put_off_counts_for_nothing() -> None:
    waiting = transitions.put_off(_running(), NOW, Failure.HOST_ERROR, "busy")
    assert (waiting.status, waiting.attempts, waiting.run_after) == (Status.QUEUED, 0, NOW)
    assert waiting.started_at is None
    assert transitions.start(waiting, NOW).attempts == 1
    tried = transitions.requeue(_running(), NOW, Failure.HOST_ERROR, "away")
    again = transitions.put_off(transitions.start(tried, NOW), NOW, Failure.HOST_ERROR, "busy")
    assert (again.attempts, again.started_at) == (1, tried.started_at)


@given(any_operation(), st.sampled_from(sorted(STEPS)))
def test_a_step_is_taken_from_its_own_states_only(operation: Operation, name: str) -> None:
    step, legal = STEPS[name]
    if operation.status not in legal:
        with pytest.raises(IllegalTransition):
            step(operation)
        return
    after = step(operation)
    assert after.version == operation.version + 1
    assert (after.completed_at is not None) == after.ended
    assert (after.started_at is not None) == (after.attempts > 0)
    assert after.id == operation.id


@given(any_operation(), st.lists(st.sampled_from(sorted(STEPS)), max_size=12))
def test_what_ended_never_goes_on_and_counts_never_fall(
    operation: Operation, names: list[str]
) -> None:
    for name in names:
        try:
            after = STEPS[name][0](operation)
        except IllegalTransition:
            continue
        if operation.ended:
            assert after.status == operation.status
        assert after.created >= operation.created
        taken_back = name == "put off"
        assert after.attempts >= operation.attempts - taken_back
        operation = after


def test_an_attempt_begins_anew() -> None:
    first = transitions.advance(_running(), Phase.INJECTING, progress=70, records_processed=9)
    again = transitions.start(transitions.requeue(first, 2_000.0), 2_000.0)
    assert (again.attempts, again.phase, again.progress) == (2, Phase.RESOLVING, 0)
    assert (again.records_processed, again.started_at) == (0, 1_000.0)


@given(any_operation())
def test_what_is_applied_counts_from_the_first_start_to_after_the_end(o: Operation) -> None:
    if o.attempts:
        after = transitions.count(o, created=3, deleted=1)
        assert after == replace(
            o, created=o.created + 3, deleted=o.deleted + 1, version=o.version + 1
        )
    else:
        with pytest.raises(IllegalTransition):
            transitions.count(o, created=3)


def test_counts_survive_a_new_attempt() -> None:
    counted = transitions.count(_running(), created=3, updated=2, deleted=1)
    again = transitions.start(transitions.requeue(counted, 2_000.0), 2_000.0)
    assert (again.created, again.updated, again.deleted) == (3, 2, 1)


def test_discovery_begins_by_listing() -> None:
    assert transitions.start(queued("d", Type.DISCOVERY, None, 0), 1).phase == Phase.LISTING


def _parent() -> Operation:
    return transitions.start(queued("many", Type.BULK_SYNC, None, 0), 1)


def test_a_parent_has_the_counts_of_its_children() -> None:
    parent = _parent()
    assert (parent.phase, parent.children) == (Phase.LISTING, Children())
    done = replace(transitions.complete(_running(), NOW), records_processed=7, created=2, deleted=1)
    slow = transitions.fail(_running(), NOW, Failure.HOST_TIMEOUT, "slow")
    parent = transitions.note_children(
        parent, selected=False, expected=8, chosen=5, skipped=2, ended=[done, slow]
    )
    assert parent.children == Children(
        expected=8, chosen=5, completed=1, failed={"HostTimeout": 1}, skipped=2
    )
    assert (parent.records_processed, parent.created, parent.deleted) == (7, 2, 1)
    assert (parent.phase, parent.progress, parent.version) == (Phase.LISTING, 25, 3)
    away = transitions.cancel(_running(), NOW)
    parent = transitions.note_children(
        parent, selected=True, expected=8, chosen=1, ended=[done, slow, away, slow]
    )
    assert parent.children == Children(
        expected=6, chosen=6, completed=2, failed={"HostTimeout": 3}, cancelled=1, skipped=2
    )
    assert (parent.phase, parent.progress, parent.records_processed) == (Phase.CHILDREN, 99, 14)
    end = transitions.complete(parent, NOW)
    assert (end.status, end.progress, end.total_records) == (Status.COMPLETED, 100, 14)
    assert end.children == parent.children


def test_a_reconcile_tells_what_was_in_step_from_what_was_repaired() -> None:
    parent = transitions.start(queued("all", Type.RECONCILE, None, 0), 1)
    assert parent.children == Children(in_step=0)
    in_step = transitions.complete(_running(), NOW, via=IN_STEP)
    repaired = transitions.complete(_running(), NOW)
    parent = transitions.note_children(
        parent, selected=True, expected=3, chosen=3, ended=[in_step, repaired, in_step]
    )
    assert parent.children == Children(expected=3, chosen=3, completed=3, in_step=2)


def test_how_far_a_parent_is_stays_open_while_it_is_not_known_how_many_there_are() -> None:
    ended = [transitions.complete(_running(), NOW)] * 3
    parent = transitions.note_children(
        _parent(), selected=False, expected=None, chosen=4, ended=ended
    )
    assert (parent.progress, parent.children) == (0, Children(chosen=4, completed=3))
    with pytest.raises(IllegalTransition):
        transitions.note_children(transitions.cancel(parent, NOW), selected=True, expected=4)


def test_not_before_it_is_due_and_not_when_coalesced() -> None:
    operation = queued("op", Type.DID_SYNC, DID, 1_000.0)
    with pytest.raises(IllegalTransition, match="not due"):
        transitions.start(replace(operation, run_after=1_000.5), 1_000.0)
    with pytest.raises(IllegalTransition, match="other does its work"):
        transitions.start(replace(operation, same_as="other"), 1_000.0)


def test_the_phase_never_goes_back() -> None:
    injected = transitions.advance(_running(), Phase.INJECTED)
    with pytest.raises(IllegalTransition, match="op is running/injected"):
        transitions.advance(injected, Phase.DOWNLOADING)


@given(st.lists(st.integers(min_value=-5, max_value=200), max_size=8))
def test_progress_never_falls_and_ends_at_a_hundred(values: list[int]) -> None:
    operation = _running()
    for value in values:
        after = transitions.advance(operation, Phase.DOWNLOADING, progress=value)
        assert operation.progress <= after.progress < 100
        operation = after
    assert transitions.complete(operation, NOW).progress == 100


@given(_FAILURES, st.floats(min_value=0, max_value=0.99), st.booleans())
def test_permanent_failures_fail_at_once_and_others_wait(
    failure: Failure, jitter: float, automatic: bool
) -> None:
    running = replace(_running(), automatic=automatic)
    after = transitions.try_again(running, 1_001.0, failure, "why", policy=POLICY, chance=jitter)
    assert (after.error, after.failure) == ("why", failure)
    if failure in PERMANENT:
        assert after.status == Status.FAILED
    else:
        assert after.status == Status.QUEUED
        first = 60 if automatic else 1
        assert 1_001 + first / 2 <= after.run_after <= 1_001 + first


def test_the_host_is_not_asked_before_it_said() -> None:
    after = transitions.try_again(
        _running(), 1_001.0, Failure.RATE_LIMITED, "429", policy=POLICY, chance=0, retry_after=900
    )
    assert after.run_after == 1_901.0


@pytest.mark.parametrize("behind", [False, True])
def test_one_of_many_does_not_wait_for_long(behind: bool) -> None:
    running = replace(_running(), behind=behind)
    longest = POLICY.behind_give_up_after
    for seconds, fails in ((longest - 1, False), (longest + 1, behind)):
        again = transitions.try_again(
            running,
            1_000.0,
            Failure.HOST_ERROR,
            "500",
            policy=POLICY,
            chance=0,
            retry_after=seconds,
        )
        waits = transitions.wait_for_host(
            running, 1_000.0, seconds, Failure.HOST_ERROR, "away", policy=POLICY
        )
        for after in (again, waits):
            assert (after.status is Status.FAILED) == fails
            assert (after.failure, after.ended) == (Failure.HOST_ERROR, fails)
        assert fails or (waits.attempts, waits.run_after) == (0, 1_000.0 + seconds)


@pytest.mark.parametrize(("wait", "fails"), [(-1.0, False), (1.0, True)])
def test_a_check_does_not_wait_for_its_host_for_long(wait: float, fails: bool) -> None:
    """It counts from the first attempt: a check may be queued for long behind others."""
    running = replace(_running(), behind=True, check_first=True, requested_at=0.0)
    assert running.started_at is not None
    seconds = running.started_at + POLICY.check_give_up_after - NOW + wait
    after = transitions.wait_for_host(
        running, NOW, seconds, Failure.HOST_ERROR, "away", policy=POLICY
    )
    assert (after.status is Status.FAILED) == fails


@given(MOMENTS)
def test_it_is_given_up_after_a_day(later: float) -> None:
    after = transitions.try_again(
        _running(),
        1_000.0 + 24 * 3600 + later,
        Failure.HOST_TIMEOUT,
        "slow",
        policy=POLICY,
        chance=0,
    )
    assert after.status == Status.FAILED
    assert after.error == "given up after 1 attempts: slow"
