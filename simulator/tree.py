"""Merkle search trees, built twice: plainly from sorted keys, and incrementally.

``plain`` is the definition written down, for checks: the layer of a key is half the number of
leading zero bits of its SHA-256; a node of layer n holds the keys of that layer between two
keys of a higher one, and between them the nodes of layer n - 1.  ``Tree`` is an immutable tree
that shares what a write does not touch, fast enough to make many commits; ``proof`` gives the
nodes that Sync 1.1 puts into a commit.  Neither uses code of the consumer.

Keys are ``str`` (ASCII), values binary CIDs.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_left
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

import cbor2
import libipld

CID_PREFIX = b"\x01\x71\x12\x20"
Blocks = dict[bytes, bytes]


def cid_of(block: bytes) -> bytes:
    """Return the binary CID of a dag-cbor block."""
    return CID_PREFIX + hashlib.sha256(block).digest()


@lru_cache(maxsize=200_000)
def layer(key: str) -> int:
    """Return half the number of leading zero bits of the key's SHA-256."""
    digest = int.from_bytes(hashlib.sha256(key.encode()).digest(), "big")
    return (256 - digest.bit_length()) // 2


@lru_cache(maxsize=200_000)
def shared_prefix(left: str, right: str) -> int:
    """Return how many characters two keys have in common at their start."""
    for at, (one, other) in enumerate(zip(left, right, strict=False)):
        if one != other:
            return at
    return min(len(left), len(right))


def plain(entries: Mapping[str, bytes]) -> tuple[bytes, Blocks]:
    """Return the root and all nodes of the tree that holds exactly ``entries``."""
    blocks: Blocks = {}
    keys = sorted(entries)
    root = _plain_node(keys, entries, max(map(layer, keys), default=0), blocks)
    return root, blocks


def _plain_node(keys: list[str], entries: Mapping[str, bytes], level: int, blocks: Blocks) -> bytes:
    here = [index for index, key in enumerate(keys) if layer(key) == level]
    bounds = [*here, len(keys)]

    def child(start: int, end: int) -> Any:
        below = keys[start:end]
        return _tag(_plain_node(below, entries, level - 1, blocks)) if below else None

    listed, previous = [], ""
    for index, end in zip(here, bounds[1:], strict=True):
        shared = shared_prefix(previous, keys[index])
        listed.append(
            {
                "k": keys[index][shared:].encode(),
                "p": shared,
                "t": child(index + 1, end),
                "v": _tag(entries[keys[index]]),
            }
        )
        previous = keys[index]
    node = cbor2.dumps({"e": listed, "l": child(0, bounds[0])}, canonical=True)
    blocks[cid_of(node)] = node
    return cid_of(node)


def _tag(cid: bytes) -> cbor2.CBORTag:
    return cbor2.CBORTag(42, b"\x00" + cid)


class Node:
    """An immutable node; ``children`` has one place more than ``keys``, each a node or None."""

    __slots__ = ("block", "children", "cid", "keys", "level", "values")

    def __init__(
        self,
        level: int,
        keys: tuple[str, ...],
        values: tuple[bytes, ...],
        children: tuple[Node | None, ...],
    ) -> None:
        self.level = level
        self.keys = keys
        self.values = values
        self.children = children
        self.block = b""
        self.cid = b""

    def seal(self) -> bytes:
        """Return the node's CID, encoding it and what is new below it at first."""
        if not self.cid:
            self.block = libipld.encode_dag_cbor(self._encoded())
            self.cid = cid_of(self.block)
        return self.cid

    def _encoded(self) -> dict[str, Any]:
        links = [child.seal() if child else None for child in self.children]
        entries, previous = [], ""
        for key, value, link in zip(self.keys, self.values, links[1:], strict=True):
            shared = shared_prefix(previous, key)
            entries.append({"k": key[shared:].encode(), "p": shared, "t": link, "v": value})
            previous = key
        return {"e": entries, "l": links[0]}


EMPTY = Node(0, (), (), (None,))


def put(root: Node, key: str, value: bytes) -> Node:
    """Return the tree with ``key`` set to ``value``."""
    if not root.keys:
        return _single(layer(key), key, value)
    return _put(_lift(root, layer(key)), key, value)


def remove(root: Node, key: str) -> Node:
    """Return the tree without ``key``; raise ``KeyError`` if it is not there."""
    node = _remove(root, key)
    while node is not None and not node.keys:
        node = node.children[0]
    return node or EMPTY


def get(root: Node, key: str) -> bytes | None:
    """Return the value of ``key``, or None."""
    node: Node | None = root
    while node is not None:
        at = bisect_left(node.keys, key)
        if at < len(node.keys) and node.keys[at] == key:
            return node.values[at]
        node = node.children[at]
    return None


def nodes(root: Node | None) -> Iterator[Node]:
    """Yield every node of the tree, parents first."""
    if root is not None:
        yield root
        for child in root.children:
            yield from nodes(child)


def proof(root: Node, key: str) -> Iterator[Node]:
    """Yield the nodes on the way to ``key`` and to its neighbours on either side."""
    yield root
    at = bisect_left(root.keys, key)
    found = at < len(root.keys) and root.keys[at] == key
    for child in root.children[at : at + 2] if found else root.children[at : at + 1]:
        if child is not None:
            yield from proof(child, key)


def _single(level: int, key: str, value: bytes) -> Node:
    return Node(level, (key,), (value,), (None, None))


def _lift(node: Node, level: int) -> Node:
    while node.level < level:
        node = Node(node.level + 1, (), (), (node,))
    return node


def _put(node: Node, key: str, value: bytes) -> Node:
    keys, values, children = node.keys, node.values, node.children
    at = bisect_left(keys, key)
    if at < len(keys) and keys[at] == key:
        return Node(node.level, keys, (*values[:at], value, *values[at + 1 :]), children)
    child = children[at]
    if node.level == layer(key):
        halves = _split(child, key)
        return Node(
            node.level,
            (*keys[:at], key, *keys[at:]),
            (*values[:at], value, *values[at:]),
            (*children[:at], *halves, *children[at + 1 :]),
        )
    if child is None:
        child = _lift(_single(layer(key), key, value), node.level - 1)
    else:
        child = _put(child, key, value)
    return Node(node.level, keys, values, (*children[:at], child, *children[at + 1 :]))


def _remove(node: Node | None, key: str) -> Node | None:
    if node is None:
        raise KeyError(key)
    keys, values, children = node.keys, node.values, node.children
    at = bisect_left(keys, key)
    if at < len(keys) and keys[at] == key:
        merged = _merge(children[at], children[at + 1])
        return _some(
            node.level,
            keys[:at] + keys[at + 1 :],
            values[:at] + values[at + 1 :],
            (*children[:at], merged, *children[at + 2 :]),
        )
    child = _remove(children[at], key)
    return _some(node.level, keys, values, (*children[:at], child, *children[at + 1 :]))


def _some(
    level: int, keys: tuple[str, ...], values: tuple[bytes, ...], children: tuple[Node | None, ...]
) -> Node | None:
    return Node(level, keys, values, children) if keys or children[0] else None


def _split(node: Node | None, key: str) -> tuple[Node | None, Node | None]:
    if node is None:
        return None, None
    at = bisect_left(node.keys, key)
    left, right = _split(node.children[at], key)
    return (
        _some(node.level, node.keys[:at], node.values[:at], (*node.children[:at], left)),
        _some(node.level, node.keys[at:], node.values[at:], (right, *node.children[at + 1 :])),
    )


def _merge(left: Node | None, right: Node | None) -> Node | None:
    if left is None or right is None:
        return left or right
    middle = _merge(left.children[-1], right.children[0])
    return Node(
        left.level,
        left.keys + right.keys,
        left.values + right.values,
        (*left.children[:-1], middle, *right.children[1:]),
    )
