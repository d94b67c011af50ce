"""Merkle search trees as commits carry them: some of the nodes, all of them checked.  Pure.

Specification: https://atproto.com/specs/repository#mst-structure.  A key's layer is half the
number of leading zero bits of its SHA-256, and a node of level n holds the keys of layer n
between two keys of a higher layer; between its keys are the nodes of level n - 1.

``load`` follows links as far as there are blocks and proves of what it finds: canonical
DAG-CBOR, exact prefix compression, keys in strict order and inside the bounds set by the nodes
above, each on its layer, no node without keys but one that only leads down, none at the root.
What a key or value is good for is not judged here: a key that is no path of a record, or a
value that is the CID of raw bytes, has its place in the order and on its layer like any other.

A link without a block is no fault: the tree is *partial* there, which matters only to a caller
that has to look below it.  The work is linear in the keys: keys are at most 1,024 bytes long, the
height is bounded, and a block is read once, because it can be valid in one place only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import Final, NoReturn

from consumer.errors import Reason, Refused
from consumer.verify.node import Parts, parse_node
from consumer.verify.verified import EMPTY_TREE
from procedures.syntax import cid_text

__all__ = ["EMPTY_TREE", "Node", "check_layers", "layer", "load"]

MAX_HEIGHT = 64

# The layer by the first byte of the hash; a zero byte leaves it to those that follow.
_LAYER_OF_BYTE: Final = [-1] + [(8 - byte.bit_length()) // 2 for byte in range(1, 256)]
_HASH_BITS = 256


class Node:
    """A node of a tree; ``children`` has one place more than ``keys``, ``values`` and ``heads``.

    ``heads`` begin its entries (see ``head_of``). A child is a ``Node``, the CID of a subtree
    without a block, or None for no subtree. ``cid`` is None while the node is being changed.
    """

    __slots__ = ("children", "cid", "heads", "keys", "level", "values")

    def __init__(
        self,
        cid: bytes | None,
        level: int,
        keys: list[bytes],
        values: list[bytes],
        heads: list[bytes],
        children: list[Child],
    ) -> None:
        self.cid = cid
        self.level = level
        self.keys = keys
        self.values = values
        self.heads = heads
        self.children = children


Child = Node | bytes | None


def layer(key: bytes) -> int:
    """Return the layer of ``key``: half the number of leading zero bits of its SHA-256."""
    digest = sha256(key).digest()
    if digest[0]:
        return _LAYER_OF_BYTE[digest[0]]
    return (_HASH_BITS - int.from_bytes(digest, "big").bit_length()) // 2


def check_layers(cid: bytes, keys: Sequence[bytes], level: int) -> None:
    """Raise ``Refused(TREE_INVALID)`` unless all keys of the node are of layer ``level``."""
    for key in keys:
        if _LAYER_OF_BYTE[sha256(key).digest()[0]] != level and layer(key) != level:
            _invalid(cid, f"key {key!r} is not of layer {level}")


def load(root: bytes, blocks: Mapping[bytes, bytes]) -> Node:
    """Return the tree under ``root`` as far as ``blocks``, whose hashes are checked, have it.

    Raises ``Refused`` with ``TREE_PARTIAL`` if the root itself is missing, ``TREE_INVALID``.
    """
    if root not in blocks:
        raise Refused(Reason.TREE_PARTIAL, f"no block for the root {cid_text(root)}")
    return _Loader(blocks).root(root)


def _invalid(cid: bytes, problem: str) -> NoReturn:
    raise Refused(Reason.TREE_INVALID, f"node {cid_text(cid)}: {problem}")


class _Loader:
    __slots__ = ("blocks", "seen")

    def __init__(self, blocks: Mapping[bytes, bytes]) -> None:
        self.blocks = blocks
        self.seen: set[bytes] = set()

    def root(self, cid: bytes) -> Node:
        parts = self._read(cid)
        keys, _, _, links = parts
        if not keys and links[0] is not None:
            _invalid(cid, "root without keys")
        level = layer(keys[0]) if keys else 0
        if level > MAX_HEIGHT:
            _invalid(cid, f"height {level}, at most {MAX_HEIGHT}")
        return self._node(cid, level, parts, b"", None)

    def _child(self, cid: bytes, level: int, low: bytes, high: bytes | None) -> Node:
        parts = self._read(cid)
        keys, _, _, links = parts
        if not keys:
            if links[0] is None:
                _invalid(cid, "empty node")
        elif keys[0] <= low or (high is not None and keys[-1] >= high):
            _invalid(cid, "keys outside the bounds of the nodes above")
        return self._node(cid, level, parts, low, high)

    def _read(self, cid: bytes) -> Parts:
        if cid in self.seen:
            _invalid(cid, "in two places")
        self.seen.add(cid)
        return parse_node(cid, self.blocks[cid])

    def _node(self, cid: bytes, level: int, parts: Parts, low: bytes, high: bytes | None) -> Node:
        """Check the layers of the keys, and load what is below them."""
        keys, values, heads, links = parts
        check_layers(cid, keys, level)
        if level == 0 and any(links):
            _invalid(cid, "subtree below layer 0")
        children: list[Child] = [*links]
        blocks = self.blocks
        for at, link in enumerate(links):
            if link is not None and link in blocks:
                before = keys[at - 1] if at else low
                after = keys[at] if at < len(keys) else high
                children[at] = self._child(link, level - 1, before, after)
        return Node(cid, level, keys, values, heads, children)
