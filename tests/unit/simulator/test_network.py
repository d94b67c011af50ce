"""The simulated firehose: deterministic, verifiable, and true to what it says it did."""

from __future__ import annotations

import time
from collections.abc import Iterable

import pytest

from consumer.verify.commit import CommitLimits, verify_commit, verify_sync
from consumer.verify.frames import CommitFrame, Kind, SyncFrame, decode_frame, peek
from consumer.verify.keys import SigningKey
from consumer.verify.verified import Action
from simulator.network import Mix, Network, Truth

LIVELY = Mix(several=0.3, identity=0.05, sync=0.05, status=0.05, records=30)


def folded(network: Network, frames: Iterable[bytes]) -> Truth:
    """Verify every frame and fold the commits into the records they leave."""
    keys = {did: SigningKey.from_did_key(text) for did, text in network.keys.items()}
    held: Truth = {did: {} for did in keys}
    heads: dict[str, bytes] = {}
    for data in frames:
        frame = decode_frame(data)
        if isinstance(frame, SyncFrame):
            synced = verify_sync(frame, keys[frame.did], CommitLimits(), time.time())
            assert synced.data == heads[frame.did]
        if not isinstance(frame, CommitFrame):
            continue
        commit = verify_commit(frame, keys[frame.did], CommitLimits(), time.time())
        assert commit.prev_data == heads.get(frame.did, commit.prev_data)
        heads[frame.did] = commit.data
        for op in commit.ops:
            if op.action is Action.DELETE:
                del held[frame.did][op.path]
            else:
                assert op.cid is not None
                assert op.record is not None
                held[frame.did][op.path] = (op.cid, op.record)
    return held


def test_the_fold_of_the_stream_is_the_truth() -> None:
    network = Network(1, accounts=12, mix=LIVELY)
    frames = [*network.introduce(20), *network.frames(400)]
    assert folded(network, frames) == network.truth()
    assert {key[:12] for key in network.keys.values()} >= {"did:key:zQ3s", "did:key:zDna"}


def test_the_same_seed_gives_the_same_frames() -> None:
    one, other, third = Network(7, mix=LIVELY), Network(7, mix=LIVELY), Network(8, mix=LIVELY)
    frames = list(one.frames(100))
    assert frames == list(other.frames(100))
    assert frames != list(third.frames(100))


def test_seqs_and_kinds() -> None:
    network = Network(3, mix=LIVELY, first_seq=31_000_000_000)
    network.preload(5)
    start = network.seq
    seen = [peek(frame) for frame in network.frames(300)]
    assert [look.seq for look in seen] == list(range(start + 1, start + 301))
    assert {look.kind for look in seen} == {
        Kind.COMMIT,
        Kind.SYNC,
        Kind.ACCOUNT,
        Kind.IDENTITY,
    }


@pytest.mark.parametrize("records", [0, 120])
def test_repositories_stay_about_as_large_as_asked(records: int) -> None:
    network = Network(4, accounts=2, mix=Mix(records=60))
    network.preload(records)
    for _ in network.frames(600):
        pass
    assert all(30 < len(held) < 130 for held in network.truth().values())
