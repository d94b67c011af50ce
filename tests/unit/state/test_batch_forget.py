"""Accounts that an operator forgets."""

from __future__ import annotations

from dataclasses import replace

import pytest

from consumer.backfill import Forget
from consumer.errors import Reason
from consumer.events.envelope import AccountEvent, Origin, RecordEvent, Source
from consumer.state.batch_state import BatchState
from consumer.state.effects import OperationEffect, SyncReason
from consumer.state.facts import Row
from consumer.state.inputs import ChunkSeen, ForgetSeen, Input, ProofSeen
from consumer.state.repo_state import SyncState
from tests.unit.state.batches import learnt, reason
from tests.unit.worker.values import (
    BACKFILL,
    DID,
    OTHER,
    POLICY,
    REFRESH,
    UNWANTED,
    WANTED,
    batch_state,
    chunk,
    cid,
    committed,
    create,
    genesis,
    kinds,
    known,
    proof,
)

OPERATOR = Origin(Source.OPERATOR, 7, "2026-07-04T14:39:15.000Z", None, "forget")
FORGET = ForgetSeen(Forget(DID, "forget", 1), OPERATOR)
ROWS = {OTHER: Row(cid("y"), "4"), WANTED: Row(cid("x"), "3"), UNWANTED: Row(None, "2")}


def test_every_record_is_deleted_and_nothing_is_known_then() -> None:
    batch = batch_state(known("5", incarnation=2), dict(ROWS))
    assert batch.apply(FORGET) is None
    assert kinds(batch.events) == ["AccountEvent", "RecordEvent", "RecordEvent", "SyncEvent"]
    told, first, second, _ = batch.events
    assert isinstance(told, AccountEvent)
    assert (told.status, told.active, told.origin.source) == ("deleted", False, "operator")
    for event, path in ((first, WANTED), (second, OTHER)):
        assert isinstance(event, RecordEvent)
        assert (event.path, event.action, event.rev) == (path, "delete", "5")
        assert (event.incarnation, event.origin) == (2, OPERATOR)
    assert sorted(batch.dirty_rows()) == [(DID, path, None) for path in sorted(ROWS)]
    assert (batch.repos, batch.dirty_repos(), batch.syncs) == ({}, [], [])
    assert batch.forgotten == {DID: 3}
    (done,) = batch.applied
    assert (done.operation, done.effect, done.deleted, done.entries) == (
        "forget",
        OperationEffect.COMPLETED,
        2,
        2,
    )


def test_an_account_that_nothing_is_known_of_is_forgotten_without_an_event() -> None:
    batch = BatchState({}, {}, POLICY, incarnations={DID: 4})
    assert batch.apply(FORGET) is None
    assert (batch.events, batch.forgotten) == ([], {DID: 4})
    assert batch.applied[0].effect is OperationEffect.COMPLETED


def test_a_deleted_account_is_forgotten_too() -> None:
    batch = batch_state(known("5"), dict(ROWS))
    batch.apply(learnt("deleted", seq=0, epoch=0))
    told = len(batch.events)
    batch.apply(FORGET)
    assert kinds(batch.events[told:]) == ["AccountEvent"]
    assert batch.forgotten == {DID: 2}


def test_the_next_commit_brings_the_account_in_like_a_new_one() -> None:
    batch = batch_state(known("5"), {WANTED: Row(cid("x"), "3")})
    batch.apply(FORGET)
    batch.apply(committed(genesis("6", create(WANTED, "x"))))
    repo = batch.repos[DID]
    assert (repo.incarnation, repo.sync_state, repo.complete) == (1, SyncState.ACTIVE, True)
    ids = {event.incarnation for event in batch.events if isinstance(event, RecordEvent)}
    assert ids == {0, 1}


def test_an_account_that_returns_in_a_later_batch_has_its_own_incarnation() -> None:
    batch = BatchState({}, {}, POLICY, incarnations={DID: 3})
    batch.apply(committed(genesis("6", create(WANTED, "x"))))
    assert batch.repos[DID].incarnation == 3


@pytest.mark.parametrize(
    "late", [ChunkSeen(chunk("6", WANTED), BACKFILL), ProofSeen(proof("6", WANTED, "x"), REFRESH)]
)
def test_what_was_on_its_way_does_not_bring_the_account_back(late: Input) -> None:
    same_batch = batch_state(known("5"), dict(ROWS))
    same_batch.apply(FORGET)
    later = BatchState({}, {}, POLICY, void={"op"})
    for batch in (same_batch, later):
        told = len(batch.events)
        assert reason(batch, late) is Reason.UNTRACKED
        assert (batch.repos, batch.events[told:]) == ({}, [])


def test_a_cancelled_sync_still_applies_to_a_repo_that_is_known() -> None:
    repo = known("5", sync_state=SyncState.DESYNCHRONIZED, reason=SyncReason.BROKEN_CHAIN)
    batch = BatchState({DID: repo}, {}, POLICY, void={"op"})
    assert batch.apply(ChunkSeen(chunk("6", WANTED), BACKFILL)) is None
    assert batch.repos[DID].active


def test_a_command_that_is_over_forgets_nothing() -> None:
    batch = BatchState({DID: known("5")}, {DID: dict(ROWS)}, POLICY, void={"forget"})
    assert reason(batch, FORGET) is Reason.REPLAY
    assert (batch.events, batch.applied, batch.forgotten) == ([], [], {})
    assert batch.repos[DID] == known("5")


def test_many_records_go_in_batches_that_the_operation_counts() -> None:
    batch = batch_state(known("5"), dict(ROWS))
    assert batch.delete_batch(FORGET)
    repo = batch.repos[DID]
    assert (repo.sync_state, repo.reason) == ("desynchronized", SyncReason.FORGOTTEN)
    assert (repo.resync_generation, repo.incarnation) == (1, 1)
    (done,) = batch.applied
    assert (done.effect, done.deleted, done.entries) == (OperationEffect.ADVANCED, 2, 2)
    last = batch_state(replace(repo), {})
    last.apply(FORGET)
    assert kinds(last.events) == ["AccountEvent"]
    assert last.forgotten == {DID: 2}
