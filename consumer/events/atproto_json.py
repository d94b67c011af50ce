"""Records as atproto JSON: the ``$link`` and ``$bytes`` projection of DAG-CBOR.  Pure.

``to_json(data)`` gives the JSON text of one record, or None when the bytes are not valid
atproto data and must be sent as they are:

- not strict DAG-CBOR (``consumer.verify.cbor``), or not a map at the top;
- a float, an integer beyond signed 64 bit, more than ``RECORD_DEPTH`` nested containers;
- a link that is not CIDv1, SHA-256, of codec dag-cbor or raw;
- a map with a key ``$link`` or ``$bytes``: its JSON would read back as something else.

Source of the rules: https://atproto.com/specs/data-model.

The bulk of the work is done by libipld and orjson without a loop in Python.  libipld gives a
link as the bytes of its CID and, encoding, makes a link of all bytes that parse as a CID.
So when re-encoding gives the same bytes, a value is a link exactly when it parses as a CID.
When it does not, there may be bytes that only look like one: the strict decoder tells.
"""

from __future__ import annotations

from binascii import b2a_base64
from typing import Any

import libipld
import orjson

from consumer.errors import Refused
from consumer.verify import cbor
from consumer.verify.scan import SMALL, check_items
from procedures.syntax import cid_text, is_cid

_TAG_HEAD = b"\xd8"
# Byte strings take some microseconds each: many are admitted only if they are long.
_FEW_STRINGS, _BYTES_PER_STRING = 256, 16
_SLOW_LIMIT = 64 * 1024  # bytes; the strict decoder takes some microseconds for each
_FLOAT_HEAD = 0xFB  # of the only floats that re-encode to themselves
_INT64 = range(-(2**63), 2**63)


class _Inadmissible(Exception):
    """The value has no faithful atproto JSON."""


def base64_unpadded(data: bytes) -> str:
    """Return ``data`` in standard base64 without padding, as ``$bytes`` wants it."""
    return b2a_base64(data, newline=False).rstrip(b"=").decode()


def to_json(data: bytes, limit: int) -> bytes | None:
    """Return the atproto JSON of one DAG-CBOR record, or None.

    None if it has no JSON or one of more than ``limit`` bytes, or if making it would hold up the
    lane: too many items, or too many bytes where only the strict decoder can tell.
    """
    try:
        if len(data) > SMALL:
            check_items(data, cbor.MAX_ITEMS)
        value = libipld.decode_dag_cbor(data)
        if type(value) is not dict:
            return None
        if libipld.encode_dag_cbor(value) != data:
            text = _by_strict_decoder(data)
        else:
            suspect = _is_suspect(data)
            if suspect:
                _check(value)
            text = _by_default(value, _FEW_STRINGS + len(data) // _BYTES_PER_STRING)
            if not suspect and text.count(b"{") + text.count(b"[") > cbor.RECORD_DEPTH:
                _check(value)
    except (_Inadmissible, ValueError, TypeError, RecursionError, Refused):
        return None
    return text if len(text) <= limit else None


def _is_suspect(data: bytes) -> bool:
    """Tell cheaply that ``_check`` must look: these bytes may be part of a hash or a text."""
    return _FLOAT_HEAD in data or b"$link" in data or b"$bytes" in data


def _by_default(value: dict[str, Any], max_strings: int) -> bytes:
    strings = 0

    def leaf(value: object) -> dict[str, str]:
        nonlocal strings
        if is_cid(value):
            return {"$link": cid_text(value)}
        strings += 1
        if type(value) is not bytes or strings > max_strings or _is_other_link(value):
            raise _Inadmissible
        return {"$bytes": base64_unpadded(value)}

    try:
        text = orjson.dumps(value, default=leaf, option=orjson.OPT_STRICT_INTEGER)
    except orjson.JSONEncodeError as error:
        if isinstance(error.__cause__, _Inadmissible):
            raise
        _check(value)  # an integer beyond 53 bit: is it beyond 64 as well?
        strings = 0
        text = orjson.dumps(value, default=leaf)
    return text


def _is_other_link(value: bytes) -> bool:
    """Tell whether libipld takes ``value`` for a CID of some other kind, and so as a link."""
    return bytes(libipld.encode_dag_cbor(value)[:1]) == _TAG_HEAD


def _by_strict_decoder(data: bytes) -> bytes:
    """Project with the decoder that tells links from bytes by their tags."""
    if len(data) > _SLOW_LIMIT:
        raise _Inadmissible
    value = cbor.decode(data)
    _check(value)
    return orjson.dumps(value, default=_strict_leaf, option=orjson.OPT_PASSTHROUGH_DATACLASS)


def _strict_leaf(value: object) -> dict[str, str]:
    if type(value) is cbor.Link:
        return {"$link": cid_text(value.raw)}
    if type(value) is bytes:
        return {"$bytes": base64_unpadded(value)}
    raise TypeError


def _check(value: Any) -> None:
    """Raise unless every value in the tree has a faithful JSON, and none is too deep."""
    level = [value]
    for _ in range(cbor.RECORD_DEPTH):
        inner = []
        for container in level:
            items = container
            if type(container) is dict:
                if "$link" in container or "$bytes" in container:
                    raise _Inadmissible
                items = container.values()
            for item in items:
                kind = type(item)
                if kind is dict or kind is list:
                    inner.append(item)
                elif kind is float or (kind is int and item not in _INT64):
                    raise _Inadmissible
        if not inner:
            return
        level = inner
    raise _Inadmissible
