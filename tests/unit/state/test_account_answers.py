"""What raises the question about an account, and what answers do: rules and their properties."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumer.backfill import AccountAnswer, AnswerSource, Cause, IdentityAnswer, LookupKind
from consumer.errors import Reason
from consumer.events.envelope import Source
from consumer.state import accounts
from consumer.state.accounts import AccountRules, Judgement, Question, Verdict
from consumer.state.batch_state import BatchState
from consumer.state.effects import Lookup, SyncReason
from consumer.state.facts import Row
from consumer.state.inputs import (
    AccountLearnt,
    AccountSeen,
    CommitSeen,
    CommitUnverifiable,
    IdentityLearnt,
    Lost,
    SyncSeen,
)
from consumer.state.repo_state import Repo
from tests.unit.state.batches import account, reason
from tests.unit.worker.values import (
    BACKFILL,
    DID,
    LIVE,
    POLICY,
    WANTED,
    batch_state,
    cid,
    create,
    following,
    kinds,
    known,
    sync,
)

RULES = AccountRules()
HOUR = 3_600.0
HOST = "pds.example"
OTHER_RELAY = replace(LIVE, seq=9, relay="wss://other.test")


def answer(
    status: str, at: float = HOUR, cause: str = Cause.REFUSAL, **fields: object
) -> AccountAnswer:
    start = AccountAnswer(DID, 1, 7, status, AnswerSource.HOST, HOST, at, cause)
    return replace(start, **fields)  # type: ignore[arg-type]  # a test names real fields


def seen(rev: str = "5", **fields: object) -> Repo:
    """Return a repo whose newest frame was seq 7 of epoch 1, of the relay of ``LIVE``."""
    framed = {"status_epoch": 1, "status_seq": 7, "status_relay": LIVE.relay}
    return known(rev, **(framed | fields))


def judged(repo: Repo, one: AccountAnswer, *, held: bool = False) -> Judgement:
    return accounts.judge(repo, one, RULES, held=held)


def learnt(one: AccountAnswer) -> AccountLearnt:
    return AccountLearnt(one, replace(LIVE, source=Source.ACCOUNT))


def question(cause: Cause, delay: float = 0.0) -> Lookup:
    return Lookup(DID, LookupKind.ACCOUNT, 1, 7, cause, delay)


# -- signs ------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", ["deactivated", "takendown", "throttled", "deleted"])
def test_a_newer_signed_commit_of_an_inactive_account_asks(status: str) -> None:
    repo = seen(status=status)
    batch = batch_state(repo)
    commit = CommitSeen(following(repo, "6", create(WANTED, "x")), LIVE)
    assert reason(batch, commit) is Reason.ACCOUNT_INACTIVE
    assert batch.lookups == [question(Cause.COMMIT)]
    assert batch.repos[DID].inactive_rev == "6"
    assert batch.events == []


def test_an_old_commit_of_an_inactive_account_is_no_sign() -> None:
    repo = seen("9", status="deactivated", gap_rev="9")
    batch = batch_state(repo)
    batch.apply(CommitSeen(following(repo, "9", create(WANTED, "x")), LIVE))
    batch.apply(CommitSeen(following(repo, "8", create(WANTED, "x")), LIVE))
    assert batch.lookups == []
    assert batch.dirty_repos() == []


def test_a_signed_sync_and_a_signed_commit_that_is_refused_are_signs() -> None:
    batch = batch_state(seen(status="suspended"))
    batch.apply(SyncSeen(sync("6", b"root"), LIVE))
    batch.apply(CommitUnverifiable(DID, "7", True, (), Reason.TREE_INVALID, "", LIVE))
    assert batch.lookups == [question(Cause.COMMIT)] * 2


def test_what_is_not_signed_is_no_sign() -> None:
    batch = batch_state(seen(status="suspended"))
    batch.apply(CommitUnverifiable(DID, "7", False, (), Reason.SIGNATURE_INVALID, "", LIVE))
    assert batch.lookups == []


def test_a_commit_of_an_active_account_asks_nothing() -> None:
    repo = seen()
    batch = batch_state(repo)
    batch.apply(CommitSeen(following(repo, "6", create(WANTED, "x")), LIVE))
    assert batch.lookups == []


def test_a_loss_window_doubts_the_status_of_who_is_not_active() -> None:
    for status in ("deactivated", "deleted"):
        batch = batch_state(seen(status=status))
        batch.apply(Lost(DID, LIVE))
        assert batch.lookups == [question(Cause.LOSS)]
    active = batch_state(seen(status="active"))
    active.apply(Lost(DID, LIVE))
    assert active.lookups == []
    assert [sync.did for sync in active.syncs] == [DID], "its sync asks the host"


def test_a_did_that_the_directory_does_not_know_any_more_asks() -> None:
    batch = batch_state(seen())
    gone = IdentityAnswer(DID, 1.0, error=f"{Reason.DID_NOT_FOUND}: status 410")
    unusable = IdentityAnswer(DID, 1.0, error=f"{Reason.DID_INVALID}: no key")
    batch.apply(IdentityLearnt(unusable, BACKFILL))
    assert batch.lookups == []
    batch.apply(IdentityLearnt(gone, BACKFILL))
    assert batch.lookups == [question(Cause.DIRECTORY)]


def test_a_frame_of_another_relay_asks_and_decides_nothing() -> None:
    repo = seen()
    for status in ("deactivated", "deleted"):
        batch = batch_state(repo, {WANTED: Row(cid("x"), "3")})
        assert batch.apply(AccountSeen(DID, False, status, 1, OTHER_RELAY)) is None
        assert batch.lookups == [question(Cause.RELAY)]
        assert (batch.repos[DID], batch.events) == (repo, [])


def test_a_frame_of_another_relay_that_agrees_asks_nothing() -> None:
    batch = batch_state(seen())
    batch.apply(AccountSeen(DID, True, None, 1, OTHER_RELAY))
    assert batch.lookups == []


def test_another_relay_is_followed_after_the_host_has_answered() -> None:
    batch = batch_state(seen())
    batch.apply(AccountSeen(DID, False, "deactivated", 1, OTHER_RELAY))
    batch.apply(learnt(answer("active", cause=Cause.RELAY)))
    assert batch.repos[DID].account_active
    batch.apply(AccountSeen(DID, False, "deactivated", 1, replace(OTHER_RELAY, seq=10)))
    assert batch.repos[DID].status == "deactivated"


def test_the_first_frame_of_an_epoch_decides_and_asks_when_it_contradicts() -> None:
    batch = batch_state(seen())
    batch.apply(account("deactivated", seq=3, epoch=2))
    assert batch.repos[DID].status == "deactivated"
    assert batch.lookups == [Lookup(DID, LookupKind.ACCOUNT, 2, 3, Cause.RELAY)]
    batch.apply(account("suspended", seq=4, epoch=2))
    assert len(batch.lookups) == 1


# -- answers that delete nothing ----------------------------------------------------------------


@pytest.mark.parametrize("status", ["deactivated", "suspended", "takendown", "inactive"])
def test_an_answer_is_applied_like_a_frame(status: str) -> None:
    batch = batch_state(seen(), {WANTED: Row(cid("x"), "3")})
    batch.apply(learnt(answer(status)))
    assert batch.repos[DID].status == status
    assert (kinds(batch.events), batch.dirty_rows()) == (["AccountEvent"], [])


@pytest.mark.parametrize("status", ["deactivated", "throttled", "deleted", "inactive"])
def test_active_again_is_desynchronized_and_synced(status: str) -> None:
    batch = batch_state(seen(status=status))
    batch.apply(learnt(answer("active")))
    assert [sync.reason for sync in batch.syncs] == [SyncReason.REACTIVATED]
    assert batch.repos[DID].account_active


@pytest.mark.parametrize("status", ["takendown", "suspended"])
def test_a_relays_measure_stands_against_its_hosts_word(status: str) -> None:
    repo = seen(status=status, frame_status=status)
    for said in ("active", "deactivated"):
        found = judged(repo, answer(said))
        assert (found.verdict, found.repo, found.overruled) == (
            Verdict.DISAGREEMENT,
            repo,
            status,
        )
    since = replace(repo, inactive_rev="6")
    assert judged(since, answer("active")).verdict is Verdict.STATUS
    assert judged(since, answer("deactivated")).verdict is Verdict.DISAGREEMENT


def test_a_commit_of_another_relay_does_not_end_a_relays_measure() -> None:
    repo = seen(status="takendown", frame_status="takendown")
    batch = batch_state(repo)
    batch.apply(CommitSeen(following(repo, "6", create(WANTED, "x")), OTHER_RELAY))
    assert batch.lookups == [question(Cause.COMMIT)]
    assert batch.repos[DID].inactive_rev is None


def test_a_status_that_a_host_stated_is_no_relays_measure() -> None:
    assert judged(seen(status="takendown"), answer("active")).verdict is Verdict.STATUS


def test_an_answer_that_a_frame_overtook_is_asked_again_if_it_contradicts() -> None:
    batch = batch_state(seen(status_seq=8))
    assert reason(batch, learnt(answer("deactivated"))) is Reason.REPLAY
    assert batch.lookups == [replace(question(Cause.OVERTAKEN), seq=8)]
    again = batch_state(seen(status_seq=8))
    assert reason(again, learnt(answer("active"))) is Reason.REPLAY
    assert again.lookups == []


# -- deletions ----------------------------------------------------------------------------------


def test_a_frame_and_the_host_delete_at_once() -> None:
    repo = seen(frame_status="deleted")
    assert judged(repo, answer("deleted")).verdict is Verdict.DELETE
    assert judged(seen(), answer("deleted", cause=Cause.FRAME)).verdict is Verdict.DELETE
    assert judged(seen(), answer("deleted", cause="")).verdict is Verdict.DELETE  # version 1


def test_the_directory_deletes_at_once() -> None:
    one = answer("deleted", source=AnswerSource.DIRECTORY, host=None)
    assert judged(seen(), one, held=True).verdict is Verdict.DELETE


def test_a_host_alone_needs_a_second_answer_an_hour_later() -> None:
    first = judged(seen(), answer("deleted", at=HOUR))
    assert first.verdict is Verdict.UNCONFIRMED
    assert first.question == Question(Cause.CONFIRM, HOUR)
    early = judged(first.repo, answer("deleted", at=1.5 * HOUR))
    assert early.verdict is Verdict.UNCONFIRMED
    assert early.question == Question(Cause.CONFIRM, 0.5 * HOUR)
    assert judged(early.repo, answer("deleted", at=2 * HOUR)).verdict is Verdict.DELETE


def test_another_host_begins_anew() -> None:
    first = judged(seen(), answer("deleted"))
    other = judged(first.repo, answer("deleted", at=9 * HOUR, host="new.example"))
    assert other.verdict is Verdict.UNCONFIRMED
    assert (other.repo.gone_at, other.repo.gone_host) == (9 * HOUR, "new.example")


@pytest.mark.parametrize("status", ["active", "deactivated"])
def test_any_other_answer_begins_anew(status: str) -> None:
    first = judged(seen(), answer("deleted"))
    batch = batch_state(first.repo)
    batch.apply(learnt(answer(status, at=2 * HOUR)))
    assert batch.repos[DID].gone_at is None


def test_a_commit_that_applies_shows_that_the_account_is_there() -> None:
    repo = judged(seen(), answer("deleted")).repo
    batch = batch_state(repo)
    batch.apply(CommitSeen(following(repo, "6", create(WANTED, "x")), LIVE))
    assert batch.repos[DID].gone_at is None


def test_a_deletion_waits_while_too_many_are_gone_unless_a_person_asks() -> None:
    first = judged(seen(), answer("deleted"))
    again = judged(first.repo, answer("deleted", at=3 * HOUR), held=True)
    assert again.verdict is Verdict.HELD
    assert again.question == Question(Cause.CONFIRM, 24 * HOUR)
    asked = answer("deleted", at=4 * HOUR, cause=Cause.PERSON)
    assert judged(again.repo, asked, held=True).verdict is Verdict.DELETE
    too_early = answer("deleted", at=1.1 * HOUR, cause=Cause.PERSON)
    assert judged(first.repo, too_early, held=True).verdict is Verdict.UNCONFIRMED


@pytest.mark.parametrize(
    ("share", "gone", "tracked", "too_many"),
    [
        (0.05, 1, 1, False),
        (0.05, 2, 30, True),
        (0.05, 5, 100, False),
        (0.05, 6, 100, True),
        (0.0, 1, 1, True),
        (0.0, 0, 1, False),
        (1.0, 9, 9, False),
    ],
)
def test_a_share_of_a_hosts_accounts_may_go_in_a_day(
    share: float, gone: int, tracked: int, too_many: bool
) -> None:
    assert AccountRules(deletion_share=share).too_many(gone, tracked) is too_many


@given(share=st.floats(0.001, 1.0), gone=st.integers(0, 10_000), more=st.integers(0, 1_000_000))
def test_whose_accounts_are_counted_as_far_as_that_is_enough(
    share: float, gone: int, more: int
) -> None:
    rules = AccountRules(deletion_share=share)
    assert not rules.too_many(gone, rules.enough(gone))
    assert not rules.too_many(gone, rules.enough(gone) + more)


def test_nothing_is_deleted_whose_rows_are_not_loaded() -> None:
    repo = seen()
    batch = BatchState({DID: repo}, {}, POLICY, whole=())
    batch.apply(account("deleted", seq=8))
    one = replace(learnt(answer("deleted", cause=Cause.FRAME)))
    batch.apply(replace(one, answer=replace(one.answer, seq=8)))
    assert batch.repos[DID].status == "active"
    assert batch.lookups == [replace(question(Cause.FRAME), seq=8)] * 2
    assert batch.events == []


def test_pauses_depend_on_the_cause() -> None:
    rules = AccountRules(ask_every=100.0, deletion_confirm_after=30.0)
    assert rules.pause(Cause.FRAME) == 0.0
    assert rules.pause(Cause.PERSON) == 60.0
    assert rules.pause(Cause.CONFIRM) == 30.0
    rest = set(Cause) - {Cause.FRAME, Cause.PERSON, Cause.CONFIRM}
    assert {rules.pause(cause) for cause in rest} == {100.0}


# -- any sequence of answers ----------------------------------------------------------------------

STATUSES = ("active", "deactivated", "takendown", "suspended", "throttled", "deleted")
SAID = st.tuples(
    st.sampled_from((*STATUSES, "nothing")),  # nothing: the host is down or means nothing
    st.floats(1.0, 3 * HOUR),  # seconds since the last
    st.sampled_from((HOST, "new.example")),
    st.booleans(),  # too many of the host's accounts are gone
)


@given(
    st.lists(SAID, max_size=12), st.sampled_from(("active", "deactivated", "deleted")), st.data()
)
def test_any_answers_end_at_the_truth_and_delete_nothing_before(
    said: list[tuple[str, float, str, bool]], truth: str, data: st.DataObject
) -> None:
    now, host = 0.0, HOST
    repo = seen(status=data.draw(st.sampled_from(("active", "deactivated", "throttled"))))
    gone_since: tuple[str, float] | None = None
    steps = [(*one, False) for one in said] + [(truth, 2 * HOUR, host, False, True)] * 3
    for status, seconds, host, held, honest in steps:
        now += seconds
        if status == "nothing":
            continue
        batch = batch_state(repo, {WANTED: Row(cid("x"), "3")})
        batch._held_hosts = (host,) if held else ()
        before = repo.status
        batch.apply(learnt(answer(status, at=now, host=host)))
        repo = batch.repos[DID]
        if status != "deleted":
            gone_since = None
        elif gone_since is None or gone_since[0] != host:
            gone_since = (host, now)
        if repo.status == "deleted" and before != "deleted":
            assert gone_since is not None
            assert now - gone_since[1] >= HOUR - 1e-6
            assert not held
            assert batch.dirty_rows() == [(DID, WANTED, None)]
            gone_since = None
        elif repo.status != "deleted":
            assert batch.dirty_rows() == []
            if repo.account_active and before != "active":
                assert [one.reason for one in batch.syncs] == [SyncReason.REACTIVATED]
        assert honest or repo.status in {before, status}
    assert repo.status == truth
