"""The operation object and its JSON form."""

from __future__ import annotations

import json
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from consumer.kafka.topics import Topic
from procedures import operations, transitions
from procedures.failures import Failure
from procedures.messages import Emit
from procedures.operations import Operation, Phase, Status, Type, from_json
from tests.support.schemas import load, written
from tests.unit.procedures.strategies import DID
from tests.unit.procedures.strategies import operations as any_operation


def _sync(identifier: str = "op", now: float = 1_000.0) -> Operation:
    return operations.queued(identifier, Type.DID_SYNC, DID, now)


@given(any_operation())
def test_json_survives_the_round_trip(operation: Operation) -> None:
    encoded = json.loads(operations.encode(operation))
    assert from_json(encoded) == operation
    written(Topic.OPERATIONS).validate(encoded)


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


def test_the_schema_names_every_value() -> None:
    members = load(Topic.OPERATIONS)["properties"]
    assert members["type"]["examples"] == list(Type)
    assert members["status"]["enum"] == list(Status)
    assert members["phase"]["examples"] == [*Phase, None]
    assert members["emit"]["enum"] == list(Emit)
    assert members["errorName"]["examples"] == list(Failure)


def test_rows_of_the_store_may_hold_plain_text() -> None:
    row = replace(_sync(), type="didSync", status="completed", phase="applied", completed_at=5.0)  # type: ignore[arg-type]
    assert row.ended
    assert from_json(operations.to_json(row)).status is Status.COMPLETED


@given(any_operation("primary"), st.sampled_from(Emit))
def test_a_coalesced_operation_is_shown_as_its_primary(primary: Operation, emit: Emit) -> None:
    coalesced = replace(_sync("coalesced"), same_as="primary", requested_by="did:web:me", emit=emit)
    seen = operations.answered_through(coalesced, primary)
    assert (seen.id, seen.same_as, seen.requested_by) == ("coalesced", "primary", "did:web:me")
    assert (seen.requested_at, seen.version, seen.emit) == (1_000.0, 1, emit)
    assert (seen.status, seen.phase, seen.progress) == (
        primary.status,
        primary.phase,
        primary.progress,
    )
    assert seen.error == primary.error


def test_a_cancelled_coalesced_operation_stays_cancelled() -> None:
    coalesced = transitions.cancel(replace(_sync("coalesced"), same_as="op"), 5.0)
    assert operations.answered_through(coalesced, transitions.start(_sync(), 2_000.0)) == coalesced
