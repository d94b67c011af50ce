"""Undoing single operations: what is said when the tree is not as they claim."""

from __future__ import annotations

import pytest

from consumer.errors import Reason, Refused
from consumer.verify.invert import TreeOp, _shared_prefix, invert
from consumer.verify.mst import EMPTY_TREE, load
from simulator import tree
from tests.vectors import entries, needs_vectors

A, B, C = (tree.cid_of(text) for text in (b"a", b"b", b"c"))
CONTENTS = {f"a.b.c/{number}": A for number in range(40)}
ROOT, BLOCKS = tree.plain(CONTENTS)


def undo(*changes: TreeOp) -> bytes:
    return invert(load(ROOT, BLOCKS), changes)


def test_nothing_to_undo() -> None:
    assert undo() == ROOT
    assert invert(load(EMPTY_TREE, tree.plain({})[1]), []) == EMPTY_TREE


@pytest.mark.parametrize("path", CONTENTS)
def test_one_change_of_each_kind(path: str) -> None:
    rest = {other: cid for other, cid in CONTENTS.items() if other != path}
    assert undo(TreeOp(path.encode(), A, None)) == tree.plain(rest)[0]
    assert undo(TreeOp(path.encode(), A, B)) == tree.plain(CONTENTS | {path: B})[0]
    new = path + "x"
    assert undo(TreeOp(new.encode(), None, B)) == tree.plain(CONTENTS | {new: B})[0]


def test_everything_was_created() -> None:
    assert undo(*(TreeOp(path.encode(), A, None) for path in CONTENTS)) == EMPTY_TREE


def test_everything_was_deleted() -> None:
    changes = [TreeOp(path.encode(), None, A) for path in CONTENTS]
    assert invert(load(EMPTY_TREE, tree.plain({})[1]), changes) == ROOT


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (TreeOp(b"a.b.c/none", B, None), "a.b.c/none is not in the tree"),
        (TreeOp(b"a.b.c/none", B, A), "a.b.c/none is not in the tree"),
        (TreeOp(b"a.b.c/7", None, A), "a.b.c/7 is still in the tree"),
        (TreeOp(b"a.b.c/7", B, None), "a.b.c/7 has another value in the tree"),
        (TreeOp(b"a.b.c/7", B, A), "a.b.c/7 has another value in the tree"),
    ],
)
def test_the_tree_is_not_as_claimed(change: TreeOp, text: str) -> None:
    with pytest.raises(Refused) as caught:
        undo(change)
    assert caught.value.reason is Reason.OPS_MISMATCH
    assert caught.value.detail == text


@pytest.mark.parametrize("path", CONTENTS)
def test_no_key_that_is_there_can_be_put_back(path: str) -> None:
    """Whatever layer it is on: the search must meet it before or while splitting."""
    with pytest.raises(Refused) as caught:
        undo(TreeOp(path.encode(), None, B))
    assert caught.value.reason is Reason.OPS_MISMATCH


def key_of_layer(wanted: int, start: str) -> str:
    return next(f"{start}{n}" for n in range(10**6) if tree.layer(f"{start}{n}") == wanted)


@pytest.mark.parametrize("turned", [False, True])
def test_a_missing_node_is_not_in_the_way_of_what_is_emptied(turned: bool) -> None:
    """Beside ``middle`` lies, left, a missing node, and right, one that only holds ``emptied``."""
    kept, middle = key_of_layer(0, "a.b.c/"), key_of_layer(1, "b.b.c/")
    emptied, top = key_of_layer(0, "c.b.c/"), key_of_layer(2, "d.b.c/")
    before = {kept: A, top: A}
    root, blocks = tree.plain(before | {middle: A, emptied: A})
    missing = next(cid for cid, block in blocks.items() if kept.encode() in block)
    del blocks[missing]
    changes = [TreeOp(path.encode(), A, None) for path in (middle, emptied)]
    found = invert(load(root, blocks), changes[::-1] if turned else changes)
    assert found == tree.plain(before)[0]


@needs_vectors
def test_shared_prefixes() -> None:
    vectors = entries("interop/mst/common_prefix.json")
    assert vectors
    for vector in vectors:
        left, right = vector["left"].encode(), vector["right"].encode()
        assert _shared_prefix(left, right) == vector["len"]
