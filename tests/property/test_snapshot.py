"""Whole repositories and record proofs: what is true is read exactly, every lie is refused."""

from __future__ import annotations

import itertools
import random
import tracemalloc
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consumer.errors import Reason, Refused
from consumer.fetch.spool import SpooledBlocks
from consumer.scope import Scope
from consumer.verify.keys import SigningKey
from consumer.verify.proof import Proven, verify_proof
from consumer.verify.snapshot import ChunkContent, Snapshot, SnapshotLimits
from consumer.verify.verified import Incomplete
from simulator import tree
from simulator.account import Account
from simulator.repo import START, Repo, Write, car, sign_commit
from simulator.tree import Blocks, cid_of

NOW = START + 10**6
LIMITS = SnapshotLimits()
both_forms = pytest.mark.parametrize("small", [True, False], ids=["in memory", "in files"])
SCOPE = Scope(("pub.chive.*", "site.standard.document"))
COLLECTIONS = (
    "app.bsky.feed.post",
    "pub.chive.graph.vote",
    "pub.chive.review.comment",
    "pub.chivery.note",
    "site.standard.document",
    "site.standard.documents",
)
ALICE, BOB = Account.from_seed("alice"), Account.from_seed("bob", "p256")


def repo_of(paths: list[str], account: Account = ALICE) -> Repo:
    repo = Repo(account)
    repo.commit([Write("create", path, {"n": path}) for path in paths])
    return repo


def some_paths(count: int, seed: int = 1) -> list[str]:
    chance = random.Random(seed)
    return [f"{chance.choice(COLLECTIONS)}/k{n}" for n in range(count)]


def opened(
    folder: Path,
    data: bytes,
    account: Account = ALICE,
    did: str | None = None,
    *,
    small: bool = True,
) -> Snapshot:
    """Open a repository; if it is not ``small``, with nothing of it in memory."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.iterdir():
        old.unlink()
    spool = folder / "repo.car"
    spool.write_bytes(data)
    key = SigningKey.from_did_key(account.did_key)
    intervals = SCOPE.intervals
    return Snapshot.open(
        SpooledBlocks(spool.open("rb"), *(() if small else (0, 0))),
        did or account.did,
        key,
        LIMITS if small else replace(LIMITS, kept=0),
        intervals,
        now=NOW,
        alive=lambda: None,
    )


def refusal(folder: Path, data: bytes, account: Account = ALICE, did: str | None = None) -> Reason:
    with pytest.raises(Refused) as caught:
        opened(folder, data, account, did)
    with pytest.raises(Refused) as again:
        opened(folder, data, account, did, small=False)
    assert again.value.reason is caught.value.reason
    return caught.value.reason


def chunks(snapshot: Snapshot, boundaries: Iterable[str] = ()) -> list[ChunkContent]:
    try:
        return list(snapshot.chunks(lambda: None, boundaries))
    finally:
        snapshot.close()


@both_forms
@given(
    paths=st.sets(
        st.builds(
            "{}/{}".format,
            st.sampled_from(COLLECTIONS),
            st.from_regex(r"[a-z0-9]{1,6}", fullmatch=True),
        ),
        max_size=60,
    )
)
@settings(max_examples=40)
def test_the_wanted_records_are_exactly_those_of_the_repository(
    paths: set[str], tmp_path_factory: pytest.TempPathFactory, small: bool
) -> None:
    repo = repo_of(sorted(paths))
    snapshot = opened(tmp_path_factory.mktemp("spool"), repo.whole(), small=small)
    wanted = sorted(path for path in paths if SCOPE.wants(path))
    assert (snapshot.rev, snapshot.data, snapshot.records) == (repo.rev, repo.data, len(wanted))
    found = [(e.path, e.record, e.cid) for chunk in chunks(snapshot) for e in chunk.entries]
    assert found == [(path, *repo.records[path]) for path in wanted]


@both_forms
def test_chunks_lie_side_by_side_and_cover_what_is_wanted(tmp_path: Path, small: bool) -> None:
    repo = repo_of(some_paths(8_000))
    found = chunks(opened(tmp_path, repo.whole(), small=small))
    assert len(found) > 2
    assert (found[0].after, found[-1].through) == (None, None)
    assert [chunk.last for chunk in found] == [*[False] * (len(found) - 1), True]
    for left, right in itertools.pairwise(found):
        assert left.through == right.after == left.entries[-1].path
    for path in repo.records:
        inside = [chunk for chunk in found if any(path in interval for interval in chunk.intervals)]
        assert len(inside) == (1 if SCOPE.wants(path) else 0)
        if inside:
            assert path in {entry.path for entry in inside[0].entries}


@both_forms
@given(
    kept=st.sets(st.integers(0, 60), max_size=30),
    known=st.sets(st.integers(0, 60), max_size=60),
    every=st.integers(1, 9),
)
@settings(max_examples=40)
def test_a_cut_covers_no_more_of_what_is_known_than_lies_between_two_marks(
    kept: set[int],
    known: set[int],
    every: int,
    tmp_path_factory: pytest.TempPathFactory,
    small: bool,
) -> None:
    repo = repo_of([f"pub.chive.graph.vote/k{n:02}" for n in sorted(kept)])
    paths = [f"pub.chive.graph.vote/k{n:02}" for n in sorted(known)]
    boundaries = paths[every - 1 :: every]
    found = chunks(opened(tmp_path_factory.mktemp("spool"), repo.whole(), small=small), boundaries)
    assert [entry.path for chunk in found for entry in chunk.entries] == sorted(repo.records)
    for chunk in found:
        covered = [path for path in paths if any(path in one for one in chunk.intervals)]
        assert len(covered) <= every
        assert all(any(entry.path in one for one in chunk.intervals) for entry in chunk.entries)
    for left, right in itertools.pairwise(found):
        assert left.through == right.after
    assert [chunk.last for chunk in found] == [*[False] * (len(found) - 1), True]


def test_a_cut_is_bounded_in_bytes(tmp_path: Path) -> None:
    repo = Repo(ALICE)
    large = {"text": "x" * 700_000}
    repo.commit([Write("create", f"pub.chive.graph.vote/k{n}", large | {"n": n}) for n in range(4)])
    assert [len(chunk.entries) for chunk in chunks(opened(tmp_path, repo.whole()))] == [1, 1, 1, 1]


def test_an_empty_repository(tmp_path: Path) -> None:
    (chunk,) = chunks(opened(tmp_path, repo_of([]).whole()))
    assert (chunk.after, chunk.through, chunk.entries, chunk.intervals) == (
        None,
        None,
        (),
        SCOPE.intervals,
    )


def test_blocks_that_nothing_links_to_are_tolerated(tmp_path: Path) -> None:
    repo = repo_of(some_paths(10))
    blocks = repo.everything()
    stray = b"\xa0"
    snapshot = opened(tmp_path, car(next(iter(blocks)), blocks | {cid_of(stray): stray}))
    assert sum(len(chunk.entries) for chunk in chunks(snapshot)) == snapshot.records > 0


def test_blocks_and_records_are_bounded_in_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repo = repo_of(some_paths(100))
    blocks = repo.everything()
    strays = {cid_of(b"%d" % number): b"%d" % number for number in range(200)}
    monkeypatch.setitem(globals(), "LIMITS", SnapshotLimits(records=100))
    opened(tmp_path, repo.whole()).close()
    assert refusal(tmp_path, car(next(iter(blocks)), blocks | strays)) is Reason.FETCH_TOO_BIG
    monkeypatch.setitem(globals(), "LIMITS", SnapshotLimits(records=99))
    assert refusal(tmp_path, repo.whole()) is Reason.FETCH_TOO_BIG


def test_truncation_anywhere_is_seen(tmp_path: Path) -> None:
    data = repo_of(some_paths(3)).whole()
    for end in range(len(data) - 1):
        assert outcome(tmp_path, data[:end]) in {
            Reason.CAR_INVALID,
            Reason.CAR_TRUNCATED,
            Reason.BLOCK_MISSING,
            Reason.TREE_PARTIAL,
            None,  # between two blocks: then it is known what is missing
        }


def outcome(folder: Path, data: bytes) -> Reason | None:
    """Return why ``data`` is refused, None if it is a repository that may lack records."""
    try:
        snapshot = opened(folder, data)
    except Refused as refused:
        return refused.reason
    lacks = any(chunk.unknown for chunk in chunks(snapshot))
    assert (snapshot.evidence is not None) == lacks
    return None


def test_every_missing_block_is_missed(tmp_path: Path) -> None:
    repo = repo_of(some_paths(40))
    blocks = repo.everything()
    head = next(iter(blocks))
    paths = {cid: path for path, (_, cid) in repo.records.items()}
    for gone in blocks:
        data = car(head, {cid: block for cid, block in blocks.items() if cid != gone})
        if gone not in paths:
            assert refusal(tmp_path, data) in {Reason.BLOCK_MISSING, Reason.TREE_PARTIAL}
            continue
        snapshot = opened(tmp_path, data)
        unknown = [paths[gone]] if SCOPE.wants(paths[gone]) else []
        assert snapshot.left_out == ((Reason.BLOCK_MISSING, 1),) * len(unknown)
        assert (snapshot.evidence is None) == (not unknown)
        found = chunks(snapshot)
        assert [path for chunk in found for path in chunk.unknown] == unknown
        assert [entry.path for chunk in found for entry in chunk.entries] == [
            path for path in sorted(repo.records) if SCOPE.wants(path) and path not in unknown
        ]


def test_a_missing_node_is_told_from_what_is_wrong_before_the_signature(tmp_path: Path) -> None:
    repo = repo_of(some_paths(40))
    blocks = repo.everything()
    head = next(iter(blocks))
    for gone in (head, repo.data):
        with pytest.raises(Refused) as caught:
            opened(tmp_path, car(head, {c: b for c, b in blocks.items() if c != gone}))
        assert isinstance(caught.value, Incomplete) == (gone == repo.data)


def test_a_block_with_other_bytes(tmp_path: Path) -> None:
    blocks = repo_of(some_paths(20)).everything()
    head = next(iter(blocks))
    for tampered in blocks:
        changed = {c: b"\xa0" if c == tampered else block for c, block in blocks.items()}
        assert refusal(tmp_path, car(head, changed)) is Reason.BLOCK_HASH


def test_whose_it_is_and_who_signed_it(tmp_path: Path) -> None:
    data = repo_of(some_paths(5)).whole()
    assert refusal(tmp_path, data, ALICE, BOB.did) is Reason.COMMIT_MISMATCH
    assert refusal(tmp_path, data, BOB, ALICE.did) is Reason.SIGNATURE_INVALID


def test_a_revision_of_the_future(tmp_path: Path) -> None:
    repo = Repo(ALICE, clock=NOW + 10_000)
    repo.commit([Write("create", "pub.chive.graph.vote/a", {})])
    assert refusal(tmp_path, repo.whole()) is Reason.REV_FUTURE


def signed_over(root: bytes, blocks: Blocks) -> bytes:
    """Return a repository of ALICE whose tree is whatever ``root`` is."""
    repo = repo_of(["pub.chive.graph.vote/a"])
    assert repo.rev is not None
    commit = sign_commit(ALICE, repo.rev, root)
    return car(cid_of(commit), {cid_of(commit): commit, **blocks})


def test_trees_that_are_none(tmp_path: Path) -> None:
    record = b"\xa0"
    value = cid_of(record)
    entries = dict.fromkeys(some_paths(30), value)
    good, blocks = tree.plain(entries)
    blocks[value] = record
    opened(tmp_path, signed_over(good, blocks)).close()

    odd_root, odd = tree.plain({"not a path": value, **entries})
    snapshot = opened(tmp_path, signed_over(odd_root, odd | {value: record}))
    assert snapshot.left_out == ((Reason.PATH_INVALID, 1),)
    snapshot.close()
    flat = tree.Node(0, tuple(sorted(entries)), (value,) * 30, (None,) * 31)
    wrong = signed_over(flat.seal(), {flat.seal(): flat.block, value: record})
    assert refusal(tmp_path, wrong) is Reason.TREE_INVALID


def test_memory_does_not_grow_with_the_repository(tmp_path: Path) -> None:
    data = repo_of(some_paths(12_000)).whole()
    spool = tmp_path / "repo.car"
    spool.write_bytes(data)
    key = SigningKey.from_did_key(ALICE.did_key)
    tracemalloc.start()
    try:
        snapshot = Snapshot.open(
            SpooledBlocks(spool.open("rb"), in_memory=1_000, whole=0),
            ALICE.did,
            key,
            replace(LIMITS, kept=1_000),
            SCOPE.intervals,
            now=NOW,
            alive=lambda: None,
        )
        for _ in snapshot.chunks(lambda: None):
            pass
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    snapshot.close()
    assert peak < 6_000_000, f"{peak} of {len(data)} bytes"


def test_it_can_be_given_up(tmp_path: Path) -> None:
    class Over(Exception):
        pass

    def alive() -> None:
        raise Over

    spool = tmp_path / "repo.car"
    spool.write_bytes(repo_of(some_paths(6_000)).whole())
    key = SigningKey.from_did_key(ALICE.did_key)
    with pytest.raises(Over):
        Snapshot.open(
            SpooledBlocks(spool.open("rb")),
            ALICE.did,
            key,
            LIMITS,
            SCOPE.intervals,
            now=NOW,
            alive=alive,
        )


def proven(data: bytes, path: str, account: Account = ALICE, did: str | None = None) -> Proven:
    key = SigningKey.from_did_key(account.did_key)
    return verify_proof(
        data, did or account.did, path, key, limit=2_000_000, rev_ahead=300.0, now=NOW
    )


def test_proofs_of_presence_and_absence() -> None:
    repo = repo_of(some_paths(300))
    assert repo.rev is not None
    for path in [*sorted(repo.records)[::17], *(f"{path}x" for path in list(repo.records)[::23])]:
        record, cid = repo.records.get(path, (None, None))
        assert proven(repo.proof(path), path) == Proven(repo.rev, cid, record)


def test_a_proof_of_another_record_proves_nothing_of_this_one() -> None:
    repo = repo_of(some_paths(500))
    paths = sorted(repo.records)
    data = repo.proof(paths[0])
    partial = 0
    for path in paths[1:]:
        try:
            found = proven(data, path)
        except Refused as refused:
            partial += refused.reason in {Reason.TREE_PARTIAL, Reason.BLOCK_MISSING}
        else:
            assert found.cid == repo.records[path][1]
    assert partial > 300


@pytest.mark.parametrize(
    ("data", "account", "did", "reason"),
    [
        (lambda repo: repo.proof("pub.chive.graph.vote/a"), BOB, ALICE.did, "signature_invalid"),
        (lambda repo: repo.proof("pub.chive.graph.vote/a"), BOB, BOB.did, "commit_mismatch"),
        (lambda repo: repo.proof("pub.chive.graph.vote/a")[:-1], ALICE, None, "car_invalid"),
        (lambda _repo: b"", ALICE, None, "car_invalid"),
    ],
)
def test_forged_proofs(
    data: Callable[[Repo], bytes], account: Account, did: str | None, reason: str
) -> None:
    repo = repo_of(["pub.chive.graph.vote/a"])
    with pytest.raises(Refused) as caught:
        proven(data(repo), "pub.chive.graph.vote/a", account, did)
    assert caught.value.reason == reason
