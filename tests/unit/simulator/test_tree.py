"""The simulator's two trees agree with each other and with the public vectors."""

from __future__ import annotations

import random

import pytest

from procedures.syntax import cid_text, parse_cid
from simulator import tree
from tests.vectors import entries, lines, needs_vectors


def value(number: int) -> bytes:
    return tree.cid_of(str(number).encode())


@pytest.mark.parametrize("seed", range(30))
def test_incremental_and_plain_agree(seed: int) -> None:
    rng = random.Random(seed)
    root, contents = tree.EMPTY, dict[str, bytes]()
    for step in range(rng.choice([3, 30, 100])):
        key = f"a.b.c/{rng.randrange(40)}"
        if key in contents and rng.random() < 0.6:
            del contents[key]
            root = tree.remove(root, key)
        else:
            contents[key] = value(step)
            root = tree.put(root, key, contents[key])
        expected, blocks = tree.plain(contents)
        assert root.seal() == expected
        assert {node.cid: node.block for node in tree.nodes(root)} == blocks
    assert all(tree.get(root, key) == cid for key, cid in contents.items())
    assert tree.get(root, "a.b.c/none") is None


def test_removing_what_is_not_there() -> None:
    with pytest.raises(KeyError):
        tree.remove(tree.EMPTY, "a.b.c/1")


def test_the_empty_tree() -> None:
    expected = "bafyreie5737gdxlw5i64vzichcalba3z2v5n6icifvx5xytvske7mr3hpm"
    assert cid_text(tree.EMPTY.seal()) == cid_text(tree.plain({})[0]) == expected


@needs_vectors
def test_key_heights_and_prefixes() -> None:
    for vector in entries("interop/mst/key_heights.json"):
        assert tree.layer(vector["key"]) == vector["height"]
    for vector in entries("interop/mst/common_prefix.json"):
        assert tree.shared_prefix(vector["left"], vector["right"]) == vector["len"]


@needs_vectors
def test_example_keys_in_any_order() -> None:
    keys = lines("interop/mst/example_keys.txt")
    assert len(keys) == 156
    expected, _ = tree.plain({key: value(0) for key in keys})
    root = tree.EMPTY
    for key in random.Random(1).sample(keys, len(keys)):
        root = tree.put(root, key, value(0))
    assert root.seal() == expected


@needs_vectors
def test_commit_proofs() -> None:
    fixtures = entries("interop/firehose/commit-proof-fixtures.json")
    assert len(fixtures) == 6
    for fixture in fixtures:
        leaf, root = parse_cid(fixture["leafValue"]), tree.EMPTY
        for key in fixture["keys"]:
            root = tree.put(root, key, leaf)
        assert cid_text(root.seal()) == fixture["rootBeforeCommit"]
        for key in fixture["adds"]:
            root = tree.put(root, key, leaf)
        for key in fixture["dels"]:
            root = tree.remove(root, key)
        assert cid_text(root.seal()) == fixture["rootAfterCommit"], fixture["comment"]
        changed = fixture["adds"] + fixture["dels"]
        proof = {cid_text(node.cid) for key in changed for node in tree.proof(root, key)}
        assert proof == set(fixture["blocksInProof"]), fixture["comment"]
