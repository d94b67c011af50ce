"""Undoing single operations: what is said when the tree is not as they claim."""

from __future__ import annotations

import pytest

from consumer.errors import Reason, Refused
from consumer.verify.invert import Change, invert
from consumer.verify.mst import EMPTY_TREE, load
from simulator import tree

A, B, C = (tree.cid_of(text) for text in (b"a", b"b", b"c"))
WORLD = {f"a.b.c/{number}": A for number in range(40)}
ROOT, BLOCKS = tree.plain(WORLD)


def undo(*changes: Change) -> bytes:
    return invert(load(ROOT, BLOCKS), changes)


def test_nothing_to_undo() -> None:
    assert undo() == ROOT
    assert invert(load(EMPTY_TREE, tree.plain({})[1]), []) == EMPTY_TREE


@pytest.mark.parametrize("path", WORLD)
def test_one_change_of_each_kind(path: str) -> None:
    rest = {other: cid for other, cid in WORLD.items() if other != path}
    assert undo(Change(path.encode(), A, None)) == tree.plain(rest)[0]
    assert undo(Change(path.encode(), A, B)) == tree.plain(WORLD | {path: B})[0]
    new = path + "x"
    assert undo(Change(new.encode(), None, B)) == tree.plain(WORLD | {new: B})[0]


def test_everything_was_created() -> None:
    assert undo(*(Change(path.encode(), A, None) for path in WORLD)) == EMPTY_TREE


def test_everything_was_deleted() -> None:
    changes = [Change(path.encode(), None, A) for path in WORLD]
    assert invert(load(EMPTY_TREE, tree.plain({})[1]), changes) == ROOT


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (Change(b"a.b.c/none", B, None), "a.b.c/none is not in the tree"),
        (Change(b"a.b.c/none", B, A), "a.b.c/none is not in the tree"),
        (Change(b"a.b.c/7", None, A), "a.b.c/7 is still in the tree"),
        (Change(b"a.b.c/7", B, None), "a.b.c/7 has another value in the tree"),
        (Change(b"a.b.c/7", B, A), "a.b.c/7 has another value in the tree"),
    ],
)
def test_the_tree_is_not_as_claimed(change: Change, text: str) -> None:
    with pytest.raises(Refused) as caught:
        undo(change)
    assert caught.value.reason is Reason.OPS_MISMATCH
    assert caught.value.detail == text


@pytest.mark.parametrize("path", WORLD)
def test_no_key_that_is_there_can_be_put_back(path: str) -> None:
    """Whatever layer it is on: the search must meet it before or while splitting."""
    with pytest.raises(Refused) as caught:
        undo(Change(path.encode(), None, B))
    assert caught.value.reason is Reason.OPS_MISMATCH
