"""DAG-CBOR: the vectors, the fast path against the plain reader, and depth."""

from __future__ import annotations

import base64
import hashlib
from typing import Any

import libipld
import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumer.errors import Reason, Refused
from consumer.verify import cbor
from consumer.verify.cbor import Link, decode, encode
from consumer.verify.scan import Reader
from procedures.syntax import DAG_CBOR_PREFIX, RAW_PREFIX, parse_cid
from tests.unit.verify.test_scan import BROKEN
from tests.vectors import entries, needs_vectors

DASL = (
    "concat",
    "floats",
    "indefinite",
    "integer_range",
    "map_keys",
    "numeric_reduction",
    "simple",
    "tags",
    "utf8",
)
CID = DAG_CBOR_PREFIX + bytes(range(32))


def refusal(data: bytes, max_depth: int = cbor.RECORD_DEPTH) -> str:
    with pytest.raises(Refused) as caught:
        decode(data, max_depth)
    assert caught.value.reason is Reason.CBOR_INVALID
    return caught.value.detail


@needs_vectors
@pytest.mark.parametrize("name", DASL)
def test_dasl_vectors(name: str) -> None:
    ran = 0
    for vector in entries(f"dasl-cbor/{name}.json"):
        data = bytes.fromhex(vector["data"])
        applies = {"basic", "dag-cbor"} & set(vector["tags"])
        if vector["type"] == "invalid_in" and applies:
            refusal(data)
        elif vector["type"] == "roundtrip" and applies and data[0] >> 5 != 7:
            assert encode(decode(data)) == data, vector["name"]
        elif vector["type"] == "roundtrip" and data[0] in {0xF9, 0xFB}:
            refusal(data)  # atproto has no floats at all
        else:
            continue
        ran += 1
    assert ran


def _from_json(value: Any) -> Any:
    match value:
        case {"$link": text}:
            return Link(parse_cid(text))
        case {"$bytes": text}:
            return base64.b64decode(text + "=" * (-len(text) % 4))
        case dict():
            return {key: _from_json(item) for key, item in value.items()}
        case list():
            return [_from_json(item) for item in value]
    return value


@needs_vectors
def test_data_model_vectors() -> None:
    fixtures = entries("interop/data-model/data-model-fixtures.json")
    assert fixtures
    for fixture in fixtures:
        data = base64.b64decode(fixture["cbor_base64"] + "==")
        assert decode(data) == _from_json(fixture["json"])
        assert encode(_from_json(fixture["json"])) == data
        assert parse_cid(fixture["cid"])[4:] == hashlib.sha256(data).digest()


@pytest.mark.parametrize("data", [*(data for data, _ in BROKEN), "a0a0"])
def test_what_the_plain_reader_refuses_is_refused(data: str) -> None:
    refusal(bytes.fromhex(data))


def test_more_is_not_claimed_than_there_is() -> None:
    """Room is made for what an array claims, so that claims inside claims would fill memory."""
    claim = b"\x9a\x00\x0f\x42\x40"
    assert refusal(claim * 900 + bytes(1_900_000)) == "more than 100000 items"
    decode(b"\x9a\x00\x01\x86\x9f" + bytes(99_999))
    assert "more than" in refusal(b"\x9a\x00\x01\x86\xa0" + bytes(100_000))


@pytest.mark.parametrize(("open_", "close"), [(b"\x81", b"\x00"), (b"\xa1\x61a", b"\x00")])
def test_depth(open_: bytes, close: bytes) -> None:
    decode(open_ * 32 + close)
    refusal(open_ * 33 + close)
    assert "deeper than 3" in refusal(open_ * 4 + close, 3)
    refusal(open_ * 100_000 + close)


def test_bytes_that_look_like_a_cid_are_bytes() -> None:
    for raw in (CID, RAW_PREFIX + bytes(32), b"\x01\x55\x00\x00", b"\x12\x20" + bytes(32)):
        value = {"bytes": raw, "link": Link(CID)}
        assert decode(encode(value)) == value


def test_doubts_inside_strings_are_not_errors() -> None:
    value = {"a": b"\xfb", "b": b"\xd8\x2a", "c": b"\xd8\x2aX%\x00" + CID, "d": Link(CID)}
    assert decode(encode(value)) == value


def test_floats_are_not_encoded() -> None:
    with pytest.raises(Refused):
        encode({"a": [0.5]})
    with pytest.raises(TypeError):
        encode({"a": object()})


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**64), 2**64 - 1)
    | st.text(max_size=20)
    | st.binary(max_size=40)
    | st.binary(min_size=32, max_size=32).map(lambda digest: Link(RAW_PREFIX + digest))
    | st.sampled_from([CID, b"\x01\x55\x00\x00", b"\xd8\x2a", b"\xfb", 1.5, -0.0]),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4)
    ),
    max_leaves=12,
)


def _both(data: bytes) -> tuple[object, object]:
    def outcome(read: Any) -> object:
        try:
            return read()
        except Refused as error:
            return error.reason

    def plain() -> object:
        reader = Reader(data, cbor.RECORD_DEPTH)
        value = reader.item()
        return value if reader.finished else Reason.CBOR_INVALID

    return outcome(lambda: decode(data)), outcome(plain)


@given(value=VALUES, cut=st.integers(0, 300), flip=st.integers(0, 255), at=st.integers(0, 300))
def test_fast_and_plain_agree(value: Any, cut: int, flip: int, at: int) -> None:
    data = libipld.encode_dag_cbor(_lowered(value))
    fast, plain = _both(data)
    assert fast == plain
    broken = bytearray(data)
    broken[at % len(data)] ^= flip
    for bad in (bytes(broken), data[:cut], data + bytes([flip])):
        fast, plain = _both(bad)
        assert fast == plain
        assert fast is Reason.CBOR_INVALID or encode(fast) == bad


def _lowered(value: Any) -> Any:
    match value:
        case Link(raw):
            return raw
        case dict():
            return {key: _lowered(item) for key, item in value.items()}
        case list():
            return [_lowered(item) for item in value]
    return value
