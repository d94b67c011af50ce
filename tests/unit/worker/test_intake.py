from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from consumer.errors import Reason, Refused
from consumer.events.envelope import Origin, Source
from consumer.scope import Repos
from consumer.state.inputs import (
    AccountSeen,
    CommitSeen,
    CommitUnverifiable,
    IdentitySeen,
    SyncSeen,
    SyncUnverifiable,
)
from consumer.verify.verified import EMPTY_TREE
from consumer.worker import intake
from consumer.worker.incoming import IncomingFrame
from consumer.worker.intake import NOBODY, Accept, Drop, Known, Park, Queue, Rules, Verdict
from procedures.times import to_text
from simulator import frames
from simulator.account import Account
from simulator.repo import tid
from tests.unit.worker.frames import NOW, RELAY, UNWANTED, Author, arrival, identity, rules

FRESH = NOW + 1.0  # fetched after the frame came


def step(
    frame: IncomingFrame, known: Known, settings: Rules | None = None, now: float = NOW
) -> Verdict:
    settings = settings or rules()
    return intake.step(frame, intake.read(frame, settings.frame), known, settings, now)


def known(author: Author, **fields: Any) -> Known:
    return Known(
        **{"identity": identity(author.account), "tracked": True, "waiting": NOBODY, **fields}
    )


# -- what is taken ----------------------------------------------------------------------------


@pytest.mark.parametrize("curve", ["k256", "p256"])
def test_a_good_commit_is_verified(curve: str) -> None:
    author = Author.of(curve=curve)
    verdict = step(author.commit(), known(author))
    assert isinstance(verdict, Accept)
    assert isinstance(verdict.input, CommitSeen)
    assert verdict.input.did == author.did
    assert verdict.input.verified.rev == author.repo.rev
    assert verdict.input.origin == Origin(Source.FIREHOSE, 1, frames.TIME, RELAY)


def test_a_good_sync_is_verified() -> None:
    author = Author.of()
    frame = frames.sync_frame(7, author.repo.sync())
    verdict = step(arrival(frame, author.did, 7), known(author))
    assert isinstance(verdict, Accept)
    assert isinstance(verdict.input, SyncSeen)


def test_account_and_identity_need_no_key() -> None:
    did = Author.of().did
    nothing = Known(None, tracked=False, waiting=NOBODY)
    account = frames.account_frame(1, did, active=False, status="suspended")
    verdict = step(arrival(account, did, epoch=4), nothing)
    assert isinstance(verdict, Accept)
    assert isinstance(verdict.input, AccountSeen)
    assert (verdict.input.active, verdict.input.status, verdict.input.epoch) == (
        False,
        "suspended",
        4,
    )
    verdict = step(arrival(frames.identity_frame(2, did, "alice.test"), did), nothing)
    assert isinstance(verdict, Accept)
    assert isinstance(verdict.input, IdentitySeen)
    assert verdict.input.handle == "alice.test"


def test_a_handle_that_is_none_is_left_out() -> None:
    did = Author.of().did
    frame = frames.identity_frame(2, did, "\0" * 1000)
    verdict = step(arrival(frame, did), Known(None, tracked=True, waiting=NOBODY))
    assert isinstance(verdict, Accept)
    assert isinstance(verdict.input, IdentitySeen)
    assert verdict.input.handle is None


# -- whom nobody wants ------------------------------------------------------------------------


def test_an_untracked_commit_without_a_wanted_path_is_dropped_before_verification() -> None:
    author = Author.of()
    frame = author.commit(UNWANTED, ops=[{"action": "create", "path": UNWANTED, "cid": None}])
    verdict = step(frame, Known(None, tracked=False, waiting=NOBODY))
    assert verdict == Drop(Reason.UNTRACKED, kept=False)


def test_a_wanted_path_makes_an_unknown_account_wait_for_its_key() -> None:
    author = Author.of()
    assert step(author.commit(), Known(None, tracked=False, waiting=NOBODY)) == Park(look_up=True)


def test_a_sync_of_an_untracked_account_is_dropped() -> None:
    author = Author.of()
    frame = arrival(frames.sync_frame(7, author.repo.sync()), author.did)
    nothing = Known(None, tracked=False, waiting=NOBODY)
    assert step(frame, nothing) == Drop(Reason.UNTRACKED, kept=False)
    assert step(frame, nothing, rules(Repos.ALL)) == Park(look_up=True)


def test_a_listed_account_counts_whatever_it_writes() -> None:
    author = Author.of()
    listed = rules(Repos.LISTED, dids=frozenset({author.did}))
    nothing = Known(None, tracked=False, waiting=NOBODY)
    assert step(author.commit(UNWANTED), nothing, listed) == Park(look_up=True)
    other = Author.of("other")
    assert step(other.commit(), nothing, listed) == Drop(Reason.UNTRACKED, kept=False)


# -- keys -------------------------------------------------------------------------------------


def test_a_signature_that_fails_waits_for_a_key_fetched_after_the_frame_came() -> None:
    author, stranger = Author.of(), Account.from_seed("stranger")
    frame = author.commit()
    stale = identity(author.account, signing_key=stranger.did_key)
    assert step(frame, known(author, identity=stale)) == Park(look_up=True)
    fresh = replace(stale, fetched_at=FRESH)
    verdict = step(frame, known(author, identity=fresh))
    assert isinstance(verdict, Accept)
    assert isinstance(verdict.input, CommitUnverifiable)
    assert verdict.input.reason is Reason.SIGNATURE_INVALID
    assert (verdict.input.rev, verdict.input.signed) == (author.repo.rev, False)


@pytest.mark.parametrize(
    "useless",
    [{"signing_key": None, "error": "no such DID"}, {"signing_key": "did:key:zNonsense"}],
    ids=["none", "nonsense"],
)
def test_without_a_usable_key_a_frame_is_refused_once_that_is_certain(
    useless: dict[str, Any],
) -> None:
    author = Author.of()
    frame = author.commit()
    before = identity(author.account, **useless)
    assert step(frame, known(author, identity=before)) == Park(look_up=True)
    verdict = step(frame, known(author, identity=replace(before, fetched_at=FRESH)))
    assert isinstance(verdict, Accept)
    assert isinstance(verdict.input, CommitUnverifiable)
    assert verdict.input.reason is Reason.KEY_UNAVAILABLE
    assert verdict.input.rev is None


def test_an_old_identity_is_stale_only_after_a_day() -> None:
    old = identity(Author.of().account, fetched_at=NOW - 24 * 3600 - 1)
    assert intake.is_stale(old, NOW)
    assert not intake.is_stale(old, NOW - 2)


# -- refusals ---------------------------------------------------------------------------------


def test_what_fails_behind_the_signature_keeps_its_signed_rev() -> None:
    author = Author.of()
    author.commit()
    frame = author.commit(prevData=EMPTY_TREE)
    verdict = step(frame, known(author))
    assert isinstance(verdict, Accept)
    assert isinstance(verdict.input, CommitUnverifiable)
    assert verdict.input.reason is Reason.INVERSION_FAILED
    assert (verdict.input.rev, verdict.input.signed) == (author.repo.rev, True)


def test_a_future_rev_is_refused_without_being_remembered() -> None:
    author = Author.of()
    verdict = step(author.commit(rev=tid(NOW + 301)), known(author))
    assert isinstance(verdict, Accept)
    assert isinstance(verdict.input, CommitUnverifiable)
    assert (verdict.input.reason, verdict.input.rev) == (Reason.REV_FUTURE, None)


def test_a_refused_sync_is_a_sync() -> None:
    author = Author.of()
    commit = author.repo.sync()
    frame = arrival(frames.sync_frame(7, commit, blocks=b"no CAR"), author.did)
    verdict = step(frame, known(author))
    assert isinstance(verdict, Accept)
    assert isinstance(verdict.input, SyncUnverifiable)


# -- waiting behind others --------------------------------------------------------------------


def test_frames_wait_behind_those_that_wait() -> None:
    author = Author.of()
    waiting = known(author, waiting=Queue(5, 500))
    assert step(author.commit(), waiting) == Park(look_up=False)
    account = arrival(frames.account_frame(9, author.did, active=True), author.did)
    assert step(account, waiting) == Park(look_up=False)
    renewed = arrival(frames.identity_frame(9, author.did), author.did)
    assert step(renewed, waiting) == Park(look_up=True)


def test_beyond_the_limit_the_repo_is_given_up() -> None:
    author, few = Author.of(), rules(parked_frames=5)
    assert step(author.commit(), known(author, waiting=Queue(4, 400)), few) == Park(look_up=False)
    verdict = step(author.commit(), known(author, waiting=Queue(5, 500)), few)
    assert isinstance(verdict, Accept)
    assert isinstance(verdict.input, CommitUnverifiable)
    assert (verdict.input.reason, verdict.input.rev) == (Reason.PARKED_OVERFLOW, None)


def test_the_bytes_that_wait_are_limited_too() -> None:
    author, few = Author.of(), rules(parked_bytes=1_000)
    assert step(author.commit(), known(author, waiting=Queue(1, 999)), few) == Park(look_up=False)
    verdict = step(author.commit(), known(author, waiting=Queue(1, 1_000)), few)
    assert isinstance(verdict, Accept)
    assert isinstance(verdict.input, CommitUnverifiable)
    assert verdict.input.reason is Reason.PARKED_OVERFLOW


def test_beyond_the_limit_an_account_s_status_is_still_taken() -> None:
    author, few = Author.of(), rules(parked_frames=5)
    account = arrival(frames.account_frame(9, author.did, active=False), author.did)
    verdict = step(account, known(author, waiting=Queue(5, 500)), few)
    assert isinstance(verdict, Accept)
    assert isinstance(verdict.input, AccountSeen)


# -- what cannot be read ----------------------------------------------------------------------


def refusal(frame: IncomingFrame) -> Refused:
    with pytest.raises(Refused) as raised:
        intake.read(frame, rules().frame)
    return raised.value


@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        (b"", Reason.FRAME_MALFORMED),
        (b"\xff\xff", Reason.FRAME_MALFORMED),
        (frames.frame("#video", {"seq": 1}), Reason.FRAME_UNKNOWN_TYPE),
        (frames.info_frame("OutdatedCursor"), Reason.FRAME_UNKNOWN_TYPE),
        (
            frames.account_frame(1, "did:plc:" + "x" * 1024, active=True),
            Reason.FRAME_MALFORMED,
        ),
        (
            frames.account_frame(1, "did:plc:x", active=False, status="a\0b"),
            Reason.FRAME_MALFORMED,
        ),
        (b"x" * 5_000_001, Reason.FRAME_TOO_BIG),
    ],
)
def test_what_is_no_event_of_an_account_is_refused(frame: bytes, reason: Reason) -> None:
    assert refusal(arrival(frame, "did:plc:x")).reason is reason


def test_an_unreadable_frame_of_a_tracked_account_is_missed() -> None:
    why = Refused(Reason.FRAME_MALFORMED, "nonsense")
    frame = arrival(b"\xff", "did:plc:x", 5)
    policy = rules().policy
    verdict = intake.unreadable(frame, why, policy, tracked=True)
    assert isinstance(verdict, Accept)
    assert isinstance(verdict.input, CommitUnverifiable)
    assert (verdict.input.did, verdict.input.reason) == ("did:plc:x", Reason.FRAME_MALFORMED)
    assert verdict.input.origin.time == to_text(NOW)
    kept = Drop(Reason.FRAME_MALFORMED, "nonsense")
    assert intake.unreadable(frame, why, policy, tracked=False) == kept
    nobody = replace(frame, key="nobody")
    assert intake.unreadable(nobody, why, rules(Repos.ALL).policy, tracked=False) == kept


def test_a_frame_that_killed_its_worker_is_not_looked_at() -> None:
    why = Refused(Reason.STALLED, "deadly")
    frame = Author.of().commit()
    verdict = intake.unreadable(frame, why, rules().policy, tracked=True)
    assert isinstance(verdict, Accept)
    assert isinstance(verdict.input, CommitUnverifiable)
    assert verdict.input.paths == ()
