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

import re
from collections.abc import Mapping
from hashlib import sha256
from typing import Any, NoReturn

import libipld

from consumer.errors import Reason, Refused
from consumer.verify.cbor import Link, decode, encode
from consumer.verify.scan import check_items
from consumer.verify.verified import EMPTY_TREE
from procedures.syntax import CID_LENGTH, DAG_CBOR_PREFIX, MAX_PATH, RAW_PREFIX, cid_text

__all__ = ["EMPTY_TREE", "Node", "encode_node", "layer", "load", "parse_node"]

MAX_HEIGHT = 64
_LARGE = 8_192  # bytes; only trees made of chosen keys have larger nodes
_BYTES_PER_ITEM = 5  # of an entry, which has ten in at least 54

# An entry's "k", and behind it the tag of a link: libipld takes the rest of a key for a CID.
# For so few bytes a pattern is found in half the time that ``in`` takes.
_key_as_link = re.compile(rb"ak\xd8\x2a").search

# The layer by the first byte of the hash; a zero byte leaves it to those that follow.
_LAYER_OF_BYTE = [-1] + [(8 - byte.bit_length()) // 2 for byte in range(1, 256)]
_HASH_BITS = 256


class Node:
    """A node of a tree; ``children`` has one place more than ``keys`` and ``entries``.

    ``entries`` are the node's own, as decoded. A child is a ``Node``, the CID of a subtree without
    a block, or None for no subtree. ``cid`` is None while the node is being changed.
    """

    __slots__ = ("children", "cid", "entries", "keys", "level")

    def __init__(
        self,
        cid: bytes | None,
        level: int,
        keys: list[bytes],
        entries: list[dict[str, Any]],
        children: list[Child],
    ) -> None:
        self.cid = cid
        self.level = level
        self.keys = keys
        self.entries = entries
        self.children = children


Child = Node | bytes | None


def layer(key: bytes) -> int:
    """Return the layer of ``key``: half the number of leading zero bits of its SHA-256."""
    digest = sha256(key).digest()
    if digest[0]:
        return _LAYER_OF_BYTE[digest[0]]
    return (_HASH_BITS - int.from_bytes(digest, "big").bit_length()) // 2


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
        _, keys, links = parts
        if not keys and links[0] is not None:
            _invalid(cid, "root without keys")
        level = layer(keys[0]) if keys else 0
        if level > MAX_HEIGHT:
            _invalid(cid, f"height {level}, at most {MAX_HEIGHT}")
        return self._node(cid, level, parts, b"", None)

    def _child(self, cid: bytes, level: int, low: bytes, high: bytes | None) -> Node:
        parts = self._read(cid)
        _, keys, links = parts
        if not keys:
            if links[0] is None:
                _invalid(cid, "empty node")
        elif keys[0] <= low or (high is not None and keys[-1] >= high):
            _invalid(cid, "keys outside the bounds of the nodes above")
        return self._node(cid, level, parts, low, high)

    def _read(self, cid: bytes) -> _Parts:
        if cid in self.seen:
            _invalid(cid, "in two places")
        self.seen.add(cid)
        return parse_node(cid, self.blocks[cid])

    def _node(self, cid: bytes, level: int, parts: _Parts, low: bytes, high: bytes | None) -> Node:
        """Check the layers of the keys, and load what is below them."""
        entries, keys, links = parts
        for key in keys:
            if _LAYER_OF_BYTE[sha256(key).digest()[0]] != level and layer(key) != level:
                _invalid(cid, f"key {key!r} is not of layer {level}")
        if level == 0 and any(links):
            _invalid(cid, "subtree below layer 0")
        children: list[Child] = [*links]
        blocks = self.blocks
        for at, link in enumerate(links):
            if link in blocks and link is not None:
                before = keys[at - 1] if at else low
                after = keys[at] if at < len(keys) else high
                children[at] = self._child(link, level - 1, before, after)
        return Node(cid, level, keys, entries, children)


_Parts = tuple[list[dict[str, Any]], list[bytes], list[bytes | None]]
_FIELDS_OF_NODE = 2  # e and l
_FIELDS_OF_ENTRY = 4  # k, p, t and v


def parse_node(cid: bytes, block: bytes) -> _Parts:
    """Return the entries, keys and links of a node, which has one link more than keys.

    What the block alone can prove is checked: its form, the order of the keys, their prefixes.
    Raises ``Refused(TREE_INVALID)``.
    """
    node = _decoded(cid, block)
    try:
        entries, links = node["e"], [node["l"]]
        if type(entries) is not list or len(node) != _FIELDS_OF_NODE:
            _invalid(cid, "not of the form of a node")
        keys = _keys(cid, entries)
        links += [entry["t"] for entry in entries]
        # Since encoding again gave the same bytes, what looks like a CID was a CID.
        for link in links:
            if link is not None and (link[:4] != DAG_CBOR_PREFIX or len(link) != CID_LENGTH):
                _invalid(cid, "link that is not the CID of a node")
    except (KeyError, TypeError):
        _invalid(cid, "not of the form of a node")
    return entries, keys, links


def encode_node(entries: list[dict[str, Any]], left: bytes | None) -> bytes:
    """Return the block of a node: the canonical DAG-CBOR of what ``parse_node`` reads.

    The rest of a key that looks like a CID is one for libipld, so it is encoded beside it.
    """
    block = libipld.encode_dag_cbor({"e": entries, "l": left})
    if _key_as_link(block) is None:
        return block
    return encode(
        {
            "e": [
                {
                    "k": entry["k"],
                    "p": entry["p"],
                    "t": None if entry["t"] is None else Link(entry["t"]),
                    "v": Link(entry["v"]),
                }
                for entry in entries
            ],
            "l": None if left is None else Link(left),
        }
    )


def _decoded(cid: bytes, block: bytes) -> Any:
    try:
        if len(block) > _LARGE:
            check_items(block, len(block) // _BYTES_PER_ITEM)
        node = libipld.decode_dag_cbor(block)
        if libipld.encode_dag_cbor(node) == block and _key_as_link(block) is None:
            return node
    except RecursionError:
        _invalid(cid, "nested too deep")
    except Refused as error:
        _invalid(cid, error.detail)
    except ValueError as error:
        _invalid(cid, str(error))
    return _with_odd_keys(cid, block)


def _with_odd_keys(cid: bytes, block: bytes) -> Any:
    """Return a node in which keys may look like CIDs, links as bytes."""
    try:
        node = decode(block)
    except Refused as error:
        _invalid(cid, f"not canonical DAG-CBOR: {error.detail}")
    if not isinstance(node, dict) or not isinstance(node.get("e"), list):
        _invalid(cid, "not of the form of a node")
    for entry in [node, *node["e"]]:
        if not isinstance(entry, dict) or isinstance(entry.get("k"), Link):
            _invalid(cid, "not of the form of a node")
        for name in ("l", "t", "v"):
            if type(entry.get(name)) is bytes:
                _invalid(cid, "bytes in the place of a link")
            if isinstance(entry.get(name), Link):
                entry[name] = entry[name].raw
    return node


def _keys(cid: bytes, entries: list[dict[str, Any]]) -> list[bytes]:
    """Return the keys of a node, and check its entries but for the links."""
    keys: list[bytes] = []
    previous, size = b"", 0
    for entry in entries:
        suffix, shared, value = entry["k"], entry["p"], entry["v"]
        key = previous[:shared] + suffix
        if key <= previous:
            _invalid(cid, "keys not in order")
        if shared != size and (not 0 <= shared < size or previous[shared] == suffix[0]):
            _invalid(cid, "prefix compression is not exact")
        if (value[:4] != DAG_CBOR_PREFIX and value[:4] != RAW_PREFIX) or len(value) != CID_LENGTH:
            _invalid(cid, "value that is not the CID of a record")
        size = len(key)
        if size > MAX_PATH or type(shared) is not int or len(entry) != _FIELDS_OF_ENTRY:
            _invalid(cid, "not of the form of a node")
        keys.append(key)
        previous = key
    return keys
