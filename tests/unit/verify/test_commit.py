"""Whole commits: good ones verify, and each broken rule is refused for its exact reason."""

from __future__ import annotations

import hashlib
import random
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from consumer.errors import Reason, Refused
from consumer.verify.commit import CommitLimits, Unverifiable, verify_commit, verify_sync
from consumer.verify.frames import CommitFrame, SyncFrame, decode_frame
from consumer.verify.keys import SigningKey
from consumer.verify.verified import EMPTY_TREE, Action, VerifiedCommit, VerifiedOp
from procedures.syntax import RAW_PREFIX
from simulator import tamper, tree
from simulator.account import Account
from simulator.frames import commit_frame, sync_frame
from simulator.repo import Commit, Op, Repo, Write, car, encode_signed, sign_commit, tid
from simulator.tree import cid_of

LIMITS = CommitLimits()
NOW = time.time()
CURVES = ("k256", "p256")
ACCOUNTS = {curve: Account.from_seed("test", curve) for curve in CURVES}


def decoded(commit: Commit, **fields: Any) -> CommitFrame:
    frame = decode_frame(commit_frame(1, commit, **fields))
    assert isinstance(frame, CommitFrame)
    return frame


def verify(commit: Commit, account: Account, **fields: Any) -> VerifiedCommit:
    key = SigningKey.from_did_key(account.did_key)
    return verify_commit(decoded(commit, **fields), key, LIMITS, NOW)


def history(account: Account, steps: int, seed: int = 0) -> Iterator[Commit]:
    """Make commits of one to five writes, among them such as change one collection only."""
    rng, repo = random.Random(seed), Repo(account)
    for step in range(steps):
        paths = sorted(repo.records)
        gone = rng.sample(paths, min(len(paths), rng.choice([0, 0, 0, 1, 2])))
        writes = [
            Write("delete", path)
            if rng.random() < 0.5
            else Write("update", path, {"step": step, "path": path})
            for path in gone
        ]
        for number in range(rng.choice([0, 1, 1, 1, 3])):
            path = f"com.example.{rng.choice('abc')}/{rng.randrange(10**6)}-{number}"
            writes.append(Write("create", path, {"step": step}))
        rng.shuffle(writes)
        yield repo.commit(writes)


@pytest.fixture(scope="module", params=CURVES)
def account(request: pytest.FixtureRequest) -> Account:
    return ACCOUNTS[request.param]


@pytest.fixture(scope="module")
def commit(account: Account) -> Commit:
    """Return a commit of three ops, the first a create, on a tree of a few levels."""
    repo = Repo(account)
    repo.commit([Write("create", f"a.b.c/{number}", {"n": number}) for number in range(150)])
    return repo.commit(
        [
            Write("create", "a.b.c/new", {"n": "new"}),
            Write("update", "a.b.c/7", {"n": "changed"}),
            Write("delete", "a.b.c/99"),
        ]
    )


def test_a_history_of_commits(account: Account) -> None:
    data = EMPTY_TREE
    for commit in history(account, 80):
        verified = verify(commit, account)
        assert verified.prev_data == data
        assert verified.data == commit.data
        assert (verified.did, verified.rev, verified.since) == (
            account.did,
            commit.rev,
            commit.since,
        )
        data = verified.data
        for op, made in zip(verified.ops, commit.ops, strict=True):
            record = None if made.cid is None else commit.blocks[made.cid]
            expected = VerifiedOp(Action(made.action), made.path, made.cid, made.prev, record)
            assert op == expected


def test_the_order_of_ops_does_not_matter(account: Account) -> None:
    rng = random.Random(5)
    for commit in history(account, 40, seed=1):
        ops = list(commit.ops)
        rng.shuffle(ops)
        assert verify(replace(commit, ops=tuple(ops)), account).prev_data == commit.prev_data


def test_genesis_needs_no_prev_data(account: Account) -> None:
    commit = Repo(account).commit([Write("create", "a.b.c/1", {}), Write("create", "a.b.c/2", {})])
    assert commit.since is None
    assert verify(replace(commit, prev_data=None), account).prev_data == EMPTY_TREE


def test_what_only_pretends_to_be_genesis(account: Account, commit: Commit) -> None:
    pretended = replace(commit, since=None, prev_data=None)
    assert refused(pretended, account).reason is Reason.INVERSION_FAILED


def test_no_ops(account: Account) -> None:
    repo = Repo(account)
    first = repo.commit([])
    assert verify(first, account).data == EMPTY_TREE
    repo.commit([Write("create", "a.b.c/1", {})])
    again = repo.sync()
    assert verify(again, account).ops == ()


def test_dead_fields_say_nothing(account: Account, commit: Commit) -> None:
    verify(commit, account, tooBig=True, rebase=True, blobs=[commit.cid])


def test_blocks_that_are_not_needed(account: Account, commit: Commit) -> None:
    extra = b"whatever"
    verify(replace(commit, blocks=commit.blocks | {cid_of(extra): extra}), account)


@pytest.mark.parametrize(
    "record",
    [tamper.FLOAT_RECORD, b"\xff", b"", b"\x81" * 5000 + b"\x00", bytes(1_200_000)],
    ids=["float", "not CBOR", "empty", "deep", "big"],
)
def test_bad_records_do_not_poison_their_commit(account: Account, record: bytes) -> None:
    repo = Repo(account)
    made = repo.commit([Write("create", "a.b.c/bad", record), Write("create", "a.b.c/ok", {})])
    assert verify(made, account).ops[0].record == record


ODD = ("a.b.c_d/1", "pub.chive.Eprint.submission/1", "a.b.c/x@y", "no path")


@pytest.mark.parametrize("path", ODD)
def test_an_op_that_is_not_about_a_record_is_left_out(account: Account, path: str) -> None:
    repo = Repo(account)
    repo.commit([Write("create", f"a.b.c/{number}", {"n": number}) for number in range(40)])
    writes = [Write("create", path, {"n": 1}), Write("create", "a.b.c/good", {})]
    for made in (
        repo.commit(writes),
        repo.commit([Write("update", path, {"n": 2}), Write("update", "a.b.c/1", {"n": 99})]),
        repo.commit([Write("delete", path), Write("delete", "a.b.c/2")]),
    ):
        verified = verify(made, account)
        assert (verified.prev_data, verified.data) == (made.prev_data, made.data)
        assert [op.path for op in verified.ops] == [
            op.path for op in made.ops if op.path.startswith("a.b.c/") and op.path != path
        ]
        assert verified.left_out == ((Reason.PATH_INVALID, 1),)


def test_a_record_without_bytes_is_unknown(account: Account, commit: Commit) -> None:
    verified = verify(tamper.without_block(commit, commit.ops[0].cid), account)
    assert verified.unknown == (commit.ops[0].path,)
    assert [op.path for op in verified.ops] == [op.path for op in commit.ops[1:]]
    assert verified.prev_data == commit.prev_data


def test_a_value_that_is_raw_bytes_is_no_record(account: Account) -> None:
    data, blob = b"bytes", RAW_PREFIX + hashlib.sha256(b"bytes").digest()
    old, new = cid_of(b"\xa0"), cid_of(b"\xa1aa\x01")
    before, _ = tree.plain({"a.b.c/1": old, "a.b.c/2": old})
    after, nodes = tree.plain({"a.b.c/1": blob, "a.b.c/2": new, "a.b.c/3": blob})
    rev, since = tid(2), tid(1)
    block = sign_commit(account, rev, after)
    head = cid_of(block)
    ops = (
        Op("update", "a.b.c/1", blob, old),
        Op("update", "a.b.c/2", new, old),
        Op("create", "a.b.c/3", blob, None),
    )
    blocks = {head: block, **nodes, new: b"\xa1aa\x01", blob: data}
    made = Commit(account.did, rev, since, head, after, before, ops, blocks)
    verified = verify(made, account)
    assert [(op.action, op.path) for op in verified.ops] == [
        ("delete", "a.b.c/1"),
        ("update", "a.b.c/2"),
    ]
    assert verified.left_out == ((Reason.RECORD_RAW, 2),)


def refused(commit: Commit, account: Account) -> Refused:
    with pytest.raises(Refused) as caught:
        verify(commit, account)
    return caught.value


@pytest.mark.parametrize(
    "tampering", tamper.BEFORE_SIGNATURE, ids=lambda tampering: tampering.__name__
)
def test_refused_before_the_signature(
    tampering: tamper.Tampering, commit: Commit, account: Account
) -> None:
    error = refused(tampering(commit, account), account)
    assert error.reason == tamper.BEFORE_SIGNATURE[tampering], error.detail
    assert not isinstance(error, Unverifiable)
    verify(commit, account)


@pytest.mark.parametrize(
    "tampering", tamper.AFTER_SIGNATURE, ids=lambda tampering: tampering.__name__
)
def test_refused_after_the_signature(
    tampering: tamper.Tampering, commit: Commit, account: Account
) -> None:
    error = refused(tampering(commit, account), account)
    assert error.reason == tamper.AFTER_SIGNATURE[tampering], error.detail
    assert isinstance(error, Unverifiable)
    assert error.rev == commit.rev


@pytest.mark.parametrize("tampering", tamper.TAMPERINGS, ids=lambda tampering: tampering.__name__)
def test_a_forger_learns_nothing_more(
    tampering: tamper.Tampering, commit: Commit, account: Account
) -> None:
    """With another key, what is wrong behind the signature is not even looked at."""
    key = SigningKey.from_did_key(tamper.OTHER.did_key)
    with pytest.raises(Refused) as caught:
        verify_commit(decoded(tampering(commit, account)), key, LIMITS, NOW)
    assert not isinstance(caught.value, Unverifiable)
    if tampering in tamper.AFTER_SIGNATURE:
        assert caught.value.reason is Reason.SIGNATURE_INVALID


@pytest.mark.parametrize(
    ("blocks", "reason"),
    [
        (b"", Reason.CAR_INVALID),
        (b"\x00", Reason.CAR_INVALID),
        (b"garbage", Reason.CAR_INVALID),
        (car(cid_of(b""), {}), Reason.COMMIT_MISMATCH),
    ],
)
def test_broken_blocks(blocks: bytes, reason: Reason, commit: Commit, account: Account) -> None:
    key = SigningKey.from_did_key(account.did_key)
    with pytest.raises(Refused) as caught:
        verify_commit(decoded(commit, blocks=blocks), key, LIMITS, NOW)
    assert caught.value.reason is reason


def test_the_commit_block_is_not_what_its_cid_says(account: Account, commit: Commit) -> None:
    other = tamper.resigned(commit, account, rev=tid(1)).blocks
    block = next(iter(other.values()))
    swapped = replace(commit, blocks=commit.blocks | {commit.cid: block})
    assert refused(swapped, account).reason is Reason.BLOCK_HASH


def test_signatures_that_look_like_a_cid(account: Account) -> None:
    """One signature in a thousand does; the commit is as good as any other."""
    repo = Repo(account)
    for number in range(3000):
        commit = repo.commit([], seconds=1 + number)
        block = commit.blocks[commit.cid]
        sig = block[block.index(b"csig\x58\x40") + 6 :][:64]
        if sig[0] == 1 and sig[3] < 60:
            verify(commit, account)
            return
    pytest.skip("no such signature among 3,000")


@pytest.mark.parametrize(
    "change",
    [
        {"version": 3.0},
        {"version": True},
        {"data": None},
        {"data": "x"},
        {"prev": "x"},
        {"rev": 7},
        {"did": None},
    ],
    ids=str,
)
def test_signed_fields_of_wrong_types(
    change: dict[str, object], commit: Commit, account: Account
) -> None:
    error = refused(tamper.resigned(commit, account, **change), account)
    assert error.reason is Reason.COMMIT_MALFORMED


@pytest.mark.parametrize(
    "block",
    [
        b"",
        b"\xa0",
        b"\x80",
        b"\xff",
        b"\x81" * 5000,
        encode_signed({"did": "x", "data": b"\x01q\x12 " + bytes(31)}, b"x" * 64),
    ],
)
def test_commit_blocks_that_are_none(block: bytes, commit: Commit, account: Account) -> None:
    error = refused(tamper.signed_block(commit, block), account)
    assert error.reason is Reason.COMMIT_MALFORMED


def test_commit_and_root_are_named_as_what_they_are(account: Account, commit: Commit) -> None:
    """The same hash under the name of raw bytes would be a second name for the same thing."""

    def raw(cid: bytes) -> bytes:
        return RAW_PREFIX + cid[4:]

    blocks = {raw(cid) if cid == commit.cid else cid: block for cid, block in commit.blocks.items()}
    error = refused(replace(commit, cid=raw(commit.cid), blocks=blocks), account)
    assert error.reason is Reason.COMMIT_MALFORMED
    named = commit.blocks | {raw(commit.data): commit.blocks[commit.data]}
    tampered = replace(commit, blocks=named, data=raw(commit.data))
    assert refused(tamper.resigned(tampered, account), account).reason is Reason.COMMIT_MALFORMED


def test_the_bytes_of_a_cid_are_no_link(account: Account, commit: Commit) -> None:
    """The message that was signed has the link: they would be a second block for one signature."""
    linked = tamper.resigned(commit, account, prev=commit.data)
    verify(linked, account)
    block = linked.blocks[linked.cid]
    link, plain = b"\xd8\x2a\x58\x25\x00" + commit.data, b"\x58\x24" + commit.data
    at = block.index(b"dprev")
    block = block[:at] + block[at:].replace(link, plain, 1)
    error = refused(tamper.signed_block(linked, block), account)
    assert error.reason is Reason.COMMIT_MALFORMED


def test_a_commit_block_too_large_for_one_is_not_decoded(account: Account, commit: Commit) -> None:
    block = commit.blocks[commit.cid] + b"\x99\x08\x00" * 1_400
    error = refused(tamper.signed_block(commit, block), account)
    assert error.reason is Reason.COMMIT_MALFORMED
    assert "at most 4096" in error.detail
    longest = Account.from_seed("test", account.curve, "did:web:" + "a" * 2_040)
    verify(Repo(longest).commit([]), longest)


def test_a_commit_block_that_is_not_canonical(commit: Commit, account: Account) -> None:
    block = commit.blocks[commit.cid].replace(b"gversion\x03", b"gversion\x18\x03")
    error = refused(tamper.signed_block(commit, block), account)
    assert error.reason is Reason.COMMIT_MALFORMED


def test_revs_up_to_five_minutes_ahead(account: Account) -> None:
    key = SigningKey.from_did_key(account.did_key)
    made = Repo(account, clock=NOW).commit([Write("create", "a.b.c/1", {})], seconds=299)
    verify_commit(decoded(made), key, LIMITS, NOW)
    with pytest.raises(Refused) as caught:
        verify_commit(decoded(made), key, LIMITS, NOW - 2)
    assert caught.value.reason is Reason.REV_FUTURE
    verify_commit(decoded(Repo(account, clock=0).commit([])), key, LIMITS, NOW)


class TestSync:
    def frame(self, commit: Commit, **fields: Any) -> SyncFrame:
        frame = decode_frame(sync_frame(1, commit, **fields))
        assert isinstance(frame, SyncFrame)
        return frame

    def refused(self, frame: SyncFrame, account: Account) -> Reason:
        key = SigningKey.from_did_key(account.did_key)
        with pytest.raises(Refused) as caught:
            verify_sync(frame, key, LIMITS, NOW)
        return caught.value.reason

    def test_good(self, account: Account, commit: Commit) -> None:
        key = SigningKey.from_did_key(account.did_key)
        verified = verify_sync(self.frame(commit), key, LIMITS, NOW)
        assert (verified.did, verified.rev) == (account.did, commit.rev)
        assert (verified.data, verified.commit) == (commit.data, commit.cid)

    @pytest.mark.parametrize(
        "tampering",
        [
            tamper.forged,
            tamper.high_s,
            tamper.future_rev,
            tamper.announced_for_another,
            tamper.other_rev,
            tamper.old_version,
        ],
        ids=lambda tampering: tampering.__name__,
    )
    def test_bad(self, tampering: tamper.Tampering, account: Account, commit: Commit) -> None:
        tampered = self.frame(tampering(commit, account))
        assert self.refused(tampered, account) == tamper.TAMPERINGS[tampering]

    def test_blocks(self, account: Account, commit: Commit) -> None:
        def reason(blocks: bytes) -> Reason:
            return self.refused(self.frame(commit, blocks=blocks), account)

        assert reason(b"") is Reason.CAR_INVALID
        assert reason(b"\x11\xa2\x65roots\x80\x67version\x01") is Reason.CAR_INVALID
        assert reason(car(commit.cid, {})) is Reason.BLOCK_MISSING
        assert reason(commit.car + bytes(10_000)) is Reason.CAR_TOO_BIG
        assert reason(car(commit.cid, commit.blocks | {cid_of(b"x"): b"y"})) in {
            Reason.BLOCK_HASH,
            Reason.CAR_TOO_BIG,
        }
