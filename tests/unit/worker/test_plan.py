from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any
from uuid import UUID

import pytest

from consumer import backfill
from consumer.backfill import AccountAnswer, Cause, IdentityAnswer, LookupKind, Message
from consumer.dead_letters import InputRecord, InputTopic
from consumer.errors import Reason, Refused
from consumer.events.envelope import Origin, Source
from consumer.state.effects import Lookup, Rejection
from consumer.state.inputs import (
    AccountLearnt,
    ChunkSeen,
    CommitSeen,
    CommitUnverifiable,
    IdentityLearnt,
    Lost,
    ProofSeen,
    Quarantined,
)
from consumer.store.rows import Lane, LookupRequest, Parking
from consumer.worker import incoming, verdicts
from consumer.worker.cache import LaneCache
from consumer.worker.incoming import IncomingFrame, MalformedRecord
from consumer.worker.plan import Plan
from consumer.worker.verdicts import ReadFrame, Rules, unread
from procedures import times
from simulator.account import Account
from simulator.frames import identity_frame
from simulator.repo import Repo
from tests.unit.worker.frames import NOW, Author, identity, incoming_frame, rules
from tests.unit.worker.values import WANTED, chunk, proof

LANE = Lane(3, UUID(int=7), firehose_offset=100, backfill_offset=50, last_seq=40, epoch=1)


@dataclass
class Record:
    """A Kafka record of the backfill topic."""

    value: bytes | None
    offset: int = 50
    timestamp: int = round(NOW * 1000)
    key: bytes | None = b"key"
    headers: tuple[tuple[str, bytes], ...] = field(default=())


def plan(cache: LaneCache | None = None, settings: Rules | None = None) -> Plan:
    return Plan(LANE, cache or LaneCache(), settings or rules(), NOW)


def read(frame: IncomingFrame) -> ReadFrame:
    found = verdicts.read(frame, rules())
    assert not isinstance(found.content, Refused)
    return found


def take(to: Plan, *frames: IncomingFrame) -> None:
    for frame in frames:
        to.frame(read(frame))


def again(to: Plan, *frames: IncomingFrame) -> list[bool]:
    """Try parked frames again."""
    returned = [incoming.of_parked(incoming.to_parked(frame)) for frame in frames]
    return [to.parked_frame(read(frame)) for frame in returned]


def answer(message: Message) -> Record:
    return Record(backfill.encode(message), key=message.did.encode())


def answered(account: Account, fetched_at: float = NOW + 1, **fields: Any) -> Record:
    known = {"signing_key": account.did_key, "pds": "https://pds.test"}
    return answer(
        IdentityAnswer(**{"did": account.did, "fetched_at": fetched_at, **known, **fields})
    )


def knowing(author: Author, **fields: Any) -> LaneCache:
    cache = LaneCache()
    cache.learn(identity(author.account, **fields))
    return cache


# -- positions --------------------------------------------------------------------------------


def test_the_position_moves_with_every_input() -> None:
    author = Author.of()
    batch = plan(knowing(author))
    take(batch, replace(author.commit(), offset=100, seq=41, epoch=2))
    batch.malformed_record(
        MalformedRecord(Record(b"", offset=101), Refused(Reason.FRAME_MALFORMED))
    )
    batch.message(Record(b"", offset=57))
    assert batch.position == replace(
        LANE, firehose_offset=102, backfill_offset=58, last_seq=41, epoch=2
    )
    assert batch.size == 3
    assert [letter.source for letter in batch.dead] == [
        InputRecord(InputTopic.FIREHOSE, 3, 101),
        InputRecord(InputTopic.BACKFILL, 3, 57),
    ]


# -- parking ----------------------------------------------------------------------------------


def test_frames_wait_for_a_key_and_are_taken_in_order() -> None:
    author, cache = Author.of(), LaneCache()
    frames = [author.commit() for _ in range(3)]
    first = plan(cache)
    take(first, *frames)
    assert (first.inputs, len(first.parks), first.touched) == ([], 3, {author.did})
    assert list(first.lookups.values()) == [LookupRequest(author.did, "identity", 3)]

    told = plan(cache)
    told.message(answered(author.account))
    assert [type(p.input) for p in told.inputs] == [IdentityLearnt]
    assert cache.ready() == [author.did]

    last = plan(cache)
    assert again(last, *frames) == [True, True, True]
    assert [p.input.origin.seq for p in last.inputs] == [1, 2, 3]
    assert all(isinstance(p.input, CommitSeen) for p in last.inputs)
    assert last.decided == {author.did: 3}
    assert cache.queues == {}


def test_what_comes_while_frames_are_taken_again_waits_behind_them() -> None:
    author, cache = Author.of(), LaneCache()
    frames = [author.commit() for _ in range(4)]
    take(plan(cache), *frames[:2])
    plan(cache).message(answered(author.account))
    batch = plan(cache)
    take(batch, frames[2])
    assert len(batch.parks) == 1
    assert again(batch, *frames[:2]) == [True, True]
    assert cache.queues[author.did].frames == 1
    assert cache.ready() == [author.did]
    rest = plan(cache)
    again(rest, frames[2])
    take(rest, frames[3])
    assert [p.input.origin.seq for p in rest.inputs] == [3, 4]


def test_a_key_that_does_not_fit_is_fetched_again_not_before_the_interval() -> None:
    author, stranger = Author.of(), Account.from_seed("stranger")
    cache = knowing(author, signing_key=stranger.did_key, fetched_at=NOW - 20)
    batch = plan(cache)
    take(batch, author.commit())
    [lookup] = batch.lookups.values()
    assert lookup.delay == 40.0


def test_a_key_fetched_before_the_frame_came_leaves_it_waiting() -> None:
    author, stranger, cache = Author.of(), Account.from_seed("stranger"), LaneCache()
    frames = [author.commit(), author.commit()]
    take(plan(cache), *frames)
    wrong = {"signing_key": stranger.did_key}
    plan(cache).message(answered(author.account, fetched_at=NOW - 5, **wrong))
    batch = plan(cache)
    assert again(batch, frames[0]) == [False]
    assert batch.decided == {}
    assert cache.queues[author.did].frames == 2
    assert cache.ready() == []
    [lookup] = batch.lookups.values()
    assert lookup.delay == 55.0


@pytest.mark.parametrize("curve", ["k256", "p256"])
def test_a_rotated_key_is_found_by_one_lookup(curve: str) -> None:
    before = Author.of()
    author = Author.of("rotated", curve)
    cache = knowing(author, signing_key=before.account.did_key)
    frames = [author.commit() for _ in range(3)]
    first = plan(cache)
    take(first, *frames)
    assert list(first.lookups.values()) == [LookupRequest(author.did, "identity", 3)]
    plan(cache).message(answered(author.account))
    second = plan(cache)
    assert again(second, *frames) == [True, True, True]
    take(second, author.commit(), author.commit())
    assert [type(planned.input) for planned in second.inputs] == [CommitSeen] * 5
    assert second.lookups == {}


def test_a_flood_of_bad_signatures_is_one_lookup_an_interval() -> None:
    """Ten forged frames a second for ten minutes, and a fetcher that answers as soon as it may."""
    author, cache = Author.of(), LaneCache()
    account = Account.from_seed("forger", did=author.did)
    forger = Author(account, Repo(account))
    forged = [forger.commit() for _ in range(10)]
    due: float | None = None
    asked: list[float] = []
    parked: list[IncomingFrame] = []
    refused = 0
    for now in [NOW + second for second in range(600)]:
        batch = Plan(LANE, cache, rules(), now)
        if due is not None and due <= now:
            due = None
            asked.append(now)
            batch.message(answered(author.account, fetched_at=now))
        while cache.ready() and all(again(batch, parked[0])):
            parked.pop(0)
        take(batch, *(replace(frame, log_time=round(now * 1000)) for frame in forged))
        parked += [incoming.of_parked(frame) for frame in batch.parks]
        refused += sum(isinstance(one.input, CommitUnverifiable) for one in batch.inputs)
        for lookup in batch.lookups.values():
            due = min(now + lookup.delay, due or now + lookup.delay)
    assert refused + len(parked) == 6_000
    assert refused > 5_000
    waits = [later - sooner for sooner, later in pairwise(asked)]
    assert len(waits) >= 8
    assert min(waits) >= rules().refresh_interval


def test_an_error_refuses_what_waits() -> None:
    author, cache = Author.of(), LaneCache()
    frame = author.commit()
    take(plan(cache), frame)
    plan(cache).message(answered(author.account, signing_key=None, pds=None, error="tombstoned"))
    batch = plan(cache)
    assert again(batch, frame) == [True]
    [planned] = batch.inputs
    assert isinstance(planned.input, CommitUnverifiable)
    assert (planned.input.reason, planned.input.detail) == (Reason.KEY_UNAVAILABLE, "tombstoned")
    letter = planned.dead_letter(Rejection(Reason.KEY_UNAVAILABLE), 3)
    assert letter.value == frame.frame
    assert letter.source == InputRecord(InputTopic.FIREHOSE, 3, frame.offset)


def test_after_a_restart_parked_frames_are_known() -> None:
    author = Author.of()
    author.commit()
    cache = LaneCache([Parking(author.did, ready=False, frames=1, size=100)])
    batch = plan(cache)
    frame = author.commit()
    take(batch, frame)
    assert cache.queues[author.did].frames == 2
    assert cache.queues[author.did].size == 100 + len(frame.frame)
    assert cache.parked_frames() == 2


def test_a_parked_frame_that_crashed_its_worker_is_refused() -> None:
    author, cache = Author.of(), LaneCache()
    frame = author.commit()
    take(plan(cache), frame)
    batch = plan(cache)
    returned = incoming.of_parked(incoming.to_parked(frame))
    assert batch.parked_frame(unread(returned, Refused(Reason.STALLED, "deadly")))
    assert cache.queues == {}
    assert [p.input for p in batch.inputs] == [
        Quarantined(author.did, frame=True, origin=incoming.origin_of(frame, None))
    ]
    assert [letter.reason for letter in batch.dead] == [Reason.STALLED]


def test_a_live_frame_that_crashed_its_worker_leaves_a_question() -> None:
    author, cache = Author.of(), LaneCache()
    batch = plan(cache)
    batch.frame(unread(author.commit(), Refused(Reason.STALLED, "deadly")))
    assert [type(p.input) for p in batch.inputs] == [Quarantined]
    batch.frame(unread(incoming_frame(b"x", "no DID", 9), Refused(Reason.STALLED, "deadly")))
    assert len(batch.inputs) == 1
    assert [letter.reason for letter in batch.dead] == [Reason.STALLED] * 2


def test_a_message_that_crashed_its_worker_is_asked_for_again() -> None:
    author, cache = Author.of(), LaneCache()
    take(plan(cache), author.commit())
    batch = plan(cache)
    batch.message(answered(author.account), Refused(Reason.STALLED, "deadly"))
    [planned] = batch.inputs
    assert isinstance(planned.input, Quarantined)
    assert (planned.input.did, planned.input.frame) == (author.did, False)
    assert set(batch.lookups) == {(author.did, LookupKind.IDENTITY)}
    assert [letter.reason for letter in batch.dead] == [Reason.STALLED]


def test_an_unreadable_frame_waits_behind_others() -> None:
    author, cache = Author.of(), LaneCache()
    batch = plan(cache)
    take(batch, author.commit())
    unreadable = incoming_frame(b"nonsense", author.did, 2)
    batch.frame(verdicts.read(unreadable, rules()))
    assert [frame.frame for frame in batch.parks][1:] == [b"nonsense"]
    assert (batch.inputs, batch.dead) == ([], [])
    few = plan(cache, rules(parked_frames=2))
    few.frame(verdicts.read(unreadable, rules()))
    assert [letter.reason for letter in few.dead] == [Reason.FRAME_MALFORMED]


# -- tracking ---------------------------------------------------------------------------------


def test_a_repo_is_tracked_from_its_first_wanted_commit_on() -> None:
    author = Author.of()
    cache = knowing(author)
    batch = plan(cache)
    take(batch, author.commit("app.bsky.feed.post"))
    assert batch.refused == {Reason.UNTRACKED: 1}
    assert batch.dead == []
    take(batch, author.commit(), author.commit("app.bsky.feed.post"))
    assert [p.input.origin.seq for p in batch.inputs] == [2, 3]
    assert author.did in cache.tracked


# -- answers and lookups ----------------------------------------------------------------------


def test_the_fetcher_s_answers_become_inputs() -> None:
    did = Author.of().did
    batch = plan()
    batch.message(answer(AccountAnswer(did, 1, 9, "deleted")))
    batch.message(answered(Account.from_seed("x"), handle="a\0" * 5_000))
    confirmed, learnt = (p.input for p in batch.inputs)
    assert isinstance(confirmed, AccountLearnt)
    assert (confirmed.origin.source, confirmed.origin.seq) == (Source.ACCOUNT, LANE.last_seq)
    assert isinstance(learnt, IdentityLearnt)
    [known] = batch.identities.values()
    assert known.handle is not None
    assert "\0" not in known.handle
    assert len(known.handle) <= 2_048


def test_only_the_newest_answer_of_a_batch_is_kept() -> None:
    account = Account.from_seed("x")
    batch = plan()
    batch.message(answered(account, fetched_at=NOW))
    batch.message(answered(account, fetched_at=NOW - 9))
    assert batch.identities[account.did].fetched_at == NOW
    newest = batch.cache.identities.get(account.did)
    assert newest is not None
    assert newest.fetched_at == NOW


def test_snapshots_and_proofs_become_inputs_in_their_order() -> None:
    batch = plan()
    batch.message(answer(chunk("7", last=False)))
    batch.message(answer(proof("6", WANTED, None)))
    first, second = (p.input for p in batch.inputs)
    time = times.to_text(NOW)
    backfill_of = Origin(Source.BACKFILL, LANE.last_seq, time, None, "op")
    assert first == ChunkSeen(chunk("7", last=False), backfill_of)
    assert second == ProofSeen(
        proof("6", WANTED, None), replace(backfill_of, source=Source.REFRESH)
    )
    assert (batch.position.backfill_offset, batch.dead) == (51, [])


def test_messages_that_cannot_be_for_this_lane_are_refused() -> None:
    batch = plan()
    batch.message(replace(answer(chunk("7")), key=b"did:plc:other"))
    batch.message(replace(answer(AccountAnswer("did:plc:x", 1, 9, "deleted")), key=None))
    batch.message(Record(None), Refused(Reason.STALLED))
    malformed = Reason.BACKFILL_MALFORMED
    assert [letter.reason for letter in batch.dead] == [malformed, malformed, Reason.STALLED]
    assert batch.inputs == []


def test_the_newest_frame_and_the_shortest_delay_make_the_lookup() -> None:
    batch = plan()
    batch.look_up(Lookup("did:plc:x", LookupKind.ACCOUNT, 2, 5, delay=9.0))
    batch.look_up(Lookup("did:plc:x", LookupKind.ACCOUNT, 1, 8, delay=3.0))
    batch.look_up(Lookup("did:plc:x", LookupKind.IDENTITY, 0, 0))
    assert sorted(batch.lookups.values(), key=str) == [
        LookupRequest("did:plc:x", "account", 3, 2, 5, 3.0),
        LookupRequest("did:plc:x", "identity", 3),
    ]


def test_a_frames_own_question_goes_before_a_sign_and_waits_for_no_answer() -> None:
    for causes in ((Cause.COMMIT, Cause.FRAME), (Cause.FRAME, Cause.COMMIT)):
        batch = plan()
        for cause in causes:
            batch.look_up(Lookup("did:plc:x", LookupKind.ACCOUNT, 2, 5, cause))
        [request] = batch.lookups.values()
        assert (request.cause, request.every) == (Cause.FRAME, 0.0)


def test_a_sign_waits_for_the_pause_between_two_answers() -> None:
    batch = plan()
    batch.look_up(Lookup("did:plc:x", LookupKind.ACCOUNT, 2, 5, Cause.COMMIT))
    [request] = batch.lookups.values()
    assert (request.cause, request.every) == (Cause.COMMIT, 3_600.0)


def test_an_announced_identity_is_fetched_at_most_once_in_an_interval() -> None:
    author = Author.of()
    batch = plan(knowing(author, fetched_at=NOW - 10))
    take(batch, incoming_frame(identity_frame(1, author.did), author.did))
    batch.look_up_wanted([Lookup(author.did, LookupKind.IDENTITY, 1, 1)])
    assert batch.lookups[author.did, "identity"].delay == 50.0


def test_an_identity_in_use_is_old_after_a_day() -> None:
    author = Author.of()
    cache = knowing(author, fetched_at=NOW - 24 * 3600 - 1)
    before = Plan(LANE, cache, rules(), NOW - 2)
    take(before, author.commit())
    assert before.lookups == {}
    batch = plan(cache)
    take(batch, author.commit())
    assert list(batch.lookups) == [(author.did, "identity")]


def test_an_old_identity_in_use_is_asked_about_once() -> None:
    author = Author.of()
    batch = plan(knowing(author, fetched_at=NOW - 25 * 3600))
    take(batch, author.commit(), author.commit())
    assert len(batch.inputs) == 2
    assert list(batch.lookups) == [(author.did, "identity")]
    later = Plan(LANE, batch.cache, batch.rules, NOW + 600)
    take(later, author.commit())
    assert later.lookups == {}


def test_what_overtakes_parked_frames_without_a_repo_doubts_the_account() -> None:
    author, cache, few = Author.of(), LaneCache(), rules(parked_frames=1)
    first = author.commit()
    batch = plan(cache, few)
    for frame in (first, author.commit()):
        batch.frame(read(frame))
    assert cache.parkings(batch.touched) == [
        Parking(author.did, ready=False, frames=1, size=len(first.frame), doubted=True)
    ]
    cache.learn(identity(author.account))
    batch = plan(cache, few)
    assert again(batch, first) == [True]
    assert [type(planned.input) for planned in batch.inputs] == [CommitSeen, Lost]


def test_what_overtakes_parked_frames_of_a_repo_loses_nothing() -> None:
    author, cache, few = Author.of(), LaneCache(), rules(parked_frames=1)
    cache.track(author.did)
    first = author.commit()
    batch = plan(cache, few)
    for frame in (first, author.commit()):
        batch.frame(read(frame))
    assert not cache.queues[author.did].doubted


def test_a_doubted_account_is_marked_behind_the_last_of_its_parked_frames() -> None:
    author, cache = Author.of(), LaneCache()
    frames = [author.commit(), author.commit()]
    take(plan(cache), *frames)
    cache.doubt_parked()
    late = author.commit()
    take(plan(cache), late)
    cache.learn(identity(author.account))
    batch = plan(cache)
    assert again(batch, *frames) == [True, True]
    assert [type(planned.input) for planned in batch.inputs] == [CommitSeen] * 2
    assert again(batch, late) == [True]
    assert [type(planned.input) for planned in batch.inputs[2:]] == [CommitSeen, Lost]
