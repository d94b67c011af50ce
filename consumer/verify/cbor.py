"""DAG-CBOR, strictly: one sequence of bytes for one value.  Pure.

Rules: https://ipld.io/specs/codecs/dag-cbor/spec/ with the narrowing of
https://atproto.com/specs/data-model: shortest heads, definite lengths, text map keys in
length-first order without repeats, tag 42 only, no floats, no undefined, nothing after the item;
CIDs are version 1, dag-cbor or raw, SHA-256.

libipld decodes and, encoding the value again, gives the canonical bytes: if those equal the
input, the input was canonical.  It cannot tell a byte string that looks like a CID from a CID;
there the bytes differ, and the plain reader in ``scan.py`` decides, as in every other doubt.
"""

from __future__ import annotations

from typing import Any

import cbor2
import libipld

from consumer.errors import Reason, Refused
from consumer.verify.scan import LINK_HEAD, Link, Reader
from procedures.syntax import DAG_CBOR_PREFIX, RAW_PREFIX, is_cid

__all__ = ["FRAME_DEPTH", "RECORD_DEPTH", "Link", "decode", "decode_items", "encode"]

RECORD_DEPTH = 32
FRAME_DEPTH = 64

_TAG = LINK_HEAD[:2]
_DAG_CBOR_LINK = LINK_HEAD + DAG_CBOR_PREFIX
_RAW_LINK = LINK_HEAD + RAW_PREFIX
_FLOAT = b"\xfb"  # the head of the only floats that libipld reads
_FLOATS = (b"\xf9", b"\xfa", _FLOAT)


def decode(data: bytes, max_depth: int = RECORD_DEPTH) -> Any:
    """Return the value of exactly one item; CIDs are ``Link``, all else plain Python.

    ``max_depth`` bounds how deep arrays and maps nest.  Raises ``Refused(CBOR_INVALID)``.
    """
    value = _canonical(data)
    if value is _DOUBTFUL or _exceeds(value, max_depth):
        reader = Reader(data, max_depth)
        value = reader.item()
        if not reader.finished:
            raise Refused(Reason.CBOR_INVALID, f"{len(data) - reader.position} bytes too many")
        return value
    return _linked(value) if _TAG in data else value


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


_DOUBTFUL = object()


def _canonical(data: bytes) -> Any:
    """Return libipld's value if it proves ``data`` strict, else ``_DOUBTFUL``.

    The head of a float, and of a tag without the one legal form of CID, may also be bytes
    inside a string: that is a doubt, not an error.
    """
    try:
        value = libipld.decode_dag_cbor(data)
        same = libipld.encode_dag_cbor(value) == data
    except (ValueError, RecursionError):
        return _DOUBTFUL
    if not same or _FLOAT in data:
        return _DOUBTFUL
    tags = data.count(_TAG)
    if tags and tags != data.count(_DAG_CBOR_LINK) + data.count(_RAW_LINK):
        return _DOUBTFUL
    return value


def _exceeds(value: object, max_depth: int) -> bool:
    level: list[Any] = [value] if type(value) is dict or type(value) is list else []
    for _ in range(max_depth):
        level = [
            item
            for container in level
            for item in (container.values() if type(container) is dict else container)
            if type(item) is dict or type(item) is list
        ]
        if not level:
            return False
    return bool(level)


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
