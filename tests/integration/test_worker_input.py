"""What the network may send: each kind is counted, kept or marked, and the next commit flows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import libipld
import pytest

from consumer import metrics
from consumer.errors import Reason
from consumer.kafka.topics import Topic
from consumer.metrics.labels import Stage
from simulator import frames
from simulator.account import Account
from simulator.repo import Repo, Write, sign_commit, tid
from simulator.tree import cid_of
from tests.support.eventually import eventually
from tests.support.worker import WorkerHarness

pytestmark = pytest.mark.services

COLLECTION = "pub.chive.eprint.submission"
FAR_FUTURE = 4_102_444_800.0  # 2100-01-01


@dataclass
class Author:
    """An account with a repository, on a firehose of its own."""

    account: Account
    repo: Repo
    seq: int = 0

    @staticmethod
    def of(harness: WorkerHarness, seed: str = "author") -> Author:
        account = Account.from_seed(seed)
        harness.keys[account.did] = account.did_key
        return Author(account, Repo(account))

    @property
    def did(self) -> str:
        return self.account.did

    def next_seq(self) -> int:
        self.seq += 1
        return self.seq

    def write(self, record: Any = None, rkey: str | None = None, **fields: Any) -> bytes:
        """Return the frame of a commit that creates a record; ``fields`` replace its own."""
        seq = self.next_seq()
        write = Write("create", f"{COLLECTION}/{rkey or f'r{seq}'}", record or {"n": seq})
        return frames.commit_frame(seq, self.repo.commit([write]), **fields)


def refused(reason: Reason) -> float:
    return float(metrics.REFUSED.labels(reason, Stage.WORKER)._value.get())


# -- one by one -------------------------------------------------------------------------------


def forged(author: Author) -> bytes:
    """Return a commit signed by another account's key of the same curve."""
    seq, stranger = author.next_seq(), Account.from_seed("stranger", did=author.did)
    commit = author.repo.commit([Write("create", f"{COLLECTION}/forged", {})])
    signed = sign_commit(stranger, commit.rev, commit.data)
    blocks = {cid_of(signed): signed} | {c: b for c, b in commit.blocks.items() if c != commit.cid}
    return frames.commit_frame(seq, replace(commit, cid=cid_of(signed), blocks=blocks))


def wrong_inversion(author: Author) -> bytes:
    return author.write(prevData=cid_of(b"something else"))


def for_another_did(author: Author) -> bytes:
    other = Repo(Account.from_seed("other"), author.repo.clock)
    commit = other.commit([Write("create", f"{COLLECTION}/x", {})])
    return frames.commit_frame(author.next_seq(), commit, repo=author.did)


def future_rev(author: Author) -> bytes:
    return author.write(rev=tid(FAR_FUTURE))


def unknown_type(author: Author) -> bytes:
    return frames.frame("#video", {"seq": author.next_seq(), "did": author.did})


def garbage(author: Author) -> bytes:
    author.next_seq()
    return b"\xa2garbage"


def truncated(author: Author) -> bytes:
    return author.write()[:-1]


def two_frames_in_one(author: Author) -> bytes:
    return author.write() * 2


def lying_block(author: Author) -> bytes:
    frame = author.write({"text": "the honest text"})
    return frame.replace(b"the honest text", b"another one....")


def no_blocks(author: Author) -> bytes:
    return author.write(blocks=b"")


def too_many_ops(author: Author) -> bytes:
    seq = author.next_seq()
    writes = [Write("create", f"{COLLECTION}/many{n}", {}) for n in range(201)]
    return frames.commit_frame(seq, author.repo.commit(writes))


BAD = [
    (forged, Reason.SIGNATURE_INVALID),
    (wrong_inversion, Reason.INVERSION_FAILED),
    (for_another_did, Reason.COMMIT_MISMATCH),
    (future_rev, Reason.REV_FUTURE),
    (unknown_type, Reason.FRAME_UNKNOWN_TYPE),
    (garbage, Reason.FRAME_MALFORMED),
    (truncated, Reason.FRAME_MALFORMED),
    (two_frames_in_one, Reason.FRAME_MALFORMED),
    (lying_block, Reason.BLOCK_HASH),
    (no_blocks, Reason.CAR_INVALID),
    (too_many_ops, Reason.OPS_INVALID),
]


async def test_bad_input_is_counted_kept_and_passed(harness: WorkerHarness) -> None:
    author = Author.of(harness)
    before = {reason: refused(reason) for _, reason in BAD}
    async with harness.fetching(), harness.owning(author.did):
        await _forward(harness, author, [author.write(rkey="first")])
        sent = []
        for tampering, _ in BAD:
            sent.append(tampering(author))
            await _forward(harness, author, [sent[-1]])
            await _forward(harness, author, [author.write(rkey=f"after-{tampering.__name__}")])
        await harness.settled()
    letters = await harness.dead_letters()
    assert [(reason, record.value) for reason, record in letters] == [
        (reason, frame) for frame, (_, reason) in zip(sent, BAD, strict=True)
    ]
    for reason, count in before.items():
        expected = sum(reason is other for _, other in BAD)
        assert refused(reason) - count == expected, reason
    rkeys = {event["rkey"] for event in await harness.events() if event["type"] == "record"}
    assert rkeys == {"first"} | {f"after-{tampering.__name__}" for tampering, _ in BAD}
    status, state, _ = (await harness.repos())[author.did]
    assert (status, state) == ("active", "desynchronized")


async def _forward(harness: WorkerHarness, author: Author, sent: list[bytes]) -> None:
    """Forward the newest frames of ``author``, whatever is in them."""
    first = author.seq - len(sent) + 1
    await harness.send(
        [harness.record(frame, author.did, seq) for seq, frame in enumerate(sent, first)]
    )


async def test_a_dead_letter_says_where_it_came_from(harness: WorkerHarness) -> None:
    author = Author.of(harness)
    async with harness.fetching(), harness.owning(author.did):
        await _forward(harness, author, [author.write(), garbage(author)])
        await harness.settled()
    [(reason, letter)] = await harness.dead_letters()
    lane = harness.topics.partition_of(author.did)
    [_, source] = await harness.committed(Topic.FIREHOSE, lane)
    headers = dict(letter.headers)
    assert reason == Reason.FRAME_MALFORMED
    assert headers["source"].decode() == f"{source.topic}/{lane}/{source.offset}"
    assert headers["detail"]
    assert headers["seq"] == b"2"
    assert letter.key == author.did.encode()


async def test_a_record_with_a_float_is_published_as_bytes(harness: WorkerHarness) -> None:
    author = Author.of(harness)
    block = libipld.encode_dag_cbor({"score": 1.5})
    async with harness.fetching(), harness.owning(author.did):
        await _forward(harness, author, [author.write(block), author.write()])
        await harness.settled()
    odd, plain = [event for event in await harness.events() if event["type"] == "record"]
    assert (odd["record"], "recordCbor" in odd) == (None, True)
    assert plain["record"] == {"n": 2}
    assert await harness.dead_letters() == []


async def test_a_thousand_malformed_frames_in_a_row(harness: WorkerHarness) -> None:
    author = Author.of(harness)
    async with harness.fetching(), harness.owning(author.did):
        await _forward(harness, author, [author.write(rkey="before")])
        did = author.did
        await harness.send(
            [harness.record(b"\xff%d" % n, did, author.next_seq()) for n in range(1_000)]
        )
        await _forward(harness, author, [author.write(rkey="after")])
        await harness.settled()
    letters = await harness.dead_letters()
    assert [record.value for _, record in letters] == [b"\xff%d" % n for n in range(1_000)]
    events = [event for event in await harness.events() if event["type"] == "record"]
    assert [event["rkey"] for event in events] == ["before", "after"]


async def test_records_that_no_tailer_wrote_are_refused(harness: WorkerHarness) -> None:
    author = Author.of(harness)
    async with harness.fetching(), harness.owning(author.did):
        record = harness.record(author.write(rkey="before"), author.did, author.seq)
        await harness.send([record, record._replace(headers=(), value=b"hello")])
        await _forward(harness, author, [author.write(rkey="after")])
        await harness.settled()
    [(reason, letter)] = await harness.dead_letters()
    assert (reason, letter.value) == (Reason.FRAME_MALFORMED, b"hello")
    events = [event for event in await harness.events() if event["type"] == "record"]
    assert [event["rkey"] for event in events] == ["before", "after"]


# -- keys -------------------------------------------------------------------------------------


async def test_frames_wait_for_the_answer_and_leave_in_order(harness: WorkerHarness) -> None:
    author = Author.of(harness)
    async with harness.owning(author.did):
        await _forward(harness, author, [author.write() for _ in range(3)])
        await harness.consumed()
        assert await harness.rows("SELECT did, kind FROM lookups") == [(author.did, "identity")]
        assert await harness.rows("SELECT seq FROM parked ORDER BY log_offset") == [
            (1,),
            (2,),
            (3,),
        ]
        assert await harness.events() == []
        assert await harness.answer_once() == 1
        await harness.settled()
    assert [e["seq"] for e in await harness.events() if e["type"] == "record"] == [1, 2, 3]
    assert (await harness.repos())[author.did] == ("active", "active", None)
    assert await harness.rows("SELECT * FROM parking") == []


async def test_frames_wait_across_a_restart(harness: WorkerHarness) -> None:
    author = Author.of(harness)
    async with harness.owning(author.did):
        await _forward(harness, author, [author.write()])
        await harness.consumed()
    async with harness.fetching(), harness.owning(author.did):
        await _forward(harness, author, [author.write()])
        await harness.settled()
    assert [e["seq"] for e in await harness.events() if e["type"] == "record"] == [1, 2]


async def test_without_a_key_frames_end_in_the_dead_letter(harness: WorkerHarness) -> None:
    author = Author.of(harness)
    sent = [author.write(), author.write()]
    async with harness.owning(author.did):
        await _forward(harness, author, sent)
        await harness.consumed()
        await harness.tell(harness.identity(author.did, signing_key=None, pds=None, error="gone"))
        await harness.settled()
    letters = await harness.dead_letters()
    assert [(reason, r.value) for reason, r in letters] == [
        (Reason.KEY_UNAVAILABLE, frame) for frame in sent
    ]


async def test_a_rotated_key_is_fetched_once_and_the_frames_flow(harness: WorkerHarness) -> None:
    author = Author.of(harness)
    settings = _refreshing(harness, 0.2)
    async with harness.fetching(), harness.owning(author.did, settings):
        await _forward(harness, author, [author.write()])
        await harness.settled()
        rotated = Account.from_seed("rotated", did=author.did)
        harness.keys[author.did] = rotated.did_key
        author.repo.account = rotated
        await _forward(harness, author, [author.write(), author.write()])
        await harness.settled()
    assert [e["seq"] for e in await harness.events() if e["type"] == "record"] == [1, 2, 3]
    assert await harness.dead_letters() == []
    assert (await harness.repos())[author.did][1] == "active"


async def test_too_many_waiting_frames_give_the_repo_up(harness: WorkerHarness) -> None:
    author = Author.of(harness)
    limits = harness.settings.limits.model_copy(update={"parked_frames": 3})
    settings = harness.settings.model_copy(update={"limits": limits})
    sent = [author.write() for _ in range(5)]
    async with harness.owning(author.did, settings):
        await _forward(harness, author, sent)
        await harness.consumed()
        assert await harness.rows("SELECT count(*) FROM parked") == [(3,)]
        assert (await harness.repos())[author.did][1] == "desynchronized"
        await harness.answer_once()
        await harness.settled()
    letters = await harness.dead_letters()
    assert [(reason, r.value) for reason, r in letters] == [
        (Reason.PARKED_OVERFLOW, frame) for frame in sent[3:]
    ]
    assert [e["seq"] for e in await harness.events() if e["type"] == "record"] == [1, 2, 3]


def _refreshing(harness: WorkerHarness, seconds: float) -> Any:
    identity = harness.settings.identity.model_copy(update={"refresh_interval": seconds})
    return harness.settings.model_copy(update={"identity": identity})


# -- accounts ---------------------------------------------------------------------------------


async def test_a_confirmed_deletion_takes_every_record(harness: WorkerHarness) -> None:
    author = Author.of(harness)
    async with harness.fetching(), harness.owning(author.did):
        await _forward(harness, author, [author.write(), author.write()])
        gone = frames.account_frame(author.next_seq(), author.did, active=False, status="deleted")
        await _forward(harness, author, [gone])
        await eventually(lambda: _status(harness, author.did, "deleted"))
        await harness.settled()
    assert await harness.stored() == {}
    assert await harness.folded() == {}
    lane = harness.topics.partition_of(author.did)
    tombstones = [r for r in await harness.committed(Topic.EVENTS, lane) if r.value is None]
    assert len(tombstones) == 2


async def _status(harness: WorkerHarness, did: str, status: str) -> bool:
    known = (await harness.repos()).get(did)
    return known is not None and known[0] == status


async def test_untracked_accounts_cost_nothing(harness: WorkerHarness) -> None:
    author = Author.of(harness)
    others = [Account.from_seed(f"other{n}", did=author.did[:-1] + str(n)) for n in range(3)]

    def noise() -> Iterator[bytes]:
        for account in others:
            unwanted = Write("create", "app.bsky.feed.post/x", {})
            yield frames.commit_frame(author.next_seq(), Repo(account).commit([unwanted]))
            yield frames.identity_frame(author.next_seq(), account.did)
            yield frames.account_frame(author.next_seq(), account.did, active=True)
            yield frames.sync_frame(author.next_seq(), Repo(account).sync())

    async with harness.working():
        await harness.publish([author.write(), *noise()])
        await harness.consumed()
        await harness.answer_once()
        await harness.settled()
    assert set(await harness.repos()) == {author.did}
    assert await harness.rows("SELECT * FROM lookups") == []
    assert await harness.dead_letters() == []
