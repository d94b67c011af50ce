"""DAG-CBOR, strictly: one sequence of bytes for one value.  Pure.

Rules: https://ipld.io/specs/codecs/dag-cbor/spec/ with the narrowing of
https://atproto.com/specs/data-model: shortest heads, definite lengths, text map keys in
length-first order without repeats, tag 42 only, no floats, no undefined, nothing after the item;
CIDs are version 1, dag-cbor or raw, SHA-256.

libipld decodes all of that and somewhat more; encoding its value again gives the canonical bytes,
and if those equal the input, the input was canonical. But it cannot tell a byte string that
looks like a CID from a CID, and takes CIDs of any kind: only there the plain reader in
``scan.py`` decides, which is slow.
"""

from __future__ import annotations

from typing import Any

import cbor2
import libipld

from consumer.errors import Reason, Refused
from consumer.verify.scan import LINK_HEAD, SMALL, Link, Reader, check_items
from procedures.syntax import DAG_CBOR_PREFIX, RAW_PREFIX, is_cid

__all__ = ["FRAME_DEPTH", "MAX_ITEMS", "RECORD_DEPTH", "Link", "decode", "decode_items", "encode"]

RECORD_DEPTH = 32
FRAME_DEPTH = 64
MAX_ITEMS = 100_000

_TAG = LINK_HEAD[:2]
_DAG_CBOR_LINK = LINK_HEAD + DAG_CBOR_PREFIX
_RAW_LINK = LINK_HEAD + RAW_PREFIX
_FLOAT = b"\xfb"  # the head of the only floats that libipld reads
_FLOATS = (b"\xf9", b"\xfa", _FLOAT)


def decode(data: bytes, max_depth: int = RECORD_DEPTH) -> Any:
    """Return the value of exactly one item; CIDs are ``Link``, all else plain Python.

    ``max_depth`` bounds how deep arrays and maps nest; items are ``MAX_ITEMS`` at most.
    Raises ``Refused(CBOR_INVALID)``.
    """
    if len(data) > SMALL:
        check_items(data, MAX_ITEMS)
    try:
        value = libipld.decode_dag_cbor(data)
        encoded = libipld.encode_dag_cbor(value)
    except (ValueError, RecursionError) as error:
        raise Refused(Reason.CBOR_INVALID, str(error)) from error
    check_nesting(value, max_depth)
    if _FLOAT in data:
        check_floats(value)
    tags = data.count(_TAG)
    if encoded != data or tags != data.count(_DAG_CBOR_LINK) + data.count(_RAW_LINK):
        reader = Reader(data, max_depth)
        return reader.item()
    return _linked(value) if tags else value


def check_nesting(value: object, max_depth: int) -> None:
    """Refuse a decoded value in which arrays and maps nest deeper than ``max_depth``."""
    level: list[Any] = [value] if type(value) is dict or type(value) is list else []
    for _ in range(max_depth):
        level = [
            item
            for container in level
            for item in (container.values() if type(container) is dict else container)
            if type(item) is dict or type(item) is list
        ]
        if not level:
            return
    if level:
        raise Refused(Reason.CBOR_INVALID, f"nested deeper than {max_depth}")


def check_floats(value: object) -> None:
    """Refuse a decoded value with a float anywhere in it."""
    found: list[Any] = [value]
    for item in found:  # which grows meanwhile
        if type(item) is float:
            raise Refused(Reason.CBOR_INVALID, "float")
        if type(item) is dict:
            found += item.values()
        elif type(item) is list:
            found += item


def decode_items(data: bytes, max_depth: int = FRAME_DEPTH) -> list[Any]:
    """Return the values of all items that follow one another in ``data``, as ``decode`` does."""
    reader = Reader(data, max_depth)
    items = []
    while not reader.finished:
        items.append(reader.item())
    return items


def encode(value: Any) -> bytes:
    """Return the canonical bytes of ``value``; floats are refused with ``CBOR_INVALID``."""
    data = cbor2.dumps(value, canonical=True, default=_encode_link)
    if any(head in data for head in _FLOATS):
        decode(data, FRAME_DEPTH)
    return data


def _linked(value: Any) -> Any:
    """Replace CIDs, which are bytes in a value proved canonical, by ``Link``."""
    if type(value) is dict:
        return {key: _linked(item) for key, item in value.items()}
    if type(value) is list:
        return [_linked(item) for item in value]
    return Link(value) if is_cid(value) else value


def _encode_link(encoder: Any, value: object) -> None:
    if not isinstance(value, Link):
        raise TypeError(f"no DAG-CBOR form: {type(value).__name__}")
    encoder.encode(cbor2.CBORTag(42, b"\x00" + value.raw))
