"""Accounts and identities in a batch."""

from dataclasses import replace

from consumer.backfill import IdentityAnswer, LookupKind
from consumer.errors import Reason
from consumer.events.envelope import AccountEvent, IdentityEvent, RecordEvent
from consumer.state.effects import Lookup, SyncReason, SyncRequest
from consumer.state.facts import Row
from consumer.state.inputs import IdentityLearnt, IdentitySeen, Lost
from tests.unit.state.batches import account, learnt, reason
from tests.unit.worker.values import (
    BACKFILL,
    DID,
    LIVE,
    OTHER,
    UNWANTED,
    WANTED,
    batch_state,
    cid,
    kinds,
    known,
)


def test_a_status_is_announced_once_and_ordered() -> None:
    batch = batch_state(known("5"))
    assert batch.apply(account("suspended", seq=8)) is None
    assert batch.apply(account("suspended", seq=9)) is None
    assert reason(batch, account(None, seq=7)) is Reason.REPLAY
    expected = AccountEvent(replace(LIVE, seq=8), DID, 0, None, "5", False, "suspended", 1)
    assert batch.events == [expected]
    assert batch.repos[DID].status_seq == 9


def test_an_account_that_returns_is_synced() -> None:
    batch = batch_state(known("5", status="suspended"))
    batch.apply(account(None))
    assert kinds(batch.events) == ["AccountEvent", "SyncEvent"]
    assert batch.syncs == [SyncRequest(DID, SyncReason.REACTIVATED, 1)]


def test_an_account_that_leaves_queues_nothing() -> None:
    batch = batch_state(known("5"))
    batch.apply(account("deactivated"))
    batch.apply(Lost(DID, LIVE))
    assert batch.syncs == []


def test_a_deletion_is_asked_about_before_anything_happens() -> None:
    batch = batch_state(known("5"), {WANTED: Row(cid("x"), "3")})
    batch.apply(account("deleted"))
    assert batch.lookups == [Lookup(DID, LookupKind.ACCOUNT, 1, 7)]
    assert (batch.events, batch.dirty_rows()) == ([], [])
    assert batch.repos[DID].status == "active"


def test_a_confirmed_deletion_deletes_every_record() -> None:
    rows = {OTHER: Row(cid("y"), "4"), WANTED: Row(cid("x"), "3"), UNWANTED: Row(None, "2")}
    paths = sorted(rows)
    batch = batch_state(known("5", gap_rev="6"), rows)
    batch.apply(account("deleted"))
    batch.apply(learnt("deleted"))
    assert kinds(batch.events) == ["AccountEvent", "RecordEvent", "RecordEvent", "SyncEvent"]
    told, first, second, _ = batch.events
    assert isinstance(told, AccountEvent)
    assert isinstance(first, RecordEvent)
    assert isinstance(second, RecordEvent)
    assert (told.status, told.active, told.rev, told.incarnation) == ("deleted", False, "6", 0)
    assert (first.path, first.rev, first.prev, first.incarnation) == (WANTED, "6", cid("x"), 0)
    assert (second.path, second.action, second.origin.source) == (OTHER, "delete", "account")
    assert sorted(batch.dirty_rows()) == [(DID, p, None) for p in paths]
    assert batch.repos[DID].incarnation == 1
    assert batch.syncs == []


def test_a_deletion_is_told_once() -> None:
    batch = batch_state(known("5", status_epoch=1, status_seq=7))
    batch.apply(learnt("deleted"))
    assert batch.apply(learnt("deleted")) is None
    assert kinds(batch.events) == ["AccountEvent", "SyncEvent"]
    batch.apply(account("deleted", seq=8))
    assert batch.lookups == []


def test_an_old_host_that_says_deleted_is_not_believed() -> None:
    batch = batch_state(known("5"), {WANTED: Row(cid("x"), "3")})
    batch.apply(account("deleted"))
    assert batch.apply(learnt("active")) is None
    assert batch.events == []
    assert batch.repos[DID].active


def test_an_answer_that_newer_frames_overtook_does_not_count() -> None:
    batch = batch_state(known("5"), {WANTED: Row(cid("x"), "3")})
    batch.apply(account("deleted", seq=7))
    batch.apply(account(None, seq=8))
    assert reason(batch, learnt("deleted", seq=7)) is Reason.REPLAY
    assert kinds(batch.events) == ["SyncEvent"]


def test_an_account_that_is_active_again_is_synced_even_if_it_was_never_deleted_here() -> None:
    batch = batch_state(known("5"), {WANTED: Row(cid("x"), "3")})
    batch.apply(account("deleted", seq=7))
    batch.apply(account(None, seq=8))
    assert batch.syncs == [SyncRequest(DID, SyncReason.REACTIVATED, 1)]
    assert batch.repos[DID].account_active


def test_an_answer_may_state_another_status() -> None:
    batch = batch_state(known("5"))
    batch.apply(account("deleted"))
    batch.apply(learnt("takendown"))
    assert kinds(batch.events) == ["AccountEvent"]
    assert batch.repos[DID].status == "takendown"


def test_an_identity_frame_is_told_and_looked_up() -> None:
    batch = batch_state(known("5"))
    batch.apply(IdentitySeen(DID, "a.test", 1, LIVE))
    assert batch.events == [IdentityEvent(LIVE, DID, 0, None, "5", "a.test", 1)]
    assert batch.lookups == [Lookup(DID, LookupKind.IDENTITY, 1, 7)]
    assert batch.dirty_repos() == []


def test_a_resolved_identity_moves_the_host() -> None:
    answer = IdentityAnswer(DID, 1.0, "did:key:z", "https://new.test", "a.test")
    batch = batch_state(known("5", pds="https://old.test"))
    batch.apply(IdentityLearnt(answer, BACKFILL))
    assert [r.pds for r in batch.dirty_repos()] == ["https://new.test"]
    again = batch_state(known("5", pds="https://new.test"))
    again.apply(IdentityLearnt(answer, BACKFILL))
    again.apply(IdentityLearnt(IdentityAnswer(DID, 2.0, error="gone"), BACKFILL))
    assert again.dirty_repos() == []
