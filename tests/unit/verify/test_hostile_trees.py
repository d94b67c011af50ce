"""Trees as an attacker would make them: tall, wide, with one node under many names.

Work is counted in nodes read: it may not be more than there are nodes, whatever they claim.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import libipld
import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumer.errors import Reason, Refused
from consumer.fetch.spool import SpooledBlocks
from consumer.scope import Scope
from consumer.verify.invert import TreeOp, invert
from consumer.verify.keys import SigningKey
from consumer.verify.mst import load
from consumer.verify.node import parse_node
from consumer.verify.snapshot import Snapshot, SnapshotLimits
from procedures.syntax import MAX_PATH
from simulator import tree
from simulator.account import Account
from simulator.repo import START, car, sign_commit, tid
from simulator.tree import Blocks, cid_of
from tests.unit.verify.test_mst import keys_of_layer

# Keys that were searched for: 40 million hashes for those of the highest layers.
MINED = {
    "a.b.c/12078b5": 13,
    "a.b.c/1b18476": 12,
    "a.b.c/2698214": 12,
    "a.b.c/32544e": 11,
    "a.b.c/25e5e4": 10,
    "a.b.c/78aa4": 9,
    "a.b.c/36b72": 8,
    "a.b.c/3aeec": 8,
}
LOW = [f"a.b.c/{number}" for number in range(60)]
RECORD = b"\xa0"
VALUE = cid_of(RECORD)
NOW = START + 10**6
ALICE = Account.from_seed("alice")

Contents = dict[str, bytes]
CONTENTS = st.dictionaries(
    st.sampled_from([*MINED, *LOW]), st.sampled_from([VALUE, cid_of(b"other")]), max_size=12
)


class Counted(dict[bytes, bytes]):
    """Blocks that count how often one of them is read."""

    reads = 0

    def __getitem__(self, cid: bytes) -> bytes:
        self.reads += 1
        return super().__getitem__(cid)


def reads_to_load(root: bytes, blocks: Blocks) -> int:
    counted = Counted(blocks)
    try:
        load(root, counted)
    except Refused as error:
        if error.reason is not Reason.TREE_INVALID:
            raise
    return counted.reads


def reads_to_open(
    folder: Path, root: bytes, blocks: Blocks, monkeypatch: pytest.MonkeyPatch
) -> int:
    """Return how many blocks are read to check ``root`` as the tree of a whole repository."""
    reads = 0
    real = SpooledBlocks.get

    def counting(blocks: SpooledBlocks, cid: bytes) -> bytes | None:
        nonlocal reads
        reads += 1
        return real(blocks, cid)

    monkeypatch.setattr(SpooledBlocks, "get", counting)
    commit = sign_commit(ALICE, tid(START), root)
    spool = folder / "repo.car"
    spool.write_bytes(car(cid_of(commit), {cid_of(commit): commit, **blocks}))
    key, wanted = SigningKey.from_did_key(ALICE.did_key), Scope(("*",)).intervals
    try:
        Snapshot.open(
            SpooledBlocks(spool.open("rb")),
            ALICE.did,
            key,
            SnapshotLimits(),
            wanted,
            now=NOW,
            alive=lambda: None,
        ).close()
    except Refused as error:
        if error.reason not in {Reason.TREE_INVALID, Reason.TREE_PARTIAL}:
            raise
    return reads


def node(keys: Iterable[str], links: Iterable[bytes | None], left: bytes | None = None) -> bytes:
    entries: list[dict[str, Any]] = []
    previous = ""
    for key, link in zip(keys, links, strict=True):
        shared = tree.shared_prefix(previous, key)
        entries.append({"k": key[shared:].encode(), "p": shared, "t": link, "v": VALUE})
        previous = key
    return libipld.encode_dag_cbor({"e": entries, "l": left})


def chain(below: bytes, length: int, blocks: Blocks) -> bytes:
    """Hang ``below`` under ``length`` nodes without keys; return the CID of the highest."""
    for _ in range(length):
        block = node([], [], below)
        below = cid_of(block)
        blocks[below] = block
    return below


@pytest.mark.parametrize(("key", "layer"), MINED.items())
def test_a_tree_as_tall_as_its_highest_key(key: str, layer: int, tmp_path: Path) -> None:
    contents = dict.fromkeys([key, *LOW[:1]], VALUE)
    root, blocks = tree.plain(contents)
    assert load(root, blocks).level == layer
    assert len(blocks) == layer + 1  # those between have no keys
    with pytest.MonkeyPatch.context() as patch:
        reads = reads_to_open(tmp_path, root, {**blocks, VALUE: RECORD}, patch)
    assert reads == 1 + len(blocks)  # the commit, and every node once


@given(before=CONTENTS, after=CONTENTS)
def test_changes_of_tall_trees_are_inverted(before: Contents, after: Contents) -> None:
    expected, _ = tree.plain(before)
    root, blocks = tree.plain(after)
    changes = [
        TreeOp(path.encode(), after.get(path), before.get(path))
        for path in before.keys() | after.keys()
        if after.get(path) != before.get(path)
    ]
    counted = Counted(blocks)
    assert invert(load(root, counted), changes) == expected
    assert counted.reads == len(blocks)


@pytest.mark.parametrize("length", [0, 1, 2])
@pytest.mark.parametrize("leaf", ["missing", "there"])
def test_one_child_under_many_names(
    leaf: str, length: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Loading it once for each name would be more work than there are keys."""
    names = [key.decode() for key in keys_of_layer(length + 1, 300, "b.b.c/")]
    low = node(["b.b.c/000000"], [None])
    blocks = {cid_of(low): low, VALUE: RECORD} if leaf == "there" else {}
    child = chain(cid_of(low), length, blocks)
    top = node(names, [child] * len(names), child)
    blocks[cid_of(top)] = top
    assert reads_to_load(cid_of(top), blocks) <= len(blocks)
    # The commit comes first, and the leaf is looked for where it is missing too.
    assert reads_to_open(tmp_path, cid_of(top), blocks, monkeypatch) <= 2 + len(blocks)


def replaced(block: bytes, chance: Any, others: list[bytes]) -> bytes:
    """Return a node with some of its links leading to other nodes."""
    decoded = libipld.decode_dag_cbor(block)
    if decoded["l"] is not None and chance.random() < 0.5:
        decoded["l"] = chance.choice(others)
    for entry in decoded["e"]:
        if chance.random() < 0.5:
            entry["t"] = chance.choice(others)
    return libipld.encode_dag_cbor(decoded)


@given(contents=CONTENTS, chance=st.randoms(use_true_random=False))
def test_nodes_are_read_once_however_they_are_linked(contents: Contents, chance: Any) -> None:
    root, blocks = tree.plain(contents)
    top = replaced(blocks[root], chance, sorted(blocks))
    assert reads_to_load(cid_of(top), {**blocks, cid_of(top): top}) <= len(blocks) + 1


def test_keys_of_1024_bytes() -> None:
    longest = "a.b.c/" + "k" * (MAX_PATH - 6)
    contents = {f"a.b.c/{'k' * (MAX_PATH - 10)}{number:04d}": VALUE for number in range(300)}
    root, blocks = tree.plain({longest: VALUE, **contents})
    changes = [TreeOp(path.encode(), VALUE, None) for path in [longest, *list(contents)[::7]]]
    expected, _ = tree.plain(
        {path: VALUE for path in list(contents) if path not in list(contents)[::7]}
    )
    assert invert(load(root, blocks), changes) == expected
    with pytest.raises(Refused) as caught:
        parse_node(VALUE, node([longest + "k"], [None]))
    assert caught.value.reason is Reason.TREE_INVALID
