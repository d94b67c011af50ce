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
from consumer.worker import verdicts
from consumer.worker.cache import KnownAccount, LaneCache, ParkedQueue
from consumer.worker.incoming import IncomingFrame
from consumer.worker.verdicts import (
    Accept,
    Drop,
    Park,
    Rules,
    Unknown,
    Verdict,
    judge,
    judge_next,
    unknown,
    unread,
)
from procedures.times import to_text
from simulator import frames
from simulator.account import Account
from simulator.repo import tid
from tests.unit.worker.frames import NOW, RELAY, UNWANTED, Author, identity, incoming_frame, rules

FRESH = NOW + 1.0  # fetched after the frame came


def step(
    frame: IncomingFrame, known: KnownAccount, settings: Rules | None = None, now: float = NOW
) -> Verdict:
    settings = settings or rules()
    found = verdicts.read(frame, settings)
    assert not isinstance(found.content, Refused)
    return judge(found, known, settings, now)


def known(author: Author, **fields: Any) -> KnownAccount:
    return KnownAccount(
        **{"identity": identity(author.account), "tracked": True, "queue": None, **fields}
    )


def queue(frames: int, size: int) -> ParkedQueue:
    return ParkedQueue(frames, size, ready=False)


NOTHING = KnownAccount(None, tracked=False, queue=None)
TRACKED = KnownAccount(None, tracked=True, queue=None)


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
    verdict = step(incoming_frame(frame, author.did, 7), known(author))
    assert isinstance(verdict, Accept)
    assert isinstance(verdict.input, SyncSeen)


def test_account_and_identity_need_no_key() -> None:
    did = Author.of().did
    account = frames.account_frame(1, did, active=False, status="suspended")
    verdict = step(incoming_frame(account, did, epoch=4), NOTHING)
    assert isinstance(verdict, Accept)
    assert isinstance(verdict.input, AccountSeen)
    assert (verdict.input.active, verdict.input.status, verdict.input.epoch) == (
        False,
        "suspended",
        4,
    )
    verdict = step(incoming_frame(frames.identity_frame(2, did, "alice.test"), did), NOTHING)
    assert isinstance(verdict, Accept)
    assert isinstance(verdict.input, IdentitySeen)
    assert verdict.input.handle == "alice.test"


def test_a_handle_that_is_none_is_left_out() -> None:
    did = Author.of().did
    frame = frames.identity_frame(2, did, "\0" * 1000)
    verdict = step(incoming_frame(frame, did), TRACKED)
    assert isinstance(verdict, Accept)
    assert isinstance(verdict.input, IdentitySeen)
    assert verdict.input.handle is None


# -- accounts that are not tracked --------------------------------------------------------------


def test_an_untracked_commit_without_a_wanted_path_is_dropped_before_verification() -> None:
    author = Author.of()
    frame = author.commit(UNWANTED, ops=[{"action": "create", "path": UNWANTED, "cid": None}])
    verdict = step(frame, NOTHING)
    assert verdict == Drop(Reason.UNTRACKED, kept=False)


def test_a_wanted_path_makes_an_unknown_account_wait_for_its_key() -> None:
    author = Author.of()
    assert step(author.commit(), NOTHING) == Park(look_up=True)


def test_a_sync_of_an_untracked_account_is_dropped() -> None:
    author = Author.of()
    frame = incoming_frame(frames.sync_frame(7, author.repo.sync()), author.did)
    assert step(frame, NOTHING) == Drop(Reason.UNTRACKED, kept=False)
    assert step(frame, NOTHING, rules(Repos.ALL)) == Park(look_up=True)


def test_a_listed_account_counts_whatever_it_writes() -> None:
    author = Author.of()
    listed = rules(Repos.LISTED, dids=frozenset({author.did}))
    assert step(author.commit(UNWANTED), NOTHING, listed) == Park(look_up=True)
    other = Author.of("other")
    assert step(other.commit(), NOTHING, listed) == Drop(Reason.UNTRACKED, kept=False)


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
    frame = incoming_frame(frames.sync_frame(7, commit, blocks=b"no CAR"), author.did)
    verdict = step(frame, known(author))
    assert isinstance(verdict, Accept)
    assert isinstance(verdict.input, SyncUnverifiable)


# -- waiting behind others --------------------------------------------------------------------


def test_frames_wait_behind_those_that_wait() -> None:
    author = Author.of()
    waiting = known(author, queue=queue(5, 500))
    assert step(author.commit(), waiting) == Park(look_up=False)
    account = incoming_frame(frames.account_frame(9, author.did, active=True), author.did)
    assert step(account, waiting) == Park(look_up=False)
    renewed = incoming_frame(frames.identity_frame(9, author.did), author.did)
    assert step(renewed, waiting) == Park(look_up=True)


def test_beyond_the_limit_the_repo_is_given_up() -> None:
    author, few = Author.of(), rules(parked_frames=5)
    assert step(author.commit(), known(author, queue=queue(4, 400)), few) == Park(look_up=False)
    verdict = step(author.commit(), known(author, queue=queue(5, 500)), few)
    assert isinstance(verdict, Accept)
    assert isinstance(verdict.input, CommitUnverifiable)
    assert (verdict.input.reason, verdict.input.rev) == (Reason.PARKED_OVERFLOW, None)


def test_the_bytes_that_wait_are_limited_too() -> None:
    author, few = Author.of(), rules(parked_bytes=1_000)
    assert step(author.commit(), known(author, queue=queue(1, 999)), few) == Park(look_up=False)
    verdict = step(author.commit(), known(author, queue=queue(1, 1_000)), few)
    assert isinstance(verdict, Accept)
    assert isinstance(verdict.input, CommitUnverifiable)
    assert verdict.input.reason is Reason.PARKED_OVERFLOW


def test_beyond_the_limit_an_account_s_status_is_still_taken() -> None:
    author, few = Author.of(), rules(parked_frames=5)
    account = incoming_frame(frames.account_frame(9, author.did, active=False), author.did)
    verdict = step(account, known(author, queue=queue(5, 500)), few)
    assert isinstance(verdict, Accept)
    assert isinstance(verdict.input, AccountSeen)


def test_beyond_the_limit_the_status_of_an_account_without_a_repo_keeps_its_place() -> None:
    author, few = Author.of(), rules(parked_frames=5)
    account = incoming_frame(frames.account_frame(9, author.did, active=True), author.did)
    for waiting in (queue(5, 500), queue(9, 900)):
        stranger = known(author, tracked=False, queue=waiting)
        assert step(account, stranger, few) == Park(look_up=False)
    crowd = known(author, tracked=False, queue=queue(10, 1_000))
    assert isinstance(step(account, crowd, few), Accept)


# -- what cannot be read ----------------------------------------------------------------------


def refusal(frame: IncomingFrame) -> Refused:
    with pytest.raises(Refused) as raised:
        verdicts.decode(frame, rules().frame)
    unreadable = verdicts.read(frame, rules()).content
    assert isinstance(unreadable, Refused)
    assert unreadable.reason is raised.value.reason
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
    assert refusal(incoming_frame(frame, "did:plc:x")).reason is reason


def test_an_unreadable_frame_of_a_tracked_account_is_missed() -> None:
    why = Refused(Reason.FRAME_MALFORMED, "nonsense")
    frame = unread(incoming_frame(b"\xff", "did:plc:x", 5), why)
    verdict = judge(frame, TRACKED, rules(), NOW)
    assert isinstance(verdict, Accept)
    assert isinstance(verdict.input, CommitUnverifiable)
    assert (verdict.input.did, verdict.input.reason) == ("did:plc:x", Reason.FRAME_MALFORMED)
    assert verdict.input.origin.time == to_text(NOW)
    kept = Drop(Reason.FRAME_MALFORMED, "nonsense")
    assert judge(frame, NOTHING, rules(), NOW) == kept
    stranger = unread(replace(frame.incoming, key="stranger"), why)
    assert judge(stranger, NOTHING, rules(Repos.ALL), NOW) == kept


def test_a_quarantined_frame_is_not_looked_at_and_does_not_wait() -> None:
    frame = unread(Author.of().commit(), Refused(Reason.STALLED, "deadly"))
    for account in (TRACKED, NOTHING, replace(TRACKED, queue=queue(1, 100))):
        assert judge(frame, account, rules(), NOW) == Drop(Reason.STALLED, "deadly")


# -- parked frames, and what must be known ------------------------------------------------------


def test_the_next_parked_frame_waits_behind_nothing() -> None:
    author = Author.of()
    frame = verdicts.read(author.commit(UNWANTED), rules())
    account = known(author, tracked=False, queue=queue(3, 300))
    assert judge(frame, account, rules(), NOW) == Park(look_up=False)
    verdict = judge_next(frame, account, rules(), NOW)
    assert isinstance(verdict, Accept)
    assert isinstance(verdict.input, CommitSeen)


def test_what_must_be_known_is_asked_only_of_what_is_not_cached() -> None:
    wanted, unwanted, cached = (Author.of(seed) for seed in ("wanted", "unwanted", "cached"))
    cache = LaneCache()
    cache.track(cached.did)
    cache.learn(identity(cached.account))
    unreadable = Refused(Reason.FRAME_MALFORMED)
    account = incoming_frame(
        frames.account_frame(9, "did:plc:account", active=True), "did:plc:account"
    )
    found = [
        verdicts.read(wanted.commit(), rules()),
        verdicts.read(unwanted.commit(UNWANTED), rules()),
        verdicts.read(cached.commit(UNWANTED), rules()),
        verdicts.read(account, rules()),
        unread(incoming_frame(b"", "did:plc:unreadable"), unreadable),
        unread(incoming_frame(b"", cached.did), unreadable),
        unread(incoming_frame(b"", "stranger"), unreadable),
    ]
    assert unknown(found, cache) == Unknown(
        repos={unwanted.did, "did:plc:unreadable"}, identities={wanted.did, unwanted.did}
    )
