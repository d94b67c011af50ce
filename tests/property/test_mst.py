"""Loading and inverting random trees, against a plain construction from sorted keys."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consumer.errors import Reason, Refused
from consumer.verify.invert import TreeOp, invert
from consumer.verify.mst import Node, load
from procedures.syntax import cid_text, parse_cid
from simulator import tree
from tests.vectors import entries, needs_vectors

Contents = dict[str, bytes]


def value(number: int) -> bytes:
    return tree.cid_of(b"%d" % number)


# Few different keys, so that trees overlap; they reach layer 4 or so.
PATHS = st.integers(0, 400).map(lambda number: f"com.example.{number % 3}/{number * 37 % 401}")
CONTENTS = st.dictionaries(PATHS, st.integers(0, 5).map(value), max_size=60)


def changes_between(before: Mapping[str, bytes], after: Mapping[str, bytes]) -> list[TreeOp]:
    return [
        TreeOp(path.encode(), after.get(path), before.get(path))
        for path in before.keys() | after.keys()
        if after.get(path) != before.get(path)
    ]


def incremental(contents: Mapping[str, bytes]) -> tree.Node:
    root = tree.EMPTY
    for path, cid in contents.items():
        root = tree.put(root, path, cid)
    root.seal()
    return root


def content(node: Node | bytes | None) -> Iterator[tuple[bytes, bytes]]:
    assert not isinstance(node, bytes)
    if node is None:
        return
    for at, child in enumerate(node.children):
        yield from content(child)
        if at < len(node.keys):
            yield node.keys[at], node.values[at]


def proofs(root: tree.Node, changes: list[TreeOp]) -> dict[bytes, bytes]:
    """Return the nodes that a commit of these changes carries, and the root."""
    nodes = [root, *(node for c in changes for node in tree.proof(root, c.path.decode()))]
    return {node.cid: node.block for node in nodes}


@given(contents=CONTENTS)
def test_loading_finds_what_was_put_in(contents: Contents) -> None:
    root, blocks = tree.plain(contents)
    expected = [(path.encode(), contents[path]) for path in sorted(contents)]
    assert list(content(load(root, blocks))) == expected


@given(before=CONTENTS, after=CONTENTS, rng=st.randoms(use_true_random=False))
def test_any_change_is_inverted(before: Contents, after: Contents, rng: random.Random) -> None:
    expected, _ = tree.plain(before)
    root, blocks = tree.plain(after)
    changes = changes_between(before, after)
    for _ in range(3):
        rng.shuffle(changes)
        assert invert(load(root, blocks), changes) == expected


@given(before=CONTENTS, edits=st.dictionaries(PATHS, st.none() | st.just(value(9)), max_size=8))
def test_a_few_changes_are_inverted_from_their_proofs(
    before: Contents, edits: dict[str, bytes | None]
) -> None:
    after = before | {path: cid for path, cid in edits.items() if cid is not None}
    after = {path: cid for path, cid in after.items() if edits.get(path, cid) is not None}
    changes = changes_between(before, after)
    root = incremental(after)
    assert root.cid == tree.plain(after)[0]
    found = invert(load(root.cid, proofs(root, changes)), changes)
    assert found == tree.plain(before)[0]


@given(before=CONTENTS, after=CONTENTS, data=st.data())
def test_missing_nodes_are_told_and_never_guessed(
    before: Contents, after: Contents, data: st.DataObject
) -> None:
    expected, _ = tree.plain(before)
    root, blocks = tree.plain(after)
    gone = data.draw(st.sets(st.sampled_from(sorted(blocks)), max_size=4))
    kept = {cid: block for cid, block in blocks.items() if cid not in gone}
    changes = changes_between(before, after)
    outcomes: set[bytes | Reason] = set()
    for _ in range(4):
        data.draw(st.randoms(use_true_random=False)).shuffle(changes)
        try:
            outcomes.add(invert(load(root, kept), changes))
        except Refused as error:
            outcomes.add(error.reason)
    assert outcomes in ({expected}, {Reason.TREE_PARTIAL})


@given(before=CONTENTS, after=CONTENTS, lie=PATHS, claimed=st.sampled_from([None, value(77)]))
def test_a_lie_about_the_tree_is_seen(
    before: Contents, after: Contents, lie: str, claimed: bytes | None
) -> None:
    root, blocks = tree.plain(after)
    truth = [c for c in changes_between(before, after) if c.path != lie.encode()]
    liar = TreeOp(lie.encode(), claimed, None if claimed else value(78))
    if after.get(lie) == claimed:
        assert invert(load(root, blocks), [*truth, liar]) != tree.plain(before)[0]
        return
    with pytest.raises(Refused) as caught:
        invert(load(root, blocks), [*truth, liar])
    assert caught.value.reason is Reason.OPS_MISMATCH


SIZES = [1, 2, 3, 10, 100, 1_000, 10_000]


@pytest.mark.parametrize("size", SIZES)
def test_trees_up_to_ten_thousand_keys(size: int) -> None:
    rng = random.Random(size)
    contents = {f"a.b.c/{rng.getrandbits(60):x}": value(number) for number in range(size)}
    after = dict(contents)
    for path in rng.sample(sorted(contents), min(size, 20)):
        if rng.random() < 0.5:
            del after[path]
        else:
            after[path] = value(-1)
    after |= {f"a.b.c/{rng.getrandbits(60):x}": value(-2) for _ in range(20)}
    root = incremental(after)
    plain_root, blocks = tree.plain(after)
    assert root.cid == plain_root
    changes = changes_between(contents, after)
    expected, _ = tree.plain(contents)
    assert invert(load(plain_root, blocks), changes) == expected
    assert invert(load(plain_root, proofs(root, changes)), changes) == expected


@settings(max_examples=20)
@given(number=st.integers(0, 10**9))
def test_absence_needs_every_node_on_the_way(number: int) -> None:
    rng = random.Random(number)
    contents = {f"a.b.c/{rng.getrandbits(40):x}": value(1) for _ in range(100)}
    root = incremental(contents)
    changes = [TreeOp(f"a.b.c/{rng.getrandbits(40):x}".encode(), None, value(2))]
    proof = proofs(root, changes)
    for gone in proof.keys() - {root.cid}:
        rest = {cid: block for cid, block in proof.items() if cid != gone}
        tree_without = load(root.cid, rest)
        with pytest.raises(Refused) as caught:
            invert(tree_without, changes)
        assert caught.value.reason is Reason.TREE_PARTIAL


@needs_vectors
def test_commit_proof_vectors() -> None:
    fixtures = entries("interop/firehose/commit-proof-fixtures.json")
    assert len(fixtures) == 6
    for fixture in fixtures:
        leaf = parse_cid(fixture["leafValue"])
        after = (set(fixture["keys"]) | set(fixture["adds"])) - set(fixture["dels"])
        root, blocks = tree.plain(dict.fromkeys(after, leaf))
        proof = {cid: blocks[cid] for cid in map(parse_cid, fixture["blocksInProof"])}
        changes = [TreeOp(path.encode(), leaf, None) for path in fixture["adds"]]
        changes += [TreeOp(path.encode(), None, leaf) for path in fixture["dels"]]
        before = invert(load(root, proof), changes)
        assert cid_text(before) == fixture["rootBeforeCommit"], fixture["comment"]
        assert cid_text(root) == fixture["rootAfterCommit"]
