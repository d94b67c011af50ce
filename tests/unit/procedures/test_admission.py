"""What commands do to operations."""

from __future__ import annotations

from dataclasses import replace

from procedures import transitions
from procedures.admission import Accepted, Cancelled, Repeated, accept, bulk, cancel, child
from procedures.failures import Failure
from procedures.messages import (
    BulkSync,
    Cancel,
    DidSync,
    Emit,
    RecordRefresh,
    Refusal,
    RefusalReason,
)
from procedures.operations import Operation, Status, Type, queued
from procedures.selections import By, Selection
from tests.unit.procedures.strategies import DID, URI

NOW = 2_000.0
SYNC = DidSync(id="new", did=DID, requested_by="did:web:me", requested_at=1_999.0)
REFRESH = RecordRefresh(id="new", uri=URI, requested_at=1_999.0)


def _queued(identifier: str = "old", **changes: object) -> Operation:
    operation = queued(identifier, Type.DID_SYNC, DID, 1_000.0)
    return replace(operation, **changes)  # type: ignore[arg-type]


def test_a_sync_becomes_an_operation_that_is_due() -> None:
    accepted = accept(SYNC, None, [], NOW)
    assert isinstance(accepted, Accepted)
    operation = accepted.operation
    assert (operation.id, operation.type, operation.did) == ("new", Type.DID_SYNC, DID)
    assert (operation.status, operation.run_after, operation.same_as) == (Status.QUEUED, NOW, None)
    assert (operation.requested_by, operation.requested_at) == ("did:web:me", 1_999.0)
    assert not operation.automatic


def test_a_refresh_knows_its_record() -> None:
    accepted = accept(REFRESH, None, [_queued()], NOW)
    assert isinstance(accepted, Accepted)
    assert accepted.operation.same_as is None
    assert (accepted.operation.type, accepted.operation.did) == (Type.RECORD_REFRESH, DID)
    assert accepted.operation.uri == URI


def test_the_same_command_again_changes_nothing() -> None:
    known = transitions.start(_queued("new"), NOW)
    assert accept(SYNC, known, [known], NOW) == Repeated(known)


def test_a_used_id_with_another_subject_is_refused() -> None:
    other = "did:plc:other"
    for command in (
        replace(SYNC, did=other),
        replace(SYNC, emit=Emit.ALL),
        REFRESH,
    ):
        refusal = accept(command, _queued("new"), [], NOW)
        assert isinstance(refusal, Refusal)
        assert refusal.reason == RefusalReason.ID_TAKEN


def test_simultaneous_syncs_are_one_work() -> None:
    assert accept(SYNC, None, [_queued()], NOW) == Accepted(
        replace(
            queued("new", Type.DID_SYNC, DID, NOW, requested_by="did:web:me"),
            same_as="old",
            requested_at=1_999.0,
        )
    )


def test_what_runs_already_or_is_coalesced_is_not_the_same_work() -> None:
    running = transitions.start(_queued(), NOW)
    coalesced = _queued("coalesced", same_as="old")
    accepted = accept(SYNC, None, [running, coalesced], NOW)
    assert isinstance(accepted, Accepted)
    assert accepted.operation.same_as is None


def test_publishing_everything_is_coalesced_only_with_its_like() -> None:
    everything = replace(SYNC, emit=Emit.ALL)
    for emit, same_as in ((Emit.CHANGES, None), (Emit.ALL, "old")):
        accepted = accept(everything, None, [_queued(emit=emit)], NOW)
        assert isinstance(accepted, Accepted)
        assert accepted.operation.same_as == same_as


def test_an_automatic_sync_that_is_asked_for_goes_first() -> None:
    primary = _queued(automatic=True, run_after=9_000.0)
    accepted = accept(SYNC, None, [primary], NOW)
    assert isinstance(accepted, Accepted)
    assert accepted.primary == replace(primary, automatic=False, run_after=NOW, version=2)


def test_a_host_that_asked_for_patience_gets_it() -> None:
    primary = _queued(attempts=1, failure=Failure.RATE_LIMITED, run_after=9_000.0)
    accepted = accept(SYNC, None, [primary], NOW)
    assert isinstance(accepted, Accepted)
    assert accepted.operation.same_as == "old"
    assert accepted.primary is None


def test_a_command_for_many_becomes_one_operation() -> None:
    command = BulkSync(
        id="new", selection=Selection(By.HOST, "a.example"), emit=Emit.ALL, requested_at=1_999.0
    )
    accepted = bulk(command, None, NOW)
    assert isinstance(accepted, Accepted)
    parent = accepted.operation
    assert (parent.type, parent.did, parent.emit) == (Type.BULK_SYNC, None, Emit.ALL)
    assert (parent.reason, parent.requested_at) == ("host=a.example", 1_999.0)
    assert bulk(command, parent, NOW) is None
    for other in (
        replace(command, emit=Emit.CHANGES),
        replace(command, selection=Selection(By.ALL)),
        replace(command, selection=Selection(By.DIDS, dids=(DID,))),
    ):
        refusal = bulk(other, parent, NOW)
        assert isinstance(refusal, Refusal)
        assert refusal.reason == RefusalReason.ID_TAKEN


def test_two_lists_of_one_length_are_two_selections() -> None:
    assert len({Selection(By.DIDS, dids=(f"did:web:{n}",)).text for n in "ab"}) == 2


PARENT = queued("many", Type.BULK_SYNC, None, NOW, emit=Emit.ALL, requested_by="me")


def test_a_child_is_asked_for_by_who_asked_for_all_and_stays_behind() -> None:
    accepted = child(PARENT, "one", DID, [], NOW)
    assert accepted == Accepted(
        queued("one", Type.DID_SYNC, DID, NOW, emit=Emit.ALL, requested_by="me", parent="many")
    )
    assert accepted.operation.behind


def test_a_child_is_coalesced_and_leaves_what_goes_before_it_there() -> None:
    alone = _queued(emit=Emit.ALL)
    assert child(PARENT, "one", DID, [alone], NOW).primary is None
    automatic = _queued(emit=Emit.ALL, automatic=True, run_after=9_000.0)
    accepted = child(PARENT, "one", DID, [automatic], NOW)
    assert accepted.operation.same_as == "old"
    assert accepted.primary == replace(
        automatic, automatic=False, behind=True, run_after=NOW, version=2
    )
    assert child(PARENT, "one", DID, [_queued()], NOW).operation.same_as is None, "it emits less"


def test_a_child_that_is_asked_for_by_itself_too_goes_first() -> None:
    waiting = child(PARENT, "one", DID, [], NOW).operation
    accepted = accept(SYNC, None, [waiting], NOW)
    assert isinstance(accepted, Accepted)
    assert accepted.operation.same_as == "one"
    assert accepted.primary == replace(waiting, behind=False, version=2)


RECONCILE = queued("many", Type.RECONCILE, None, NOW, requested_by="me")


def test_a_check_is_done_by_any_sync_and_stands_in_for_none() -> None:
    check = child(RECONCILE, "one", DID, [], NOW).operation
    assert check.check_first
    assert child(RECONCILE, "one", DID, [_queued()], NOW).operation.same_as == "old"
    assert child(RECONCILE, "two", DID, [check], NOW).operation.same_as == "one"
    asked = accept(SYNC, None, [check], NOW)
    assert isinstance(asked, Accepted)
    assert asked.operation.same_as is None
    assert not asked.operation.check_first


def test_a_cancelled_sync_is_not_handed_to_a_check() -> None:
    check = replace(child(RECONCILE, "check", DID, [], NOW).operation, same_as="old")
    sync = replace(_queued(), id="sync", same_as="old")
    cancelled = cancel(CANCEL, _queued(), [check, sync], NOW)
    assert isinstance(cancelled, Cancelled)
    after = {one.id: one.same_as for one in cancelled.changed}
    assert after == {"old": None, "sync": None, "check": "sync"}


CANCEL = Cancel(id="c", operation_id="old", requested_by="did:web:me", requested_at=NOW)


def test_cancel() -> None:
    cancelled = cancel(CANCEL, _queued(), [], NOW)
    assert isinstance(cancelled, Cancelled)
    (operation,) = cancelled.changed
    assert (operation.status, operation.completed_at) == (Status.CANCELLED, NOW)
    assert operation.error == "cancelled by did:web:me"


def test_cancel_of_what_ended_or_never_was() -> None:
    assert cancel(CANCEL, transitions.cancel(_queued(), 1.0), [], NOW) == Cancelled(())
    refusal = cancel(CANCEL, None, [], NOW)
    assert isinstance(refusal, Refusal)
    assert refusal.reason == RefusalReason.UNKNOWN_OPERATION


def test_the_work_of_a_cancelled_primary_goes_to_a_coalesced_one_that_answers_for_all() -> None:
    gone = transitions.cancel(_queued("gone", same_as="old"), 1.0)
    first, all_, last = (
        _queued("first", same_as="old"),
        _queued("all", same_as="old", emit=Emit.ALL),
        _queued("last", same_as="old"),
    )
    cancelled = cancel(CANCEL, _queued(emit=Emit.ALL), [gone, first, all_, last], NOW)
    assert isinstance(cancelled, Cancelled)
    assert [(o.id, o.status, o.same_as) for o in cancelled.changed] == [
        ("old", Status.CANCELLED, None),
        ("all", Status.QUEUED, None),
        ("first", Status.QUEUED, "all"),
        ("last", Status.QUEUED, "all"),
    ]
