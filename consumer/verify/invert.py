"""Undoing the operations of a commit on its tree: what was the root before?  Pure.

Specification: https://atproto.com/specs/sync#commit-validation-mst-operation-inversion.

A tree is a function of its keys and values, so the order in which operations are undone cannot
change the root.  It could change whether a subtree that the commit did not carry gets in the
way, so the order is fixed: deleted keys are put back first, while all other keys still tell
where they belong; created keys are taken away from the lowest layer up, so that no node is
merged that a later step empties.  Then a missing subtree is in the way only if it must be.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from hashlib import sha256
from typing import NamedTuple, NoReturn

from consumer.errors import Reason, Refused
from consumer.verify.mst import EMPTY_TREE, Child, Node, layer
from consumer.verify.node import encode_node, head_of
from procedures.syntax import DAG_CBOR_PREFIX


class TreeOp(NamedTuple):
    """An operation: ``path`` had the value ``prev`` before the commit, and has ``cid`` after."""

    path: bytes
    cid: bytes | None
    prev: bytes | None


def invert(root: Node, changes: Iterable[TreeOp]) -> bytes:
    """Return the root before ``changes``, which name each path once, were made to the tree.

    Changes the tree in place.  Raises ``Refused`` with ``OPS_MISMATCH`` if it is not as the
    changes say, and ``TREE_PARTIAL`` if it lacks nodes that are needed.
    """
    created = []
    for change in changes:
        if change.prev is None:
            created.append(change)
        elif change.cid is None:
            root = _put_back(root, change.path, change.prev)
        else:
            _replace(root, change, change.prev)
    if len(created) > 1:
        created.sort(key=lambda change: layer(change.path))
    for change in created:
        _take_away(root, change)
    return _seal_root(root)


def _missing(path: bytes) -> NoReturn:
    raise Refused(Reason.TREE_PARTIAL, f"nodes needed to undo {path.decode()} are missing")


def _mismatch(path: bytes, problem: str) -> NoReturn:
    raise Refused(Reason.OPS_MISMATCH, f"{path.decode()} {problem}")


def _opened(child: Child, path: bytes) -> Node | None:
    """Return the subtree that is about to be changed for the sake of ``path``."""
    if isinstance(child, bytes):
        _missing(path)
    return child


def _place(node: Node, path: bytes) -> tuple[int, bool]:
    """Return where ``path`` is or belongs among the node's keys, and whether it is there."""
    at = bisect_left(node.keys, path)
    return at, at < len(node.keys) and node.keys[at] == path


def _found(root: Node, change: TreeOp) -> tuple[list[tuple[Node, int]], Node, int]:
    """Return the way to the key of ``change``, whose value must be its ``cid``.

    The way is the nodes above, each with the place of the next among its children; all are marked
    as changed.
    """
    way: list[tuple[Node, int]] = []
    node = root
    while True:
        node.cid = None
        at, there = _place(node, change.path)
        if there:
            break
        way.append((node, at))
        child = _opened(node.children[at], change.path)
        if child is None:
            _mismatch(change.path, "is not in the tree")
        node = child
    if node.values[at] != change.cid:
        _mismatch(change.path, "has another value in the tree")
    return way, node, at


def _replace(root: Node, change: TreeOp, prev: bytes) -> None:
    _, node, at = _found(root, change)
    node.values[at] = prev


def _take_away(root: Node, change: TreeOp) -> None:
    way, node, at = _found(root, change)
    del node.keys[at], node.values[at], node.heads[at]
    node.children[at : at + 2] = [_merged(node.children[at], node.children[at + 1], change.path)]
    _compress(node, at)
    while way and not node.keys and node.children[0] is None:
        node, at = way.pop()
        node.children[at] = None


def _merged(left: Child, right: Child, path: bytes) -> Child:
    """Return the subtree with the keys of both, between which ``path`` was."""
    if left is None or right is None:
        return left or right
    left, right = _opened(left, path), _opened(right, path)
    assert left is not None and right is not None  # noqa: S101, PT018 - told to the type checker
    middle = _merged(left.children[-1], right.children[0], path)
    at = len(left.keys)
    left.cid = None
    left.keys += right.keys
    left.values += right.values
    left.heads += right.heads
    left.children[-1:] = [middle, *right.children[1:]]
    _compress(left, at)
    return left


def _put_back(root: Node, path: bytes, value: bytes) -> Node:
    level = layer(path)
    if not root.keys:
        return _leaf(path, value, level)
    node = root = _lifted(root, level)
    while True:
        node.cid = None
        at, there = _place(node, path)
        if there:
            _mismatch(path, "is still in the tree")
        child = _opened(node.children[at], path)
        if node.level == level:
            break
        if child is None:
            node.children[at] = _lifted(_leaf(path, value, level), node.level - 1)
            return root
        node = child
    node.keys.insert(at, path)
    node.values.insert(at, value)
    node.heads.insert(at, b"")
    node.children[at : at + 1] = _split(child, path)
    _compress(node, at)
    _compress(node, at + 1)
    return root


def _split(node: Node | None, path: bytes) -> tuple[Child, Child]:
    """Return the subtrees left and right of ``path``, which is of a higher layer than ``node``."""
    if node is None:
        return None, None
    at = bisect_left(node.keys, path)
    left, right = _split(_opened(node.children[at], path), path)
    after = Node(
        None,
        node.level,
        node.keys[at:],
        node.values[at:],
        node.heads[at:],
        [right, *node.children[at + 1 :]],
    )
    _compress(after, 0)
    before = Node(
        None,
        node.level,
        node.keys[:at],
        node.values[:at],
        node.heads[:at],
        [*node.children[:at], left],
    )
    return _unless_empty(before), _unless_empty(after)


def _unless_empty(node: Node) -> Node | None:
    return node if node.keys or node.children[0] is not None else None


def _leaf(path: bytes, value: bytes, level: int) -> Node:
    return Node(None, level, [path], [value], [head_of(path, 0)], [None, None])


def _lifted(node: Node, level: int) -> Node:
    """Return the subtree at ``level`` or above, under nodes that only lead down to it."""
    while node.level < level:
        node = Node(None, node.level + 1, [], [], [], [node])
    return node


def _compress(node: Node, at: int) -> None:
    """Begin the entry at ``at``, if there is one, with its key as the rest after the one before."""
    if at < len(node.keys):
        key, shared = node.keys[at], 0
        if at:
            shared = _shared_prefix(node.keys[at - 1], key)
        node.heads[at] = head_of(key, shared)


def _shared_prefix(left: bytes, right: bytes) -> int:
    size = min(len(left), len(right))
    difference = int.from_bytes(left[:size], "big") ^ int.from_bytes(right[:size], "big")
    return size - (difference.bit_length() + 7) // 8


def _seal_root(root: Node) -> bytes:
    node: Child = root
    while isinstance(node, Node) and not node.keys:
        node = node.children[0]
    if isinstance(node, bytes):  # only its keys would tell whether it is the root
        raise Refused(Reason.TREE_PARTIAL, "the node that becomes the root is missing")
    return EMPTY_TREE if node is None else _seal(node)


def _seal(node: Node) -> bytes:
    """Return the CID of a node, encoding it again, and those below it, where they changed."""
    if node.cid is None:
        links = [_seal(child) if isinstance(child, Node) else child for child in node.children]
        block = encode_node(node.heads, node.values, links)
        node.cid = DAG_CBOR_PREFIX + sha256(block).digest()
    return node.cid
