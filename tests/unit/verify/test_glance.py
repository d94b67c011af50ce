"""What can be read of frames that cannot be decoded."""

from __future__ import annotations

import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumer.errors import Refused
from consumer.verify.cbor import encode
from consumer.verify.frames import Kind, Peek, decode_frame, peek
from consumer.verify.glance import glance
from tests.unit.verify.test_frames import BODIES, COMMIT, DID, REV, TIME, frame

PATHS = ("a.b.c/self",)
LOOK = Peek(Kind.COMMIT, COMMIT["seq"], DID, TIME, PATHS, REV)
FLOAT, UNKNOWN_TAG, UNDEFINED = b"\xfb\x3f\xf8" + bytes(6), b"\xc1\x00", b"\xf7"
ENDLESS = b"\x9f\x5f\x41a\x41b\xff\xbf\x61a\x9f\xff\xff\xff"


def with_blocks(raw: bytes) -> bytes:
    """Return a commit with the encoded item ``raw`` for its blocks."""
    whole = frame("#commit", COMMIT)
    plain = b"\x66blocks" + encode(b"car")
    assert plain in whole
    return whole.replace(plain, b"\x66blocks" + raw)


@pytest.mark.parametrize("kind", BODIES)
def test_of_a_good_frame_a_glance_shows_what_a_look_does(kind: str) -> None:
    assert glance(frame(kind, BODIES[kind])) == peek(frame(kind, BODIES[kind]))


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(encode(list(range(40_000))), id="many numbers"),
        pytest.param(encode([[n] for n in range(20_000)]), id="many lists"),
        pytest.param(b"\x81" * 50_000 + b"\x00", id="deep"),
        pytest.param(FLOAT, id="float"),
        pytest.param(UNKNOWN_TAG, id="tag"),
        pytest.param(UNDEFINED, id="undefined"),
        pytest.param(ENDLESS, id="indefinite lengths"),
        pytest.param(b"\x9b" + b"\xff" * 8, id="a claim of 2^64"),
        pytest.param(b"\x1c", id="a reserved head"),
        pytest.param(encode(b"x" * 6_000_000), id="6 MB"),
    ],
)
def test_values_of_any_shape_do_not_hide_the_account(raw: bytes) -> None:
    look = glance(with_blocks(raw))
    assert look is not None
    assert (look.kind, look.seq, look.did, look.rev) == (LOOK.kind, LOOK.seq, LOOK.did, LOOK.rev)
    assert look.paths == PATHS


def test_the_beginning_is_enough() -> None:
    whole = with_blocks(encode(b"x" * 1_000_000))
    assert glance(whole[:1_000]) == LOOK


@pytest.mark.parametrize("field", ["time", "rev", "ops"])
def test_what_is_odd_is_left_out(field: str) -> None:
    look = glance(frame("#commit", COMMIT | {field: 7}))
    assert look is not None
    assert (look.seq, look.did) == (COMMIT["seq"], DID)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"garbage", id="garbage"),
        pytest.param(frame("#novelty", COMMIT), id="unknown kind"),
        pytest.param(frame("#info", COMMIT), id="info"),
        pytest.param(frame("error", COMMIT), id="error"),
        pytest.param(frame("#commit", COMMIT | {"repo": "alice"}), id="no DID"),
        pytest.param(frame("#commit", COMMIT | {"repo": "did:plc:" + "a" * 4_000}), id="long DID"),
        pytest.param(frame("#commit", COMMIT | {"repo": None}), id="null for a DID"),
        pytest.param(frame("#commit", COMMIT | {"seq": -1}), id="negative seq"),
        pytest.param(frame("#commit", COMMIT | {"seq": None}), id="null for a seq"),
        pytest.param(frame("#commit", COMMIT | {"seq": 2**63}), id="great seq"),
        pytest.param(frame("#account", COMMIT), id="a commit's DID in an account frame"),
        pytest.param(frame("#commit", [COMMIT]), id="a list"),
    ],
)
def test_without_kind_seq_and_did_there_is_nothing(data: bytes) -> None:
    assert glance(data) is None


def test_what_comes_first_counts() -> None:
    header, seq, name = encode({"op": 1, "t": "#account"}), b"\x63seq", b"\x63did"
    other = encode(DID.replace("7", "6"))
    body = b"\xbf" + seq + b"\x05" + name + encode(DID) + name + other + b"\xff"
    look = glance(header + body)
    assert look is not None
    assert (look.seq, look.did) == (5, DID)


GOOD = [frame(kind, body) for kind, body in BODIES.items()]
damages = st.lists(
    st.tuples(st.integers(0, 600), st.integers(0, 3), st.binary(max_size=12)), max_size=6
)


@given(st.sampled_from(GOOD), damages)
def test_no_damage_makes_it_raise(good: bytes, changes: list[tuple[int, int, bytes]]) -> None:
    data = good
    for at, removed, added in changes:
        data = data[:at] + added + data[at + removed :]
    look = glance(data)
    try:
        decode_frame(data)
    except Refused:
        return
    assert look is None or look == peek(data)


@given(st.binary(max_size=300))
def test_no_bytes_make_it_raise(data: bytes) -> None:
    glance(data)
    glance(encode({"op": 1, "t": "#commit"}) + data)


@pytest.mark.parametrize(
    "unit", [b"\x00", b"\x81", b"\x9f", b"\xa1\x60", b"\xc1", b"\x5f", b"\x80"]
)
def test_its_work_is_bounded(unit: bytes) -> None:
    header: Any = encode({"op": 1, "t": "#commit"})
    began = time.process_time()
    assert glance(header + b"\xbf\x61a\x9f" + unit * (5_000_000 // len(unit))) is None
    assert time.process_time() - began < 2.0
