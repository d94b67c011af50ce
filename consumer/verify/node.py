"""The block of a node of a Merkle search tree: bytes to keys, values and links, and back.  Pure.

Specification: https://atproto.com/specs/repository#mst-structure.  A node is DAG-CBOR,
``{"e": [{"k": …, "p": …, "t": …, "v": …}, …], "l": …}``, and has one canonical form.  So it is
read by position, without a decoder: what is not where it must be is not a node.

A key is the first ``p`` bytes of the key before it and then ``k``.  ``v`` is the CID of its record,
``t`` and ``l`` link to the nodes right and left of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NoReturn

from consumer.errors import Reason, Refused
from procedures.syntax import CID_LENGTH, CID_PREFIXES, DAG_CBOR_PREFIX, MAX_PATH, cid_text

# Major types of DAG-CBOR, and the pieces that are the same in every node.
_UNSIGNED: Final = 0x00
_BYTES: Final = 0x40
_ARRAY: Final = 0x80
_FORM: Final = "not of the form of a node"
_BEGIN: Final = b"\xa2\x61e"
_KEY: Final = b"\xa4\x61k"
_SHARED: Final = b"\x61p"
_RIGHT: Final = b"\x61t"
_LINK: Final = b"\xd8\x2a\x58\x25\x00"  # tag 42, 37 bytes, of which the first is zero
_VALUE: Final = b"\x61v" + _LINK
_LEFT: Final = b"\x61l"
_NULL: Final = b"\xf6"
_RIGHT_NULL: Final = _RIGHT + _NULL
_LEFT_NULL: Final = _LEFT + _NULL

# A number up to 23 is in the head itself, a larger one in the bytes behind it.  No block has room
# for what one of 8 bytes would count.
_LARGEST_IN_HEAD: Final = 23
_SIZES: Final = {24: 1, 25: 2, 26: 4}
_LEAST: Final = {1: 24, 2: 1 << 8, 4: 1 << 16}

Parts = tuple[list[bytes], list[bytes], list[bytes], list[bytes | None]]
"""Keys, values, heads (see ``head_of``), and links, of which there is one more."""


def parse_node(cid: bytes, block: bytes) -> Parts:
    """Return the parts of the node in ``block``, whose CID is for messages.

    What the block alone can prove is checked: its form, the order of the keys, their prefixes.
    Raises ``Refused(TREE_INVALID)``.
    """
    if block[: len(_BEGIN)] != _BEGIN:
        _invalid(cid, _FORM)
    try:
        return _parts(cid, block)
    except IndexError:
        _invalid(cid, "cut off")


def encode_node(
    heads: Sequence[bytes], values: Sequence[bytes], links: Sequence[bytes | None]
) -> bytes:
    """Return the block of a node, which ``parse_node`` reads."""
    pieces = [_BEGIN, _number_of(_ARRAY, len(heads))]
    for at, head in enumerate(heads):
        pieces += (head, _link_of(links[at + 1]), _VALUE, values[at])
    pieces += (_LEFT, _link_of(links[0]))
    return b"".join(pieces)


def head_of(key: bytes, shared: int) -> bytes:
    """Return an entry up to its link: ``key``, of which the first ``shared`` bytes are left out."""
    rest = key[shared:]
    return b"".join(
        (_KEY, _number_of(_BYTES, len(rest)), rest, _SHARED, _number_of(_UNSIGNED, shared), _RIGHT)
    )


def _invalid(cid: bytes, problem: str) -> NoReturn:
    raise Refused(Reason.TREE_INVALID, f"node {cid_text(cid)}: {problem}")


def _parts(cid: bytes, block: bytes) -> Parts:
    """Return what ``parse_node`` does; raise ``IndexError`` too, for a block that is cut off."""
    keys: list[bytes] = []
    values: list[bytes] = []
    heads: list[bytes] = []
    links: list[bytes | None] = [None]
    key, size = b"", 0
    count, at = _number(cid, block, len(_BEGIN), _ARRAY)
    for _ in range(count):
        start = at
        length, at = _number(cid, block, start + len(_KEY), _BYTES)
        end = at + length
        suffix = block[at:end]
        shared, at = _number(cid, block, end + 2, _UNSIGNED)
        if block[start : start + 3] != _KEY or block[end : end + 2] != _SHARED:
            _invalid(cid, _FORM)
        heads.append(block[start : at + 2])
        previous, key = key, key[:shared] + suffix
        if key <= previous:
            _invalid(cid, "keys not in order")
        if shared != size and (shared > size or previous[shared] == suffix[0]):
            _invalid(cid, "prefix compression is not exact")
        size = len(key)
        if size > MAX_PATH:
            _invalid(cid, f"key of {size} bytes, at most {MAX_PATH}")
        link = None
        if block[at : at + 3] == _RIGHT_NULL:
            at += 3
        else:
            link, at = _link(cid, block, at, _RIGHT)
        start = at + len(_VALUE)
        end = start + CID_LENGTH
        value = block[start:end]
        if block[at:start] != _VALUE or value[:4] not in CID_PREFIXES:
            _invalid(cid, "value that is not the CID of a record")
        keys.append(key)
        values.append(value)
        links.append(link)
        at = end
    if block[at:] != _LEFT_NULL:
        links[0], at = _link(cid, block, at, _LEFT)
        if at != len(block):
            _invalid(cid, _FORM)
    return keys, values, heads, links


def _number(cid: bytes, block: bytes, at: int, major: int) -> tuple[int, int]:
    """Return the number in the head at ``at``, and where the head ends."""
    number = block[at] - major
    if 0 <= number <= _LARGEST_IN_HEAD:
        return number, at + 1
    size = _SIZES.get(number)
    if size is None:
        _invalid(cid, _FORM)
    end = at + 1 + size
    number = int.from_bytes(block[at + 1 : end], "big")
    if number < _LEAST[size] or end > len(block):
        _invalid(cid, "number not in its shortest form")
    return number, end


def _number_of(major: int, number: int) -> bytes:
    """Return the head that says ``number``."""
    if number <= _LARGEST_IN_HEAD:
        return bytes((major + number,))
    for head, size in _SIZES.items():
        if number < 1 << (8 * size):
            return bytes((major + head,)) + number.to_bytes(size, "big")
    raise AssertionError("a node is smaller")


def _link(cid: bytes, block: bytes, at: int, name: bytes) -> tuple[bytes, int]:
    """Return the link under ``name`` at ``at``, and where it ends."""
    start = at + len(name) + len(_LINK)
    end = start + CID_LENGTH
    link = block[start:end]
    if block[at:start] != name + _LINK or link[:4] != DAG_CBOR_PREFIX or end > len(block):
        _invalid(cid, "link that is not the CID of a node")
    return link, end


def _link_of(link: bytes | None) -> bytes:
    return _NULL if link is None else _LINK + link
