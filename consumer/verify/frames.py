"""Frames of ``com.atproto.sync.subscribeRepos``: bytes to values.  Pure.

Specification: https://atproto.com/specs/event-stream and /specs/sync.  A frame is two DAG-CBOR
items, header and body, with nothing after them.  ``decode_frame`` proves both canonical and
every field it uses of the right type; ``peek`` is the cheaper look by which the tailer filters.
Fields that are unknown, dead (``tooBig``, ``rebase``, ``blobs``) or only repeat others are not
looked at.  What a commit claims is not checked here: see ``commit.py``.

Both raise ``Refused`` with ``FRAME_TOO_BIG``, ``FRAME_MALFORMED`` or ``FRAME_UNKNOWN_TYPE``.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NamedTuple

import libipld

from consumer.errors import Reason, Refused
from consumer.verify import fields
from consumer.verify.cbor import (
    FRAME_DEPTH,
    Link,
    check_floats,
    check_nesting,
    decode_items,
)
from consumer.verify.fields import Body
from consumer.verify.scan import check_items
from procedures.syntax import MAX_DID, is_cid

MAX_FRAME = 5_000_000
_LARGE = 16_384  # bytes; smaller frames are not counted
MAX_ITEMS = 20_000  # of a large frame; one with 200 ops has less than 3,000
MAX_TIME = 64

_SHOWN = 64  # of an unexpected text, in a message


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


class Peek(NamedTuple):
    """As much of a frame as decides whether it is kept; ``paths`` are those of a commit's ops.

    The forms of ``did`` (at most 2,048 characters), ``time`` and ``rev`` (at most 64) are not
    checked; ``rev`` is None if there is none of that length.
    """

    kind: Kind
    seq: int | None
    did: str | None
    time: str | None
    paths: tuple[str, ...] = ()
    rev: str | None = None


def decode_frame(data: bytes, limit: int = MAX_FRAME) -> Frame:
    """Return the frame in ``data``, at most ``limit`` bytes long."""
    header, body = _items(data, limit)
    encoded = libipld.encode_dag_cbor(header) + libipld.encode_dag_cbor(body)
    if encoded != data or not (_flat(header) and _flat(body)):
        header, body = _doubtful(data, encoded, header, body)
    match kind_of(header):
        case Kind.COMMIT:
            return _commit(body)
        case Kind.SYNC:
            return _sync(body)
        case Kind.ACCOUNT:
            return _account(body)
        case Kind.IDENTITY:
            return _identity(body)
        case Kind.INFO:
            return InfoFrame(fields.text(body, "name"), fields.optional_text(body, "message"))
        case Kind.ERROR:
            return ErrorFrame(fields.text(body, "error"), fields.optional_text(body, "message"))


def peek(data: bytes, limit: int = MAX_FRAME) -> Peek:
    """Return what the tailer needs to know of the frame in ``data``.

    Only what the answer needs is checked; a frame that passes may still be refused by
    ``decode_frame``, never the other way round.
    """
    header, body = _items(data, limit)
    kind = kind_of(header)
    if kind is Kind.INFO or kind is Kind.ERROR:
        return Peek(kind, None, None, None)
    is_commit = kind is Kind.COMMIT
    get = body.get
    seq, did, time = get("seq"), get("repo" if is_commit else "did"), get("time")
    if not _plausible(seq, did, time):
        fields.malformed("seq, time or the DID is not what it should be")
    rev = get("rev")
    return Peek(
        kind,
        seq,
        did,
        time,
        _paths(get("ops")) if is_commit else (),
        rev if type(rev) is str and len(rev) <= MAX_TIME else None,
    )


def _plausible(seq: object, did: object, time: object) -> bool:
    """Tell whether they are of their types, in a few steps: every frame comes here."""
    return (
        type(seq) is int
        and 0 <= seq <= fields.MAX_SEQ
        and type(did) is str
        and len(did) <= MAX_DID
        and type(time) is str
        and len(time) <= MAX_TIME
    )


def _paths(ops: object) -> tuple[str, ...]:
    if type(ops) is not list:
        fields.malformed("ops is not a list")
    try:
        paths = tuple([op["path"] for op in ops])
    except (TypeError, KeyError):
        fields.malformed("ops is not a list of maps with a path")
    for path in paths:
        if type(path) is not str:
            fields.malformed("a path is not text")
    return paths


def _items(data: bytes, limit: int) -> tuple[Body, Body]:
    if len(data) > limit:
        raise Refused(Reason.FRAME_TOO_BIG, f"{len(data)} bytes, at most {limit}")
    try:
        if len(data) > _LARGE:
            check_items(data, MAX_ITEMS)
        items = libipld.decode_dag_cbor_multi(data)
    except (ValueError, RecursionError) as error:
        fields.malformed(str(error))
    except Refused as error:
        fields.malformed(error.detail)
    return _header_and_body(items)


def _header_and_body(items: list[Any]) -> tuple[Body, Body]:
    if len(items) != 2 or type(items[0]) is not dict or type(items[1]) is not dict:  # noqa: PLR2004
        fields.malformed("not two maps, header and body")
    return items[0], items[1]


def _flat(body: Body) -> bool:
    """Tell whether a map has the shape of those that are known: scalars, lists of maps of them.

    Then it has no float, and is not deep.
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


def _doubtful(data: bytes, encoded: bytes, header: Body, body: Body) -> tuple[Body, Body]:
    """Return header and body if they are canonical after all."""
    try:
        for item in (header, body):
            check_nesting(item, FRAME_DEPTH)
            check_floats(item)
        if encoded == data:
            return header, body
        return _header_and_body([_unlinked(item) for item in decode_items(data, FRAME_DEPTH)])
    except Refused as error:
        fields.malformed(error.detail)


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


def kind_of(header: Body) -> Kind:
    """Return the kind that a frame's header states."""
    op, name = fields.field(header, "op", int), header.get("t")
    if op == -1 and name is None:
        return Kind.ERROR
    if op != 1 or type(name) is not str:
        fields.malformed("header is neither that of a message nor of an error")
    kind = _KINDS.get(name)
    if kind is None:
        raise Refused(Reason.FRAME_UNKNOWN_TYPE, name[:_SHOWN])
    return kind


_KINDS = {kind.value: kind for kind in Kind if kind is not Kind.ERROR}


def _commit(body: Body) -> CommitFrame:
    return CommitFrame(
        seq=fields.seq(body),
        did=fields.did(body, "repo"),
        rev=fields.rev(body, "rev"),
        since=None if body.get("since") is None else fields.rev(body, "since"),
        time=fields.time(body),
        commit=fields.cid(body, "commit"),
        blocks=fields.blocks(body),
        ops=tuple([_op(op) for op in fields.maps(body)]),
        prev_data=fields.optional_cid(body, "prevData"),
    )


def _op(op: Body) -> RawOp:
    return RawOp(
        fields.text(op, "action"),
        fields.text(op, "path"),
        fields.optional_cid(op, "cid"),
        fields.optional_cid(op, "prev"),
    )


def _sync(body: Body) -> SyncFrame:
    return SyncFrame(
        seq=fields.seq(body),
        did=fields.did(body, "did"),
        rev=fields.rev(body, "rev"),
        time=fields.time(body),
        blocks=fields.blocks(body),
    )


def _account(body: Body) -> AccountFrame:
    return AccountFrame(
        seq=fields.seq(body),
        did=fields.did(body, "did"),
        time=fields.time(body),
        active=fields.field(body, "active", bool),
        status=fields.optional_text(body, "status"),
    )


def _identity(body: Body) -> IdentityFrame:
    return IdentityFrame(
        seq=fields.seq(body),
        did=fields.did(body, "did"),
        time=fields.time(body),
        handle=fields.optional_text(body, "handle"),
    )
