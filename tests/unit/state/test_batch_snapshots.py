"""Snapshots, proofs and repeated publication in a batch."""

from dataclasses import replace

from consumer.errors import Reason
from consumer.events.envelope import RecordEvent
from consumer.scope import Interval
from consumer.state.batch_state import BatchState
from consumer.state.effects import (
    AppliedOperation,
    Cleared,
    OperationEffect,
    RefreshRequest,
    SyncReason,
    SyncRequest,
)
from consumer.state.facts import Row
from consumer.state.inputs import Lost
from tests.unit.state.batches import reason
from tests.unit.worker.values import (
    DID,
    LIVE,
    OTHER,
    UNWANTED,
    WANTED,
    batch_state,
    chunk,
    chunked,
    cid,
    commit,
    committed,
    create,
    following,
    genesis,
    kinds,
    known,
    proof,
    proven,
)


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
        AppliedOperation(
            "op", DID, 1, OperationEffect.COMPLETED, deleted=1, entries=1, via="record"
        )
    ]


def test_what_is_unknown_is_never_absent() -> None:
    batch = batch_state(known("5"), {WANTED: Row(cid("x"), "3"), OTHER: Row(cid("y"), "3")})
    warnings = (("block_missing", 1), ("path_invalid", 2))
    assert batch.apply(chunked(chunk("7", unknown=(WANTED,), warnings=warnings))) is None
    assert [(e.path, e.action) for e in batch.events if isinstance(e, RecordEvent)] == [
        (OTHER, "delete")
    ]
    assert batch.rows[DID][WANTED] == Row(cid("x"), "3")
    assert batch.repos[DID].active
    assert batch.repos[DID].warnings == dict(warnings)
    assert batch.refreshes == [RefreshRequest(DID, WANTED)]
    assert batch.applied[0].warnings == warnings


def test_the_next_snapshot_says_what_is_left_out_now() -> None:
    batch = batch_state(known("5", warnings={"path_invalid": 2}))
    assert batch.apply(chunked(chunk("7", WANTED))) is None
    assert batch.repos[DID].warnings is None


def test_not_all_that_is_unknown_is_refreshed_at_once() -> None:
    batch = batch_state(known("5"))
    paths = tuple(f"app.alpha.note/{number:04}" for number in range(1_000))
    batch.apply(chunked(chunk("7", unknown=paths)))
    assert [one.path for one in batch.refreshes] == list(paths[:100])


def test_a_commit_applies_but_for_the_record_without_bytes() -> None:
    repo = known("5")
    batch = batch_state(repo, {OTHER: Row(cid("y"), "3")})
    made = replace(following(repo, "6", create(WANTED, "x")), unknown=(OTHER,))
    assert reason(batch, committed(made)) is Reason.BLOCK_MISSING
    assert batch.rows[DID] == {WANTED: Row(cid("x"), "6"), OTHER: Row(cid("y"), "3")}
    after = batch.repos[DID]
    assert (after.rev, after.data, after.gap_rev, after.active) == ("6", made.data, "6", False)
    assert [sync.reason for sync in batch.syncs] == [SyncReason.UNVERIFIABLE]
    again = following(after, "7", create("app.alpha.note/3", "z"))
    assert batch.apply(committed(again)) is None


def test_a_record_without_bytes_that_is_not_wanted_is_not_missed() -> None:
    repo = known("5")
    batch = batch_state(repo)
    made = replace(following(repo, "6", create(WANTED, "x")), unknown=(UNWANTED,))
    assert batch.apply(committed(made)) is None
    assert batch.repos[DID].active
    assert not batch.syncs


def test_a_commit_counts_what_it_leaves_out() -> None:
    repo = known("5", warnings={"path_invalid": 1})
    batch = batch_state(repo)
    left_out = ((Reason.PATH_INVALID, 2), (Reason.RECORD_RAW, 1))
    made = replace(following(repo, "6", create(WANTED, "x")), left_out=left_out)
    rejection = batch.apply(committed(made))
    assert rejection is not None
    assert (rejection.reason, rejection.kept) == (Reason.PATH_INVALID, False)
    assert batch.repos[DID].active
    assert batch.repos[DID].warnings == {"path_invalid": 3, "record_raw": 1}
    assert batch.rows[DID] == {WANTED: Row(cid("x"), "6")}


def test_a_first_commit_that_lacks_a_record_does_not_state_everything() -> None:
    batch = batch_state()
    made = replace(genesis("1"), unknown=(WANTED,))
    assert reason(batch, committed(made)) is Reason.BLOCK_MISSING
    assert not batch.repos[DID].active
    assert batch.syncs


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
