"""Frames: every kind, every wrong field, and the framing itself."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumer.errors import Reason, Refused
from consumer.verify import frames
from consumer.verify.cbor import Link, encode
from consumer.verify.frames import Kind, decode_frame, peek
from procedures.syntax import DAG_CBOR_PREFIX

CID = DAG_CBOR_PREFIX + bytes(range(32))
DID = "did:plc:7iza6de2dwap2sbkpav7c6c6"
TIME = "2026-07-04T14:39:14.123Z"
REV = "3jzfcijpj2z2a"

COMMIT: dict[str, Any] = {
    "seq": 31_527_015_322,
    "repo": DID,
    "rev": REV,
    "since": None,
    "time": TIME,
    "commit": Link(CID),
    "blocks": b"car",
    "ops": [{"action": "create", "path": "a.b.c/self", "cid": Link(CID)}],
    "prevData": Link(CID),
    "blobs": [],
    "tooBig": False,
    "rebase": False,
}
SYNC: dict[str, Any] = {"seq": 1, "did": DID, "rev": REV, "time": TIME, "blocks": b"car"}
ACCOUNT: dict[str, Any] = {"seq": 2, "did": DID, "time": TIME, "active": False, "status": "odd"}
IDENTITY: dict[str, Any] = {"seq": 3, "did": DID, "time": TIME, "handle": "a.test"}
INFO = {"name": "OutdatedCursor", "message": "old"}
ERROR = {"error": "FutureCursor"}
BODIES: dict[str, dict[str, Any]] = {
    "#commit": COMMIT,
    "#sync": SYNC,
    "#account": ACCOUNT,
    "#identity": IDENTITY,
}


def frame(kind: str, body: Any) -> bytes:
    header = {"op": -1} if kind == "error" else {"op": 1, "t": kind}
    return encode(header) + encode(body)


def refused(data: bytes) -> Refused:
    with pytest.raises(Refused) as caught:
        decode_frame(data)
    return caught.value


def malformed(data: bytes) -> str:
    error = refused(data)
    assert error.reason is Reason.FRAME_MALFORMED
    return error.detail


def test_commit() -> None:
    decoded = decode_frame(frame("#commit", COMMIT))
    op = frames.RawOp("create", "a.b.c/self", CID, None)
    assert decoded == frames.CommitFrame(
        31_527_015_322, DID, REV, None, TIME, CID, b"car", (op,), CID
    )


def test_the_other_kinds() -> None:
    assert decode_frame(frame("#sync", SYNC)) == frames.SyncFrame(1, DID, REV, TIME, b"car")
    account = frames.AccountFrame(2, DID, TIME, active=False, status="odd")
    assert decode_frame(frame("#account", ACCOUNT)) == account
    assert decode_frame(frame("#identity", IDENTITY)) == frames.IdentityFrame(
        3, DID, TIME, "a.test"
    )
    assert decode_frame(frame("#info", INFO)) == frames.InfoFrame("OutdatedCursor", "old")
    assert decode_frame(frame("error", ERROR)) == frames.ErrorFrame("FutureCursor", None)


@pytest.mark.parametrize("rev", [7, None, b"rev", "x" * 65])
def test_peek_leaves_out_what_is_no_rev(rev: object) -> None:
    assert peek(frame("#sync", {**SYNC, "rev": rev})).rev is None


def test_peek() -> None:
    assert peek(frame("#commit", COMMIT)) == frames.Peek(
        Kind.COMMIT, 31_527_015_322, DID, TIME, ("a.b.c/self",), COMMIT["rev"]
    )
    assert peek(frame("#sync", SYNC)) == frames.Peek(Kind.SYNC, 1, DID, TIME, (), SYNC["rev"])
    assert peek(frame("#info", INFO)) == frames.Peek(Kind.INFO, None, None, None)
    assert peek(frame("error", ERROR)) == frames.Peek(Kind.ERROR, None, None, None)


@pytest.mark.parametrize("name", ["since", "prevData", "tooBig", "rebase", "blobs"])
def test_fields_that_may_be_absent(name: str) -> None:
    body = {key: value for key, value in COMMIT.items() if key != name}
    decode_frame(frame("#commit", body))


def test_unknown_fields_and_dead_values_are_ignored() -> None:
    body = COMMIT | {"tooBig": True, "rebase": 7, "blobs": None, "zzz": {"deep": [Link(CID)]}}
    assert decode_frame(frame("#commit", body)) == decode_frame(frame("#commit", COMMIT))


WRONG: dict[str, list[Any]] = {
    "seq": [None, "1", True, -1, 2**63],
    "repo": [None, "did:plc:", "x", 7],
    "did": [None, "did:plc:", "x", 7],
    "rev": [None, "", "3jzfcijpj2z2", 7],
    "since": ["", 7],
    "time": [None, "", "now", "2026-07-04", "2026-07-04T14:39:14", "٢026-07-04T14:39:14Z", 7],
    "commit": [None, "bafy", CID, b"", CID[:-1]],
    "blocks": [None, "text", Link(CID), []],
    "prevData": [CID, "bafy"],
    "ops": [None, {}, [1]],
    "active": [None, 1, "true"],
    "status": [1, b""],
    "handle": [1, []],
}
CASES = [
    (kind, name, value)
    for kind, body in BODIES.items()
    for name in body
    for value in WRONG.get(name, [])
    if not (kind == "#commit" and name == "did")
]


@pytest.mark.parametrize(("kind", "name", "value"), CASES)
def test_a_wrong_field_is_named(kind: str, name: str, value: Any) -> None:
    detail = malformed(frame(kind, BODIES[kind] | {name: value}))
    assert name in detail


@pytest.mark.parametrize(
    "op",
    [
        {"action": 1},
        {"path": None},
        {"cid": CID},
        {"prev": "bafy"},
        {"cid": b"\x01"},
    ],
)
def test_a_wrong_op(op: dict[str, Any]) -> None:
    body = COMMIT | {"ops": [COMMIT["ops"][0] | op]}
    assert next(iter(op)) in malformed(frame("#commit", body))


GOOD = frame("#commit", COMMIT)
BODY = encode(COMMIT)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff",
        b"garbage",
        GOOD[:-1],
        GOOD + b"\x00",
        GOOD + GOOD,
        encode({"op": 1, "t": "#commit"}),
        b"\xa2bop\x01atg#commit" + BODY,  # keys out of order
        b"\xa2atg#commitbop\x18\x01" + BODY,  # a number not in its shortest form
        encode({"t": "#commit"}) + BODY,
        encode({"op": 2, "t": "#commit"}) + BODY,
        encode({"op": 1}) + BODY,
        encode({"op": 1, "t": 7}) + BODY,
        encode([]) + BODY,
        encode({"op": 1, "t": "#commit"}) + encode([]),
    ],
)
def test_broken_framing(data: bytes) -> None:
    malformed(data)


def test_not_canonical_inside() -> None:
    long = GOOD.replace(b"fblocksCcar", b"fblocksX\x03car")
    assert long != GOOD
    assert "shortest" in malformed(long)
    assert peek(long) == peek(GOOD)


def test_floats_and_depth_in_unknown_fields() -> None:
    odd = encode({"op": 1, "t": "#info"}) + b"\xa2dnamecabcdzzzz\xfb" + bytes(8)
    assert "float" in malformed(odd)
    nested: Any = 1
    for _ in range(63):
        nested = [nested]
    decode_frame(frame("#info", INFO | {"zzz": nested}))
    assert "nested" in malformed(frame("#info", INFO | {"zzz": [nested]}))
    deep = encode({"op": 1, "t": "#info"}) + b"\x81" * 50_000 + b"\x00"
    malformed(deep)


def test_floats_and_depth_in_the_header() -> None:
    odd = b"\xa3ate#infobop\x01czzz\xfb" + bytes(8)
    assert "float" in malformed(odd + encode(INFO))
    nested: Any = 1
    for _ in range(63):
        nested = [nested]
    decode_frame(encode({"op": 1, "t": "#info", "zzz": nested}) + encode(INFO))
    assert "nested" in malformed(encode({"op": 1, "t": "#info", "zzz": [nested]}) + encode(INFO))


def test_blocks_that_look_like_a_cid() -> None:
    decoded = decode_frame(frame("#sync", SYNC | {"blocks": b"\x01\x55\x00\x00"}))
    assert isinstance(decoded, frames.SyncFrame)
    assert decoded.blocks == b"\x01\x55\x00\x00"


@pytest.mark.parametrize("name", ["#tombstone", "#handle", "commit", "#Commit", "", "x" * 1000])
def test_unknown_types(name: str) -> None:
    error = refused(frame(name, COMMIT))
    assert error.reason is Reason.FRAME_UNKNOWN_TYPE
    assert len(error.detail) < 100


def test_too_big() -> None:
    decode_frame(GOOD, len(GOOD))
    with pytest.raises(Refused) as caught:
        decode_frame(GOOD, len(GOOD) - 1)
    assert caught.value.reason is Reason.FRAME_TOO_BIG
    with pytest.raises(Refused) as caught:
        peek(GOOD, len(GOOD) - 1)
    assert caught.value.reason is Reason.FRAME_TOO_BIG


def accepted_by_peek(data: bytes) -> None:
    try:
        peek(data)
    except Refused as error:
        raise AssertionError("peek is stricter than decode_frame") from error


@given(at=st.integers(0, len(GOOD) - 1), byte=st.integers(0, 255))
def test_any_flipped_byte_is_decoded_or_refused(at: int, byte: int) -> None:
    broken = GOOD[:at] + bytes([byte]) + GOOD[at + 1 :]
    with contextlib.suppress(Refused):
        decode_frame(broken)
        accepted_by_peek(broken)


@given(st.binary(max_size=100))
def test_noise_is_refused(data: bytes) -> None:
    assert refused(data).reason is Reason.FRAME_MALFORMED


@pytest.mark.parametrize("op", [b"\xf5", b"\xfb\x3f\xf0" + bytes(6), b"\x61\x31"])
def test_an_op_that_only_equals_one(op: bytes) -> None:
    malformed(b"\xa2atg#commitbop" + op + BODY)


def test_the_items_of_a_large_frame_are_counted() -> None:
    def frame_of(items: int) -> bytes:
        return frame("#info", INFO | {"zzz": [0] * items, "zzzz": "x" * 20_000})

    decode_frame(frame_of(19_900))
    for look in (peek, decode_frame):
        with pytest.raises(Refused, match="more than 20000 items"):
            look(frame_of(20_000))
