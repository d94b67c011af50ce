"""The operation object and its JSON form."""

from __future__ import annotations

import json
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from procedures import operations, transitions
from procedures.messages import Emit
from procedures.operations import Operation, Status, Type
from tests.unit.procedures.strategies import DID
from tests.unit.procedures.strategies import operations as any_operation


def _sync(identifier: str = "op", now: float = 1_000.0) -> Operation:
    return operations.queued(identifier, Type.DID_SYNC, DID, now)


@given(any_operation())
def test_json_survives_the_round_trip(operation: Operation) -> None:
    assert operations.from_json(json.loads(operations.encode(operation))) == operation


def test_json_of_a_new_operation() -> None:
    assert operations.to_json(_sync(now=1783175954.123)) == {
        "v": 1,
        "id": "op",
        "version": 1,
        "type": "didSync",
        "status": "queued",
        "phase": None,
        "automatic": False,
        "emit": "changes",
        "did": DID,
        "progress": 0,
        "recordsProcessed": 0,
        "created": 0,
        "updated": 0,
        "deleted": 0,
        "attempts": 0,
        "requestedBy": None,
        "requestedAt": "2026-07-04T14:39:14.123Z",
        "startedAt": "2026-07-04T14:39:14.123Z",
    }


def test_rows_of_the_store_may_hold_plain_text() -> None:
    row = replace(_sync(), type="didSync", status="completed", phase="applied", completed_at=5.0)  # type: ignore[arg-type]
    assert row.ended
    assert operations.from_json(operations.to_json(row)).status is Status.COMPLETED


@given(any_operation("leader"), st.sampled_from(Emit))
def test_a_follower_is_seen_at_its_leaders_stage(leader: Operation, emit: Emit) -> None:
    follower = replace(_sync("follower"), same_as="leader", requested_by="did:web:me", emit=emit)
    seen = operations.answered_through(follower, leader)
    assert (seen.id, seen.same_as, seen.requested_by) == ("follower", "leader", "did:web:me")
    assert (seen.requested_at, seen.version, seen.emit) == (1_000.0, 1, emit)
    assert (seen.status, seen.phase, seen.progress) == (
        leader.status,
        leader.phase,
        leader.progress,
    )
    assert seen.error == leader.error


def test_a_cancelled_follower_stays_cancelled() -> None:
    follower = transitions.cancel(replace(_sync("follower"), same_as="op"), 5.0)
    assert operations.answered_through(follower, transitions.start(_sync(), 2_000.0)) == follower
