"""How each piece of evidence moves the state of one repo."""

from dataclasses import fields, replace

import pytest

from consumer.errors import Reason
from consumer.state import repo_state
from consumer.state.effects import Rejection, SyncReason
from consumer.state.facts import Row
from consumer.state.repo_state import Repo, Transition, newest, reaches
from consumer.verify.verified import EMPTY_TREE
from tests.unit.worker.values import (
    DID,
    POLICY,
    WANTED,
    chunk,
    commit,
    create,
    following,
    genesis,
    known,
    proof,
    root,
    sync,
)

UNKNOWN = Repo(DID, POLICY.lane, scope=POLICY.digest)
WHY = Rejection(Reason.INVERSION_FAILED)


def reason_of(transition: Transition) -> Reason | None:
    return None if transition.rejection is None else transition.rejection.reason


# -- commits -----------------------------------------------------------------------------


def test_revs_are_compared_as_marks() -> None:
    assert newest(None, "2", "1") == "2"
    assert newest(None, None) is None
    assert reaches("1", None)
    assert reaches("2", "2")
    assert not reaches("1", "2")


def test_the_next_commit_only_moves_the_head() -> None:
    repo = known("5", pds="https://pds.test", resync_generation=4)
    transition = repo_state.on_commit(repo, following(repo, "6", create(WANTED, "x")))
    assert transition == Transition(replace(repo, rev="6", data=root("6")), applies=True)


def test_a_moved_repo_is_a_copy_in_every_other_field() -> None:
    repo = Repo(*range(len(fields(Repo))))
    assert repo_state.moved_to(repo, "9", b"r") == replace(repo, rev="9", data=b"r")


@pytest.mark.parametrize("since", [None, "4"])
def test_a_first_commit_on_the_empty_tree_is_complete(since: str | None) -> None:
    first = commit("5", create(WANTED, "x"), since=since, was=EMPTY_TREE)
    transition = repo_state.on_commit(UNKNOWN, first)
    assert transition.repo == replace(
        UNKNOWN,
        sync_state="active",
        reason=None,
        rev="5",
        data=root("5"),
        floor_rev="5",
        complete=True,
    )
    assert transition.applies
    assert transition.trigger is None


@pytest.mark.parametrize(
    "known",
    [{"resync_generation": 1}, {"gap_rev": "6"}, {"proof_rev": "4"}],
    ids=["resync_generation", "gap", "proof"],
)
def test_it_is_not_when_anything_was_known_before(known: dict[str, object]) -> None:
    before = replace(UNKNOWN, **known)  # type: ignore[arg-type]  # real fields
    transition = repo_state.on_commit(before, genesis("5", create(WANTED, "x")))
    assert not transition.repo.active
    assert transition.trigger is SyncReason.FIRST_SIGHTING


def test_any_other_first_commit_leaves_everything_before_it_missing() -> None:
    transition = repo_state.on_commit(UNKNOWN, commit("5", since="4", was=root("4")))
    assert (transition.repo.gap_rev, transition.repo.rev, transition.applies) == ("5", "5", True)
    assert transition.trigger is SyncReason.FIRST_SIGHTING


@pytest.mark.parametrize(
    ("since", "was"),
    [("4", root("5")), ("5", root("4")), (None, EMPTY_TREE)],
    ids=["since", "prevData", "another genesis"],
)
def test_a_broken_chain_moves_on_and_leaves_a_gap(since: str | None, was: bytes) -> None:
    repo = known("5", gap_rev="3")
    transition = repo_state.on_commit(repo, commit("7", since=since, was=was))
    assert (transition.repo.rev, transition.repo.data, transition.repo.gap_rev) == (
        "7",
        root("7"),
        "7",
    )
    assert (transition.repo.active, transition.applies) == (False, True)
    assert transition.trigger is SyncReason.BROKEN_CHAIN


def test_a_gap_never_falls() -> None:
    repo = known("5", gap_rev="9")
    assert repo_state.on_commit(repo, commit("7", since="6", was=b"")).repo.gap_rev == "9"


def test_older_and_repeated_commits_are_replays() -> None:
    repo = known("5")
    for replayed in (commit("4", since="3", was=b""), commit("5", since="4", was=b"")):
        transition = repo_state.on_commit(repo, replayed)
        assert transition == Transition(repo, rejection=Rejection(Reason.REPLAY, kept=False))


def test_another_root_at_the_same_rev_is_kept_as_evidence() -> None:
    repo = known("5")
    transition = repo_state.on_commit(repo, commit("5", since="4", was=b"", now=root("other")))
    assert (transition.repo, reason_of(transition)) == (repo, Reason.EQUIVOCATION)
    assert transition.rejection is not None
    assert transition.rejection.kept


# -- what cannot be followed -------------------------------------------------------------


def test_a_signed_rev_of_an_unverifiable_commit_is_a_gap() -> None:
    transition = repo_state.on_unverifiable(known("5"), "6", signed=True, why=WHY)
    assert (transition.repo.rev, transition.repo.gap_rev, transition.repo.resync_generation) == (
        "5",
        "6",
        0,
    )
    assert (transition.applies, transition.trigger, transition.rejection) == (
        False,
        SyncReason.UNVERIFIABLE,
        WHY,
    )


@pytest.mark.parametrize("claimed", [None, "6"])
def test_an_unsigned_one_bumps_want_and_hints_at_most(claimed: str | None) -> None:
    transition = repo_state.on_unverifiable(known("5"), claimed, signed=False, why=WHY)
    assert (
        transition.repo.gap_rev,
        transition.repo.resync_generation,
        transition.repo.hint_rev,
    ) == (
        None,
        1,
        claimed,
    )
    assert (transition.trigger, transition.rejection) == (SyncReason.UNVERIFIABLE, WHY)


@pytest.mark.parametrize("signed", [True, False])
def test_an_unverifiable_replay_is_a_replay(signed: bool) -> None:
    transition = repo_state.on_unverifiable(known("5"), "5", signed=signed, why=WHY)
    assert transition == Transition(known("5"), rejection=Rejection(Reason.REPLAY, kept=False))


def test_a_loss_window_bumps_want() -> None:
    transition = repo_state.on_lost(known("5"))
    assert (transition.repo.resync_generation, transition.repo.active) == (1, False)
    assert transition.trigger is SyncReason.LOSS_WINDOW


def test_another_scope_makes_everything_read_so_far_incomplete() -> None:
    transition = repo_state.on_scope(known("5"), b"other")
    expected = (b"other", "5", 1, False, False)
    repo = transition.repo
    assert (
        repo.scope,
        repo.gap_rev,
        repo.resync_generation,
        repo.complete,
        repo.active,
    ) == expected
    assert transition.trigger is SyncReason.SCOPE_CHANGED
    assert repo_state.on_scope(repo, b"other") == Transition(repo)


# -- #sync -------------------------------------------------------------------------------


def test_a_sync_with_our_root_moves_the_rev_and_the_floor() -> None:
    repo = known("5")
    transition = repo_state.on_sync(repo, sync("7", root("5")))
    assert transition == Transition(replace(repo, rev="7", floor_rev="7"))


def test_a_root_that_came_back_does_not_cover_rows_from_newer_proofs() -> None:
    transition = repo_state.on_sync(known("5", proof_rev="6"), sync("7", root("5")))
    assert transition.trigger is SyncReason.SYNC_FRAME


def test_a_sync_with_another_root_is_a_gap() -> None:
    transition = repo_state.on_sync(known("5"), sync("7", root("7")))
    assert (transition.repo.rev, transition.repo.data, transition.repo.gap_rev) == (
        "7",
        root("7"),
        "7",
    )
    assert (transition.repo.active, transition.trigger) == (False, SyncReason.SYNC_FRAME)


def test_an_older_sync_is_a_replay_and_another_root_equivocation() -> None:
    assert reason_of(repo_state.on_sync(known("5"), sync("4", root("x")))) is Reason.REPLAY
    assert reason_of(repo_state.on_sync(known("5"), sync("5", root("5")))) is Reason.REPLAY
    assert reason_of(repo_state.on_sync(known("5"), sync("5", root("x")))) is Reason.EQUIVOCATION


# -- snapshots ---------------------------------------------------------------------------


def test_a_first_chunk_from_the_future_moves_the_chain() -> None:
    repo = known("5", gap_rev="3", sync_state="desynchronized", reason="loss_window")
    transition = repo_state.on_chunk(repo, chunk("7"), POLICY.digest)
    after = transition.repo
    assert (after.rev, after.data, after.gap_rev, after.floor_rev) == ("7", root("7"), "7", "7")
    assert (transition.applies, transition.trigger) == (True, None)


def test_an_active_repo_is_a_mixture_from_then_on() -> None:
    transition = repo_state.on_chunk(known("5"), chunk("7", last=False), POLICY.digest)
    assert (transition.repo.active, transition.trigger) == (False, SyncReason.SNAPSHOT)


@pytest.mark.parametrize("rev", ["4", "5"])
def test_a_first_chunk_from_the_chain_only_raises_the_floor(rev: str) -> None:
    transition = repo_state.on_chunk(known("5", gap_rev="3"), chunk(rev), POLICY.digest)
    after = transition.repo
    assert (after.rev, after.data, after.gap_rev, after.floor_rev) == ("5", root("5"), "3", rev)
    assert after.active


@pytest.mark.parametrize(
    ("repo", "fields", "reason"),
    [
        (known("5", status="suspended"), {}, Reason.ACCOUNT_INACTIVE),
        (known("5"), {"scope": b"other"}, Reason.SNAPSHOT_SCOPE),
        (known("5", scope=b"other"), {}, Reason.SNAPSHOT_SCOPE),
        (known("5", floor_rev="5"), {"rev": "4"}, Reason.SNAPSHOT_STALE),
        (known("5"), {"data": root("other")}, Reason.EQUIVOCATION),
        (known("5"), {"after": "a"}, Reason.SNAPSHOT_HOLE),
    ],
)
def test_a_chunk_is_refused(repo: Repo, fields: dict[str, object], reason: Reason) -> None:
    one = replace(chunk("5", last=False), **fields)  # type: ignore[arg-type]  # real fields
    transition = repo_state.on_chunk(repo, one, POLICY.digest)
    assert (transition.repo, transition.applies, transition.trigger) == (repo, False, None)
    assert reason_of(transition) is reason


@pytest.mark.parametrize(
    "other",
    [{"operation": "x"}, {"attempt": 2}, {"rev": "6", "data": root("6")}, {"after": "b"}],
    ids=["operation", "attempt", "rev", "after"],
)
def test_a_chunk_continues_only_its_own_attempt(other: dict[str, object]) -> None:
    first = chunk("5", through="a", last=False)
    begun = repo_state.on_chunk(known("5"), first, POLICY.digest).repo
    following_chunk = chunk("5", after="a")
    assert repo_state.on_chunk(begun, following_chunk, POLICY.digest).applies
    transition = repo_state.on_chunk(begun, replace(following_chunk, **other), POLICY.digest)  # type: ignore[arg-type]  # real fields
    assert reason_of(transition) is Reason.SNAPSHOT_HOLE


def test_the_last_chunk_activates() -> None:
    behind = known(
        "5", sync_state="desynchronized", reason="loss_window", complete=False, gap_rev="4"
    )
    waiting = replace(behind, hint_rev="6")
    begun = repo_state.on_chunk(waiting, chunk("4"), POLICY.digest).repo
    transition = repo_state.on_last_chunk(begun, chunk("4", attempt=repo_state.HINT_ATTEMPTS))
    assert transition == Transition(known("5", gap_rev="4", floor_rev="4"))


@pytest.mark.parametrize(
    ("marks", "reason"),
    [
        ({"gap_rev": "5"}, Reason.SNAPSHOT_STALE),
        ({"resync_generation": 1}, Reason.SNAPSHOT_OUTDATED),
        ({"hint_rev": "5"}, Reason.SNAPSHOT_STALE),
    ],
    ids=["gap", "resync_generation", "hint"],
)
def test_a_snapshot_that_cannot_have_seen_it_all_is_refused(
    marks: dict[str, object], reason: Reason
) -> None:
    behind = known("5", sync_state="desynchronized", reason="loss_window", **marks)
    transition = repo_state.on_last_chunk(behind, chunk("4"))
    assert (reason_of(transition), transition.trigger) == (reason, None)
    assert transition.repo == behind


# -- proofs and accounts -----------------------------------------------------------------


def test_a_proof_is_noted_and_applies() -> None:
    transition = repo_state.on_proof(known("5"), proof("6", WANTED, None), None)
    assert transition == Transition(known("5", proof_rev="6"), applies=True)


@pytest.mark.parametrize("marks", [{"floor_rev": "5"}, {"gap_rev": "5"}], ids=["floor", "gap"])
def test_a_proof_from_before_what_is_missing_is_refused(marks: dict[str, object]) -> None:
    transition = repo_state.on_proof(known("5", **marks), proof("4", WANTED, None), None)
    assert (transition.applies, reason_of(transition)) == (False, Reason.SNAPSHOT_STALE)


def test_a_proof_of_what_a_newer_row_contradicts_is_refused() -> None:
    older, row = proof("4", WANTED, None), Row(cid=root("one"), rev="5")
    transition = repo_state.on_proof(known("5"), older, row)
    assert (transition.applies, reason_of(transition)) == (False, Reason.SNAPSHOT_STALE)
    for agreeing in (Row(cid=None, rev="5"), replace(row, rev="3"), None):
        assert repo_state.on_proof(known("5"), older, agreeing).applies


def test_an_inactive_account_changes_nothing() -> None:
    idle = known("5", status="deactivated")
    ignored = Transition(idle, rejection=Rejection(Reason.ACCOUNT_INACTIVE, kept=False))
    assert repo_state.on_commit(idle, following(idle, "6")) == ignored
    assert repo_state.on_sync(idle, sync("6", root("6"))) == ignored
    assert repo_state.on_proof(idle, proof("6", WANTED, None), None) == ignored
    assert repo_state.on_unverifiable(idle, "6", signed=True, why=WHY) == ignored
    assert repo_state.on_lost(idle) == Transition(idle)
