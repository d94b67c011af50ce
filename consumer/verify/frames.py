"""Frames of ``com.atproto.sync.subscribeRepos``: bytes to values.  Pure.

Specification: https://atproto.com/specs/event-stream and /specs/sync.  A frame is two DAG-CBOR
items, header and body, with nothing after them.  ``decode_frame`` proves both canonical and
every field it uses of the right type; ``peek`` is the cheaper look by which the tailer filters.
Fields that are unknown, dead (``tooBig``, ``rebase``, ``blobs``) or only repeat others are not
looked at.  What a commit claims is not checked here: see ``commit.py``.

Both raise ``Refused`` with ``FRAME_TOO_BIG``, ``FRAME_MALFORMED`` or ``FRAME_UNKNOWN_TYPE``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NoReturn, TypeVar

import libipld

from consumer.errors import Reason, Refused
from consumer.verify.cbor import FRAME_DEPTH, Link, decode_items
from procedures.syntax import is_cid, is_did, is_tid

MAX_FRAME = 5_000_000

_MAX_SEQ = 2**63 - 1
_TIME = re.compile(
    r"\d{4}-[01]\d-[0-3]\dT[0-2]\d:[0-6]\d:[0-6]\d(?:\.\d{1,20})?(?:Z|[+-][0-2]\d:[0-5]\d)"
)
_SHOWN = 64  # of an unexpected text, in a message

T = TypeVar("T")


class Kind(StrEnum):
    """What a frame is: its header's ``t``, or an error (``op`` -1)."""

    COMMIT = "#commit"
    SYNC = "#sync"
    ACCOUNT = "#account"
    IDENTITY = "#identity"
    INFO = "#info"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class RawOp:
    """One entry of ``ops``, unchecked but for types; ``cid`` and ``prev`` are binary CIDs."""

    action: str
    path: str
    cid: bytes | None
    prev: bytes | None


@dataclass(frozen=True, slots=True)
class CommitFrame:
    """``blocks`` is a CAR, ``commit`` and ``prev_data`` binary CIDs."""

    seq: int
    did: str
    rev: str
    since: str | None
    time: str
    commit: bytes
    blocks: bytes
    ops: tuple[RawOp, ...]
    prev_data: bytes | None


@dataclass(frozen=True, slots=True)
class SyncFrame:
    seq: int
    did: str
    rev: str
    time: str
    blocks: bytes


@dataclass(frozen=True, slots=True)
class AccountFrame:
    seq: int
    did: str
    time: str
    active: bool
    status: str | None


@dataclass(frozen=True, slots=True)
class IdentityFrame:
    seq: int
    did: str
    time: str
    handle: str | None


@dataclass(frozen=True, slots=True)
class InfoFrame:
    name: str
    message: str | None


@dataclass(frozen=True, slots=True)
class ErrorFrame:
    error: str
    message: str | None


Frame = CommitFrame | SyncFrame | AccountFrame | IdentityFrame | InfoFrame | ErrorFrame


@dataclass(frozen=True, slots=True)
class Peek:
    """As much of a frame as decides whether it is kept; ``paths`` are those of a commit's ops."""

    kind: Kind
    seq: int | None
    did: str | None
    time: str | None
    paths: tuple[str, ...] = ()


def decode_frame(data: bytes, limit: int = MAX_FRAME) -> Frame:
    """Return the frame in ``data``, at most ``limit`` bytes long."""
    header, body = _items(data, limit)
    if not _proved_canonical(data, header, body):
        header, body = _reread(data)
    match _kind(header):
        case Kind.COMMIT:
            return _commit(body)
        case Kind.SYNC:
            return _sync(body)
        case Kind.ACCOUNT:
            return _account(body)
        case Kind.IDENTITY:
            return _identity(body)
        case Kind.INFO:
            return InfoFrame(_text(body, "name"), _optional_text(body, "message"))
        case Kind.ERROR:
            return ErrorFrame(_text(body, "error"), _optional_text(body, "message"))


def peek(data: bytes, limit: int = MAX_FRAME) -> Peek:
    """Return what the tailer needs to know of the frame in ``data``.

    Only the fields of the answer are checked; a frame that passes may still be refused by
    ``decode_frame``, never the other way round.
    """
    header, body = _items(data, limit)
    kind = _kind(header)
    match kind:
        case Kind.INFO | Kind.ERROR:
            return Peek(kind, None, None, None)
        case Kind.COMMIT:
            paths = tuple([_text(op, "path") for op in _ops(body)])
            return Peek(kind, _seq(body), _did(body, "repo"), _time(body), paths)
    return Peek(kind, _seq(body), _did(body, "did"), _time(body))


def _malformed(problem: str) -> NoReturn:
    raise Refused(Reason.FRAME_MALFORMED, problem)


def _items(data: bytes, limit: int) -> tuple[dict[str, Any], dict[str, Any]]:
    if len(data) > limit:
        raise Refused(Reason.FRAME_TOO_BIG, f"{len(data)} bytes, at most {limit}")
    try:
        items = libipld.decode_dag_cbor_multi(data)
    except (ValueError, RecursionError) as error:
        _malformed(str(error))
    return _header_and_body(items)


def _header_and_body(items: list[Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    if len(items) != 2 or type(items[0]) is not dict or type(items[1]) is not dict:  # noqa: PLR2004
        _malformed("not two maps, header and body")
    return items[0], items[1]


def _proved_canonical(data: bytes, header: dict[str, Any], body: dict[str, Any]) -> bool:
    """Tell whether encoding again gives the same bytes, and no float or deep nesting can hide."""
    encode = libipld.encode_dag_cbor
    return bool(encode(header) + encode(body) == data and _flat(body))


def _flat(body: dict[str, Any]) -> bool:
    """Tell whether a body has the shape of those that are known: scalars, lists of maps of them.

    Whatever else a body has is for the plain reader to judge.
    """
    if _SCALARS.issuperset(map(type, body.values())):
        return True
    for value in body.values():
        if type(value) is list:
            for item in value:
                if type(item) is dict and not _SCALARS.issuperset(map(type, item.values())):
                    return False
                if type(item) is not dict and type(item) not in _SCALARS:
                    return False
        elif type(value) not in _SCALARS:
            return False
    return True


_SCALARS = frozenset((int, str, bytes, bool, type(None)))


def _reread(data: bytes) -> tuple[dict[str, Any], dict[str, Any]]:
    try:
        items = decode_items(data, FRAME_DEPTH)
    except Refused as error:
        _malformed(error.detail)
    return _header_and_body([_unlinked(item) for item in items])


def _unlinked(value: Any) -> Any:
    """Give links their form in libipld's values, and hide from them bytes that only look alike."""
    match value:
        case Link(raw):
            return raw
        case dict():
            return {key: _unlinked(item) for key, item in value.items()}
        case list():
            return [_unlinked(item) for item in value]
        case bytes() if is_cid(value):
            return bytearray(value)
    return value


def _kind(header: dict[str, Any]) -> Kind:
    op, name = header.get("op"), header.get("t")
    if op == -1 and name is None:
        return Kind.ERROR
    if op != 1 or type(name) is not str:
        _malformed("header is neither that of a message nor of an error")
    kind = _KINDS.get(name)
    if kind is None:
        raise Refused(Reason.FRAME_UNKNOWN_TYPE, name[:_SHOWN])
    return kind


_KINDS = {kind.value: kind for kind in Kind if kind is not Kind.ERROR}


def _commit(body: dict[str, Any]) -> CommitFrame:
    return CommitFrame(
        seq=_seq(body),
        did=_did(body, "repo"),
        rev=_rev(body, "rev"),
        since=None if body.get("since") is None else _rev(body, "since"),
        time=_time(body),
        commit=_cid(body, "commit"),
        blocks=_blocks(body),
        ops=tuple([_op(op) for op in _ops(body)]),
        prev_data=_optional_cid(body, "prevData"),
    )


def _op(op: dict[str, Any]) -> RawOp:
    return RawOp(
        _text(op, "action"), _text(op, "path"), _optional_cid(op, "cid"), _optional_cid(op, "prev")
    )


def _sync(body: dict[str, Any]) -> SyncFrame:
    return SyncFrame(
        seq=_seq(body),
        did=_did(body, "did"),
        rev=_rev(body, "rev"),
        time=_time(body),
        blocks=_blocks(body),
    )


def _account(body: dict[str, Any]) -> AccountFrame:
    return AccountFrame(
        seq=_seq(body),
        did=_did(body, "did"),
        time=_time(body),
        active=_field(body, "active", bool),
        status=_optional_text(body, "status"),
    )


def _identity(body: dict[str, Any]) -> IdentityFrame:
    return IdentityFrame(
        seq=_seq(body),
        did=_did(body, "did"),
        time=_time(body),
        handle=_optional_text(body, "handle"),
    )


def _field(body: dict[str, Any], name: str, kind: type[T]) -> T:
    value = body.get(name)
    if type(value) is not kind:
        _malformed(f"{name} is {type(value).__name__}, not {kind.__name__}")
    return value


def _text(body: dict[str, Any], name: str) -> str:
    return _field(body, name, str)


def _optional_text(body: dict[str, Any], name: str) -> str | None:
    return None if body.get(name) is None else _field(body, name, str)


def _seq(body: dict[str, Any]) -> int:
    seq = _field(body, "seq", int)
    if not 0 <= seq <= _MAX_SEQ:
        _malformed(f"seq is out of range: {seq}")
    return seq


def _did(body: dict[str, Any], name: str) -> str:
    did = _field(body, name, str)
    if not is_did(did):
        _malformed(f"{name} is not a DID: {did[:_SHOWN]!r}")
    return did


def _rev(body: dict[str, Any], name: str) -> str:
    rev = _field(body, name, str)
    if not is_tid(rev):
        _malformed(f"{name} is not a TID: {rev[:_SHOWN]!r}")
    return rev


def _time(body: dict[str, Any]) -> str:
    time = _field(body, "time", str)
    if _TIME.fullmatch(time) is None:
        _malformed(f"time is not a datetime: {time[:_SHOWN]!r}")
    return time


def _cid(body: dict[str, Any], name: str) -> bytes:
    cid = body.get(name)
    if not is_cid(cid):
        _malformed(f"{name} is not a CID")
    return cid


def _optional_cid(body: dict[str, Any], name: str) -> bytes | None:
    return None if body.get(name) is None else _cid(body, name)


def _blocks(body: dict[str, Any]) -> bytes:
    blocks = _field(body, "blocks", bytes)
    if is_cid(blocks):  # a link, since both are bytes here; a CAR begins with another byte
        _malformed("blocks is a CID, not bytes")
    return blocks


def _ops(body: dict[str, Any]) -> list[dict[str, Any]]:
    ops = _field(body, "ops", list)
    for op in ops:
        if type(op) is not dict:
            _malformed("ops is not a list of maps")
    return ops
