"""Inputs go in; rows, events and requests come out."""

from dataclasses import replace

import pytest

from consumer.backfill import AccountAnswer, IdentityAnswer, LookupKind
from consumer.errors import Reason
from consumer.events.envelope import AccountEvent, IdentityEvent, RecordEvent, Source, SyncEvent
from consumer.scope import History, Interval, Repos, Scope
from consumer.state.batch_state import BatchState
from consumer.state.effects import (
    AppliedOperation,
    Cleared,
    Lookup,
    OperationEffect,
    SyncReason,
    SyncRequest,
)
from consumer.state.facts import Row
from consumer.state.inputs import (
    AccountLearnt,
    AccountSeen,
    CommitUnverifiable,
    IdentityLearnt,
    IdentitySeen,
    Input,
    Lost,
    ScopeChanged,
    SyncUnverifiable,
    needs,
)
from consumer.state.policy import Policy
from consumer.verify.verified import Action
from tests.unit.worker.values import (
    BACKFILL,
    DID,
    LIVE,
    OTHER,
    POLICY,
    SCOPE,
    UNWANTED,
    WANTED,
    batch_state,
    chunk,
    chunked,
    cid,
    commit,
    committed,
    create,
    delete,
    following,
    genesis,
    kinds,
    known,
    proof,
    proven,
    root,
    sync,
    synced,
    update,
)


def reason(batch: BatchState, one: Input) -> Reason | None:
    rejection = batch.apply(one)
    return None if rejection is None else rejection.reason


def account(status: str | None, seq: int = 7, epoch: int = 1) -> AccountSeen:
    return AccountSeen(DID, status is None, status, epoch, replace(LIVE, seq=seq))


def learnt(status: str, seq: int = 7, epoch: int = 1) -> AccountLearnt:
    origin = replace(LIVE, source=Source.ACCOUNT)
    return AccountLearnt(AccountAnswer(DID, epoch, seq, status), origin)


def unverifiable(*paths: str, signed: bool = True) -> CommitUnverifiable:
    return CommitUnverifiable(DID, "6", signed, paths, Reason.INVERSION_FAILED, "why", LIVE)


# -- what must be loaded -----------------------------------------------------------------


def test_needs_name_repos_wanted_paths_intervals_and_whole_repos() -> None:
    inputs: list[Input] = [
        committed(genesis("1", create(WANTED, "x"), create(UNWANTED, "y"))),
        proven(proof("1", OTHER, None)),
        chunked(chunk("1")),
        learnt("deleted"),
        Lost("did:plc:b", LIVE),
    ]
    found = needs(inputs, SCOPE)
    assert found.dids == {DID, "did:plc:b"}
    assert found.paths == {(DID, WANTED), (DID, OTHER)}
    assert found.intervals == [(DID, Interval("app.alpha.", "app.alpha/"))]
    assert found.whole_repos == {DID}
    assert not needs([learnt("active")], SCOPE).whole_repos


# -- live commits ------------------------------------------------------------------------


def test_a_live_commit_becomes_rows_and_events() -> None:
    repo = known("5", pds="https://pds.test", incarnation=2)
    batch = batch_state(repo, {WANTED: Row(cid("x"), "3"), OTHER: Row(cid("y"), "4")})
    ops = (update(WANTED, "z", "x"), delete(OTHER, "y"), create(UNWANTED, "u"))
    assert batch.apply(committed(following(repo, "6", *ops))) is None
    common = (LIVE, DID, 2, "https://pds.test", "6")
    assert batch.events == [
        RecordEvent(*common, WANTED, Action.UPDATE, cid("z"), cid("x"), b"z"),
        RecordEvent(*common, OTHER, Action.DELETE, None, cid("y"), None),
    ]
    assert sorted(batch.dirty_rows()) == [
        (DID, WANTED, Row(cid("z"), "6")),
        (DID, OTHER, Row(None, "6")),
    ]
    assert batch.dirty_repos() == [replace(repo, rev="6", data=root("6"))]
    assert (batch.syncs, batch.settled) == ([], set())


def test_a_commit_without_wanted_ops_only_moves_the_chain() -> None:
    repo = known("5")
    batch = batch_state(repo)
    batch.apply(committed(following(repo, "6", create(UNWANTED, "u"))))
    assert (batch.events, batch.dirty_rows()) == ([], [])
    assert [r.rev for r in batch.dirty_repos()] == ["6"]


def test_an_op_that_states_what_the_row_holds_moves_its_rev_only() -> None:
    repo = known("5")
    batch = batch_state(repo, {WANTED: Row(cid("x"), "3")})
    batch.apply(committed(following(repo, "6", create(WANTED, "x"))))
    assert batch.events == []
    assert batch.dirty_rows() == [(DID, WANTED, Row(cid("x"), "6"))]


def test_inputs_of_one_batch_build_on_one_another() -> None:
    batch = batch_state()
    batch.apply(committed(genesis("1", create(WANTED, "x"))))
    batch.apply(committed(commit("2", delete(WANTED, "x"), since="1", was=root("1"))))
    assert [e.action for e in batch.events if isinstance(e, RecordEvent)] == ["create", "delete"]
    assert batch.dirty_rows() == [(DID, WANTED, Row(None, "2"))]


def test_a_genesis_commit_is_active_without_a_sync() -> None:
    batch = batch_state()
    batch.apply(committed(genesis("1", create(WANTED, "x"))))
    assert kinds(batch.events) == ["RecordEvent", "SyncEvent"]
    assert batch.events[1] == SyncEvent(LIVE, DID, 0, None, "1", "active", None)
    assert batch.syncs == []


def test_a_first_sighting_queues_a_sync_and_takes_the_ops_at_their_word() -> None:
    batch = BatchState({}, {}, POLICY, {DID: "https://pds.test"}.get)
    batch.apply(committed(commit("5", delete(WANTED, "x"), since="4", was=root("4"))))
    event = batch.events[0]
    assert isinstance(event, RecordEvent)
    assert (event.action, event.prev, event.pds) == ("delete", cid("x"), "https://pds.test")
    assert batch.syncs == [SyncRequest(DID, SyncReason.FIRST_SIGHTING, 0)]
    assert batch.dirty_repos()[0].lane == POLICY.lane


def test_triggers_of_one_batch_make_one_sync_with_the_last_want() -> None:
    batch = batch_state(known("5"))
    batch.apply(Lost(DID, LIVE))
    batch.apply(Lost(DID, LIVE))
    assert batch.syncs == [SyncRequest(DID, SyncReason.LOSS_WINDOW, 2)]
    assert batch.triggers == {SyncReason.LOSS_WINDOW: 2}
    assert kinds(batch.events) == ["SyncEvent"]


def test_with_history_live_nothing_is_queued() -> None:
    policy = Policy(0, replace(SCOPE, history=History.LIVE))
    batch = BatchState({DID: known("5")}, {}, policy)
    batch.apply(Lost(DID, LIVE))
    assert batch.syncs == []
    assert batch.triggers == {SyncReason.LOSS_WINDOW: 1}
    assert not batch.dirty_repos()[0].active


# -- which repos are tracked -------------------------------------------------------------


@pytest.mark.parametrize(
    ("scope", "path", "tracked"),
    [
        (SCOPE, WANTED, True),
        (SCOPE, UNWANTED, False),
        (replace(SCOPE, repos=Repos.ALL), UNWANTED, True),
        (replace(SCOPE, repos=Repos.LISTED), WANTED, False),
        (replace(SCOPE, repos=Repos.LISTED, dids=frozenset({DID})), UNWANTED, True),
    ],
)
def test_a_repo_is_born_with_its_first_relevant_commit(
    scope: Scope, path: str, tracked: bool
) -> None:
    for one in (committed(genesis("1", create(path, "x"))), unverifiable(path)):
        batch = BatchState({}, {}, Policy(0, scope))
        refused = reason(batch, one)
        assert (DID in batch.repos) is tracked
        assert (refused is Reason.UNTRACKED) is not tracked


def test_other_frames_make_a_repo_known_only_when_all_are_wanted() -> None:
    identity = IdentitySeen(DID, "a.test", 1, LIVE)
    unsigned = SyncUnverifiable(DID, None, False, Reason.SIGNATURE_INVALID, "", LIVE)
    frames: list[Input] = [synced(sync("1", root("1"))), account(None), identity]
    for frame in [*frames, unsigned, Lost(DID, LIVE), ScopeChanged(DID, LIVE)]:
        batch = batch_state()
        assert reason(batch, frame) is Reason.UNTRACKED
        assert (batch.repos, batch.events, batch.lookups) == ({}, [], [])
    for frame in frames:
        batch = BatchState({}, {}, Policy(0, replace(SCOPE, repos=Repos.ALL)))
        assert batch.apply(frame) is None
        assert DID in batch.repos
        assert len(batch.syncs) == 1


# -- refusals ----------------------------------------------------------------------------


def test_an_unverifiable_commit_is_kept_and_queues_a_sync() -> None:
    batch = batch_state(known("5"))
    rejection = batch.apply(unverifiable())
    assert rejection is not None
    assert (rejection.reason, rejection.detail, rejection.kept) == (
        Reason.INVERSION_FAILED,
        "why",
        True,
    )
    assert batch.syncs == [SyncRequest(DID, SyncReason.UNVERIFIABLE, 0)]


def test_replays_are_counted_and_not_kept() -> None:
    batch = batch_state(known("5"))
    rejection = batch.apply(committed(commit("5", since="4", was=b"")))
    assert rejection is not None
    assert (rejection.reason, rejection.kept) == (Reason.REPLAY, False)
    assert batch.dirty_repos() == []


# -- accounts ----------------------------------------------------------------------------


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
    assert batch.events == []


def test_an_answer_may_state_another_status() -> None:
    batch = batch_state(known("5"))
    batch.apply(account("deleted"))
    batch.apply(learnt("takendown"))
    assert kinds(batch.events) == ["AccountEvent"]
    assert batch.repos[DID].status == "takendown"


# -- identities --------------------------------------------------------------------------


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


# -- snapshots and proofs ----------------------------------------------------------------


def desynchronized(**fields: object) -> BatchState:
    repo = known("5", sync_state="desynchronized", reason="broken_chain", gap_rev="5", **fields)
    return batch_state(repo, {WANTED: Row(cid("x"), "3"), UNWANTED: Row(cid("u"), "1")})


def test_a_snapshot_repairs_what_its_intervals_cover() -> None:
    batch = desynchronized()
    assert batch.apply(chunked(chunk("7", OTHER))) is None
    records = [e for e in batch.events if isinstance(e, RecordEvent)]
    assert [(e.path, e.action, e.rev) for e in records] == [
        (WANTED, "delete", "7"),
        (OTHER, "create", "7"),
    ]
    assert kinds(batch.events)[-1] == "SyncEvent"
    assert batch.settled == {DID}
    assert batch.applied == [
        AppliedOperation("op", DID, 1, OperationEffect.COMPLETED, created=1, deleted=1, entries=1)
    ]
    # The tombstone of WANTED guards nothing any more.
    assert batch.cleared == [Cleared(DID, "7")]
    assert sorted(batch.dirty_rows(), key=lambda row: row[1]) == [
        (DID, WANTED, None),
        (DID, OTHER, Row(cid(OTHER), "7")),
    ]


def test_a_snapshot_in_pieces_completes_with_the_last() -> None:
    batch = desynchronized()
    lower = (Interval("app.alpha.", WANTED + "\0"),)
    upper = (Interval(WANTED + "\0", "app.alpha/"),)
    batch.apply(chunked(chunk("7", through=WANTED, last=False, intervals=lower)))
    assert not batch.repos[DID].active
    batch.apply(chunked(chunk("7", OTHER, after=WANTED, intervals=upper)))
    assert batch.repos[DID].active
    assert [one.effect for one in batch.applied] == [
        OperationEffect.ADVANCED,
        OperationEffect.COMPLETED,
    ]


def test_a_trigger_of_the_batch_is_moot_once_the_repo_is_active() -> None:
    batch = batch_state(known("5"))
    batch.apply(committed(commit("6", since="?", was=b"")))
    assert len(batch.syncs) == 1
    batch.apply(chunked(chunk("6")))
    assert (batch.syncs, batch.settled) == ([], {DID})
    batch.apply(Lost(DID, LIVE))
    assert (len(batch.syncs), batch.settled) == (1, {DID})  # settled first, then queued


def test_a_snapshot_below_the_gap_is_fetched_again() -> None:
    batch = desynchronized()
    assert reason(batch, chunked(chunk("4", WANTED))) is Reason.SNAPSHOT_STALE
    assert batch.applied[0].effect is OperationEffect.AGAIN
    assert batch.applied[0].reason is Reason.SNAPSHOT_STALE
    assert batch.syncs == [], "its own operation is queued again"


def test_a_missed_hint_is_reported_by_the_third_attempt() -> None:
    batch = desynchronized(hint_rev="9")
    for attempt in (1, 2):
        assert reason(batch, chunked(chunk("7", attempt=attempt))) is Reason.SNAPSHOT_STALE
    assert not batch.repos[DID].active
    assert batch.apply(chunked(chunk("7", attempt=3))) is None
    assert [one.effect for one in batch.applied] == ["again", "again", "completed"]
    assert all(one.hint_missed for one in batch.applied)
    assert batch.repos[DID].hint_rev is None


def test_a_snapshot_of_an_inactive_account_fails() -> None:
    batch = desynchronized(status="suspended")
    assert reason(batch, chunked(chunk("7"))) is Reason.ACCOUNT_INACTIVE
    assert batch.applied[0].effect is OperationEffect.FAILED
    assert (batch.events, batch.syncs) == ([], [])


def test_a_snapshot_makes_an_unknown_repo_known() -> None:
    batch = batch_state()
    batch.apply(chunked(chunk("7", WANTED)))
    assert batch.repos[DID].active
    assert kinds(batch.events) == ["RecordEvent", "SyncEvent"]


def test_a_proof_of_absence_deletes_one_record() -> None:
    batch = batch_state(known("5"), {WANTED: Row(cid("x"), "3")})
    batch.apply(proven(proof("6", WANTED, None)))
    assert [e.action for e in batch.events if isinstance(e, RecordEvent)] == ["delete"]
    assert batch.dirty_rows() == [(DID, WANTED, Row(None, "6"))]
    assert batch.applied == [
        AppliedOperation("op", DID, 1, OperationEffect.COMPLETED, deleted=1, entries=1)
    ]


def test_a_proof_makes_an_unknown_repo_known_and_due() -> None:
    batch = batch_state()
    batch.apply(proven(proof("6", WANTED, "x")))
    assert kinds(batch.events) == ["RecordEvent", "SyncEvent"]
    assert batch.syncs == [SyncRequest(DID, SyncReason.FIRST_SIGHTING, 0)]


def test_a_proof_of_something_unwanted_fails() -> None:
    batch = batch_state(known("5"))
    assert reason(batch, proven(proof("6", UNWANTED, "x"))) is Reason.UNTRACKED
    assert batch.dirty_repos() == []
    assert [one.effect for one in batch.applied] == [OperationEffect.FAILED]


def test_a_proof_that_an_unknown_repo_lacks_a_record_leaves_it_unknown() -> None:
    batch = batch_state()
    assert batch.apply(proven(proof("6", WANTED, None))) is None
    assert (batch.dirty_repos(), batch.dirty_rows(), batch.events) == ([], [], [])
    assert [one.effect for one in batch.applied] == [OperationEffect.COMPLETED]


def test_a_refresh_tells_what_the_index_holds_then() -> None:
    batch = batch_state(known("5"), {WANTED: Row(cid("x"), "3"), OTHER: Row(cid("new"), "7")})
    batch.apply(proven(proof("6", WANTED, "y")))
    batch.apply(proven(proof("6", OTHER, "new")))
    batch.apply(proven(proof("6", WANTED, None)))
    assert [one.new_cid for one in batch.applied] == [cid("y"), cid("new"), None]
    assert {one.effect for one in batch.applied} == {OperationEffect.COMPLETED}


def test_a_refresh_that_is_older_than_the_index_is_tried_again() -> None:
    batch = batch_state(known("5"), {WANTED: Row(cid("x"), "3"), OTHER: Row(cid("new"), "7")})
    batch.apply(proven(proof("6", OTHER, "old")))
    batch.apply(proven(proof("0", WANTED, "y")))
    assert [(one.new_cid, one.effect) for one in batch.applied] == [
        (None, OperationEffect.AGAIN)
    ] * 2
    assert not batch.events


# -- publishing everything ---------------------------------------------------------------


def test_a_sync_can_publish_every_record_again() -> None:
    third, fourth = "app.alpha.note/3", "app.alpha.note/4"
    rows = {
        WANTED: Row(cid(WANTED), "3"),
        OTHER: Row(cid(OTHER), "9"),
        third: Row(cid("newer"), "9"),
    }
    batch = batch_state(known("9"), rows)
    batch.apply(chunked(chunk("7", WANTED, OTHER, third, fourth, emit_all=True)))
    records = [e for e in batch.events if isinstance(e, RecordEvent)]
    assert [(e.path, e.action, e.rev, e.cid, e.prev) for e in records] == [
        (WANTED, "update", "7", cid(WANTED), cid(WANTED)),
        (OTHER, "update", "9", cid(OTHER), cid(OTHER)),
        (fourth, "create", "7", cid(fourth), None),
    ]
    assert all(e.record == e.path.encode() for e in records)
    assert [path for _, path, _ in batch.dirty_rows()] == [fourth], "what holds is not written"
    [done] = batch.applied
    assert (done.created, done.updated, done.deleted) == (1, 0, 0), "they are no changes"


def test_what_is_published_again_names_the_attempt() -> None:
    again = []
    for operation, attempt in (("a", 1), ("a", 2), ("b", 1)):
        batch = batch_state(known("5"), {WANTED: Row(cid(WANTED), "3")})
        whole = chunk("7", WANTED, emit_all=True, operation=operation, attempt=attempt)
        batch.apply(chunked(whole))
        again += [e.republished_by for e in batch.events if isinstance(e, RecordEvent)]
    assert again == ["a/1", "a/2", "b/1"]
