"""Live commits and refusals in a batch: rows, events, syncs."""

from dataclasses import replace

import pytest

from consumer.errors import Reason
from consumer.events.envelope import RecordEvent, SyncEvent
from consumer.scope import History, Interval, Repos, Scope
from consumer.state.batch_state import BatchState
from consumer.state.effects import SyncReason, SyncRequest
from consumer.state.facts import Row
from consumer.state.inputs import (
    CommitUnverifiable,
    IdentitySeen,
    Input,
    Lost,
    ScopeChanged,
    SyncUnverifiable,
    needs,
)
from consumer.state.policy import Policy
from consumer.verify.verified import Action
from procedures.retries import RetryPolicy
from tests.unit.state.batches import account, learnt, reason
from tests.unit.worker.values import (
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


def unverifiable(*paths: str, signed: bool = True) -> CommitUnverifiable:
    return CommitUnverifiable(DID, "6", signed, paths, Reason.INVERSION_FAILED, "why", LIVE)


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
    policy = Policy(0, replace(SCOPE, history=History.LIVE), RetryPolicy())
    batch = BatchState({DID: known("5")}, {}, policy)
    batch.apply(Lost(DID, LIVE))
    assert batch.syncs == []
    assert batch.triggers == {SyncReason.LOSS_WINDOW: 1}
    assert not batch.dirty_repos()[0].active


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
        batch = BatchState({}, {}, Policy(0, scope, RetryPolicy()))
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
        batch = BatchState({}, {}, Policy(0, replace(SCOPE, repos=Repos.ALL), RetryPolicy()))
        assert batch.apply(frame) is None
        assert DID in batch.repos
        assert len(batch.syncs) == 1


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
