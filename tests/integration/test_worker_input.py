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
from consumer.metrics import Stage
from simulator import frames
from simulator.account import Account
from simulator.repo import Repo, Write, sign_commit, tid
from simulator.tree import cid_of
from tests.support.eventually import eventually
from tests.support.worker import World

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
    def of(world: World, seed: str = "author") -> Author:
        account = Account.from_seed(seed)
        world.keys[account.did] = account.did_key
        return Author(account, Repo(account))

    @property
    def did(self) -> str:
        return self.account.did

    def next_seq(self) -> int:
        self.seq += 1
        return self.seq

    def write(self, record: Any = None, rkey: str | None = None, **fields: Any) -> bytes:
        """Return the frame of a commit that creates a record; ``fields`` spoil it."""
        seq = self.next_seq()
        write = Write("create", f"{COLLECTION}/{rkey or f'r{seq}'}", record or {"n": seq})
        return frames.commit_frame(seq, self.repo.commit([write]), **fields)


def refused(reason: Reason) -> float:
    return float(metrics.REFUSED.labels(reason, Stage.WORKER)._value.get())


# -- one by one -------------------------------------------------------------------------------


def forged(author: Author) -> bytes:
    """Somebody else signs, with a key of the same kind."""
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


async def test_bad_input_is_counted_kept_and_passed(world: World) -> None:
    author = Author.of(world)
    before = {reason: refused(reason) for _, reason in BAD}
    async with world.fetching(), world.owning(author.did):
        await _forward(world, author, [author.write(rkey="first")])
        sent = []
        for spoil, _ in BAD:
            sent.append(spoil(author))
            await _forward(world, author, [sent[-1]])
            await _forward(world, author, [author.write(rkey=f"after-{spoil.__name__}")])
        await world.settled()
    letters = await world.dead_letters()
    assert [(reason, record.value) for reason, record in letters] == [
        (reason, frame) for frame, (_, reason) in zip(sent, BAD, strict=True)
    ]
    for reason, count in before.items():
        expected = sum(reason is other for _, other in BAD)
        assert refused(reason) - count == expected, reason
    rkeys = {event["rkey"] for event in await world.events() if event["type"] == "record"}
    assert rkeys == {"first"} | {f"after-{spoil.__name__}" for spoil, _ in BAD}
    status, state, _ = (await world.repos())[author.did]
    assert (status, state) == ("active", "desynchronized")


async def _forward(world: World, author: Author, sent: list[bytes]) -> None:
    """Forward the newest frames of ``author``, whatever is in them."""
    first = author.seq - len(sent) + 1
    await world.send(
        [world.record(frame, author.did, seq) for seq, frame in enumerate(sent, first)]
    )


async def test_a_dead_letter_says_where_it_came_from(world: World) -> None:
    author = Author.of(world)
    async with world.fetching(), world.owning(author.did):
        await _forward(world, author, [author.write(), garbage(author)])
        await world.settled()
    [(reason, letter)] = await world.dead_letters()
    lane = world.topics.partition_of(author.did)
    [_, source] = await world.everything(Topic.FIREHOSE, lane)
    headers = dict(letter.headers)
    assert reason == Reason.FRAME_MALFORMED
    assert headers["source"].decode() == f"{source.topic}/{lane}/{source.offset}"
    assert headers["detail"]
    assert headers["seq"] == b"2"
    assert letter.key == author.did.encode()


async def test_a_record_with_a_float_is_published_as_bytes(world: World) -> None:
    author = Author.of(world)
    block = libipld.encode_dag_cbor({"score": 1.5})
    async with world.fetching(), world.owning(author.did):
        await _forward(world, author, [author.write(block), author.write()])
        await world.settled()
    odd, plain = [event for event in await world.events() if event["type"] == "record"]
    assert (odd["record"], "recordCbor" in odd) == (None, True)
    assert plain["record"] == {"n": 2}
    assert await world.dead_letters() == []


async def test_a_thousand_malformed_frames_in_a_row(world: World) -> None:
    author = Author.of(world)
    async with world.fetching(), world.owning(author.did):
        await _forward(world, author, [author.write(rkey="before")])
        did = author.did
        await world.send(
            [world.record(b"\xff%d" % n, did, author.next_seq()) for n in range(1_000)]
        )
        await _forward(world, author, [author.write(rkey="after")])
        await world.settled()
    letters = await world.dead_letters()
    assert [record.value for _, record in letters] == [b"\xff%d" % n for n in range(1_000)]
    events = [event for event in await world.events() if event["type"] == "record"]
    assert [event["rkey"] for event in events] == ["before", "after"]


async def test_records_that_no_tailer_wrote_are_refused(world: World) -> None:
    author = Author.of(world)
    async with world.fetching(), world.owning(author.did):
        record = world.record(author.write(rkey="before"), author.did, author.seq)
        await world.send([record, record._replace(headers=(), value=b"hello")])
        await _forward(world, author, [author.write(rkey="after")])
        await world.settled()
    [(reason, letter)] = await world.dead_letters()
    assert (reason, letter.value) == (Reason.FRAME_MALFORMED, b"hello")
    events = [event for event in await world.events() if event["type"] == "record"]
    assert [event["rkey"] for event in events] == ["before", "after"]


# -- keys -------------------------------------------------------------------------------------


async def test_frames_wait_for_the_answer_and_leave_in_order(world: World) -> None:
    author = Author.of(world)
    async with world.owning(author.did):
        await _forward(world, author, [author.write() for _ in range(3)])
        await world.consumed()
        assert await world.rows("SELECT did, kind FROM lookups") == [(author.did, "identity")]
        assert await world.rows("SELECT seq FROM parked ORDER BY log_offset") == [(1,), (2,), (3,)]
        assert await world.events() == []
        assert await world.answer_once() == 1
        await world.settled()
    assert [e["seq"] for e in await world.events() if e["type"] == "record"] == [1, 2, 3]
    assert (await world.repos())[author.did] == ("active", "active", None)
    assert await world.rows("SELECT * FROM parking") == []


async def test_frames_wait_across_a_restart(world: World) -> None:
    author = Author.of(world)
    async with world.owning(author.did):
        await _forward(world, author, [author.write()])
        await world.consumed()
    async with world.fetching(), world.owning(author.did):
        await _forward(world, author, [author.write()])
        await world.settled()
    assert [e["seq"] for e in await world.events() if e["type"] == "record"] == [1, 2]


async def test_without_a_key_frames_end_in_the_dead_letter(world: World) -> None:
    author = Author.of(world)
    sent = [author.write(), author.write()]
    async with world.owning(author.did):
        await _forward(world, author, sent)
        await world.consumed()
        await world.tell(world.identity(author.did, signing_key=None, pds=None, error="gone"))
        await world.settled()
    letters = await world.dead_letters()
    assert [(reason, r.value) for reason, r in letters] == [
        (Reason.KEY_UNAVAILABLE, frame) for frame in sent
    ]


async def test_a_rotated_key_is_fetched_once_and_the_frames_flow(world: World) -> None:
    author = Author.of(world)
    settings = _refreshing(world, 0.2)
    async with world.fetching(), world.owning(author.did, settings):
        await _forward(world, author, [author.write()])
        await world.settled()
        rotated = Account.from_seed("rotated", did=author.did)
        world.keys[author.did] = rotated.did_key
        author.repo.account = rotated
        await _forward(world, author, [author.write(), author.write()])
        await world.settled()
    assert [e["seq"] for e in await world.events() if e["type"] == "record"] == [1, 2, 3]
    assert await world.dead_letters() == []
    assert (await world.repos())[author.did][1] == "active"


async def test_too_many_waiting_frames_give_the_repo_up(world: World) -> None:
    author = Author.of(world)
    limits = world.settings.limits.model_copy(update={"parked_frames": 3})
    settings = world.settings.model_copy(update={"limits": limits})
    sent = [author.write() for _ in range(5)]
    async with world.owning(author.did, settings):
        await _forward(world, author, sent)
        await world.consumed()
        assert await world.rows("SELECT count(*) FROM parked") == [(3,)]
        assert (await world.repos())[author.did][1] == "desynchronized"
        await world.answer_once()
        await world.settled()
    letters = await world.dead_letters()
    assert [(reason, r.value) for reason, r in letters] == [
        (Reason.PARKED_OVERFLOW, frame) for frame in sent[3:]
    ]
    assert [e["seq"] for e in await world.events() if e["type"] == "record"] == [1, 2, 3]


def _refreshing(world: World, seconds: float) -> Any:
    identity = world.settings.identity.model_copy(update={"refresh_interval": seconds})
    return world.settings.model_copy(update={"identity": identity})


# -- accounts ---------------------------------------------------------------------------------


async def test_a_confirmed_deletion_takes_every_record(world: World) -> None:
    author = Author.of(world)
    async with world.fetching(), world.owning(author.did):
        await _forward(world, author, [author.write(), author.write()])
        gone = frames.account_frame(author.next_seq(), author.did, active=False, status="deleted")
        await _forward(world, author, [gone])
        await eventually(lambda: _status(world, author.did, "deleted"))
        await world.settled()
    assert await world.stored() == {}
    assert await world.folded() == {}
    lane = world.topics.partition_of(author.did)
    tombstones = [r for r in await world.everything(Topic.EVENTS, lane) if r.value is None]
    assert len(tombstones) == 2


async def _status(world: World, did: str, status: str) -> bool:
    known = (await world.repos()).get(did)
    return known is not None and known[0] == status


async def test_untracked_accounts_cost_nothing(world: World) -> None:
    author = Author.of(world)
    others = [Account.from_seed(f"other{n}", did=author.did[:-1] + str(n)) for n in range(3)]

    def noise() -> Iterator[bytes]:
        for account in others:
            unwanted = Write("create", "app.bsky.feed.post/x", {})
            yield frames.commit_frame(author.next_seq(), Repo(account).commit([unwanted]))
            yield frames.identity_frame(author.next_seq(), account.did)
            yield frames.account_frame(author.next_seq(), account.did, active=True)
            yield frames.sync_frame(author.next_seq(), Repo(account).sync())

    async with world.working():
        await world.publish([author.write(), *noise()])
        await world.consumed()
        await world.answer_once()
        await world.settled()
    assert set(await world.repos()) == {author.did}
    assert await world.rows("SELECT * FROM lookups") == []
    assert await world.dead_letters() == []
