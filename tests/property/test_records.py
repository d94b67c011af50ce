"""A repository is as good as its records: what is none is left out, what is known stays."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import cbor2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consumer.backfill import Chunk
from consumer.errors import Reason
from consumer.fetch.spool import SpooledBlocks
from consumer.state.facts import Row
from consumer.verify.commit import CommitLimits, Unverifiable, verify_commit
from consumer.verify.frames import CommitFrame, decode_frame
from consumer.verify.keys import SigningKey
from consumer.verify.snapshot import Snapshot, SnapshotLimits
from consumer.verify.verified import VerifiedCommit
from procedures.syntax import RAW_PREFIX, is_path
from simulator import tree
from simulator.account import Account
from simulator.frames import commit_frame
from simulator.repo import START, Commit, Op, car, sign_commit, tid
from simulator.tree import cid_of
from tests.unit.worker.values import DID, SCOPE, batch_state, chunked, known

ALICE = Account.from_seed("alice")
NOW = START + 10**6
COLLECTIONS = (
    "app.alpha.note",
    "app.azure.note",
    "app.Alpha.note",
    "APP.alpha.note",
    "app.alpha.n_x",
)
RKEYS = ("a", "b", "good@x", "c d", "", "\x01q\x12 " + "k" * 40)

records = st.fixed_dictionaries(
    {"raw": st.booleans(), "there": st.booleans(), "number": st.integers(0, 3)}
).map(lambda fields: SimpleNamespace(**fields))
paths = st.builds("{}/{}".format, st.sampled_from(COLLECTIONS), st.sampled_from(RKEYS))
trees = st.dictionaries(paths, records, max_size=24)


@given(held=trees, before=st.dictionaries(paths.filter(is_path), st.integers(0, 3), max_size=8))
@settings(max_examples=150, deadline=None)
def test_the_fold_is_the_legal_records_and_nothing_known_goes_without_proof(
    held: dict[str, SimpleNamespace],
    before: dict[str, int],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    blocks, values = {}, {}
    for path, one in held.items():
        values[path] = _value(one)
        if one.there and not one.raw:
            blocks[values[path]] = _block(one)
    root, nodes = tree.plain(values)
    rev = tid(START + 1)
    commit = sign_commit(ALICE, rev, root)
    spool = tmp_path_factory.mktemp("spool") / "repo.car"
    Path(spool).write_bytes(car(cid_of(commit), {cid_of(commit): commit, **nodes, **blocks}))
    key = SigningKey.from_did_key(ALICE.did_key)
    snapshot = Snapshot.open(
        SpooledBlocks(spool.open("rb")),
        ALICE.did,
        key,
        SnapshotLimits(),
        SCOPE.intervals,
        now=NOW,
        alive=lambda: None,
    )
    contents = list(snapshot.chunks(lambda: None))
    snapshot.close()

    legal = {p for p, one in held.items() if is_path(p) and not one.raw and SCOPE.wants(p)}
    unknown = {path for path in legal if values[path] not in blocks}
    counts = dict(snapshot.left_out)
    assert counts.get(Reason.PATH_INVALID, 0) == sum(not is_path(path) for path in held)
    assert counts.get(Reason.RECORD_RAW, 0) == sum(one.raw for p, one in held.items() if is_path(p))
    assert counts.get(Reason.BLOCK_MISSING, 0) == len(unknown)
    assert (snapshot.evidence is not None) == bool(unknown)

    old = tid(START)
    rows = {path: Row(cid_of(b"old %d" % n), old) for path, n in before.items()}
    wanted_before = {path for path in rows if SCOPE.wants(path)}
    batch = batch_state(known(old, data=b"another root"), dict(rows))
    for content in contents:
        warnings = tuple((reason.value, count) for reason, count in snapshot.left_out)
        message = Chunk(
            did=DID,
            operation="op",
            attempt=1,
            rev=snapshot.rev,
            data=snapshot.data,
            commit=snapshot.commit,
            scope=SCOPE.digest,
            resync_generation=0,
            after=content.after,
            through=content.through,
            last=content.last,
            intervals=content.intervals,
            entries=content.entries,
            unknown=content.unknown,
            warnings=warnings if content.last else (),
        )
        assert batch.apply(chunked(message)) is None
    assert batch.repos[DID].active
    after = {path: row.cid for path, row in batch.rows[DID].items() if row.cid is not None}
    expected: dict[str, bytes | None] = {path: values[path] for path in legal - unknown}
    expected |= {path: rows[path].cid for path in wanted_before & unknown}
    expected |= {path: row.cid for path, row in rows.items() if path not in wanted_before}
    assert after == expected


ops = st.dictionaries(paths, st.tuples(st.none() | records, st.none() | records), max_size=12)


@given(kept=trees, changed=ops)
@settings(max_examples=150, deadline=None)
def test_a_commit_applies_its_good_ops_and_inverts_exactly(
    kept: dict[str, SimpleNamespace],
    changed: dict[str, tuple[SimpleNamespace | None, SimpleNamespace | None]],
) -> None:
    before: dict[str, bytes] = {path: _value(one) for path, one in kept.items()}
    after = dict(before)
    made: list[Op] = []
    blocks: dict[bytes, bytes] = {}
    for path, (old, new) in changed.items():
        for held, one in ((before, old), (after, new)):
            held.pop(path, None)
            if one is not None:
                held[path] = _value(one)
        prev, cid = before.get(path), after.get(path)
        if prev == cid:
            continue
        action = "create" if prev is None else "delete" if cid is None else "update"
        made.append(Op(action, path, cid, prev))
        if new is not None and new.there and not new.raw:
            blocks[_value(new)] = _block(new)
    prev_data, _ = tree.plain(before)
    data, nodes = tree.plain(after)
    rev, since = tid(START + 1), tid(START)
    commit = sign_commit(ALICE, rev, data)
    head = cid_of(commit)
    held_blocks = {head: commit, **nodes, **blocks}
    announced = Commit(ALICE.did, rev, since, head, data, prev_data, tuple(made), held_blocks)
    verified = _verify(announced)

    assert (verified.prev_data, verified.data) == (prev_data, data)
    legal = [op for op in made if is_path(op.path)]
    good = {op.path: op.cid for op in legal if op.cid is None or op.cid in blocks}
    gone = {op.path for op in legal if _is_raw(op.cid) and op.prev is not None}
    assert {op.path: op.cid for op in verified.ops} == good | dict.fromkeys(gone)
    assert set(verified.unknown) == {
        op.path for op in legal if op.cid and not _is_raw(op.cid) and op.cid not in blocks
    }
    counts = dict(verified.left_out)
    assert counts.get(Reason.PATH_INVALID, 0) == len(made) - len(legal)
    assert counts.get(Reason.RECORD_RAW, 0) == sum(_is_raw(op.cid) for op in legal)
    for gap in nodes:  # a node that is needed is never left out
        left = {cid: block for cid, block in held_blocks.items() if cid != gap}
        assert _verified_or_why(replace(announced, blocks=left)) in (verified, Reason.TREE_PARTIAL)


def _verify(announced: Commit) -> VerifiedCommit:
    frame = decode_frame(commit_frame(1, announced))
    assert isinstance(frame, CommitFrame)
    key = SigningKey.from_did_key(ALICE.did_key)
    return verify_commit(frame, key, CommitLimits(), NOW)


def _verified_or_why(announced: Commit) -> VerifiedCommit | Reason:
    try:
        return _verify(announced)
    except Unverifiable as refused:
        return refused.reason


def _is_raw(cid: bytes | None) -> bool:
    return cid is not None and cid[:4] == RAW_PREFIX


def _block(one: SimpleNamespace) -> bytes:
    return cbor2.dumps({"n": one.number}, canonical=True)


def _value(one: SimpleNamespace) -> bytes:
    return RAW_PREFIX + bytes(31) + bytes([one.number]) if one.raw else cid_of(_block(one))
