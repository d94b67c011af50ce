from __future__ import annotations

import cbor2
import orjson
import pytest

from consumer.events.atproto_json import to_json
from procedures.syntax import DAG_CBOR_PREFIX, RAW_PREFIX, cid_text

LIMIT = 100_000
CID = RAW_PREFIX + bytes(range(32))
# A hash with the bytes that make the fast path look twice.
SUSPECT = DAG_CBOR_PREFIX + b"\xfb\x1b\x80\xd8\x2a$link$bytes" + bytes(16)


def link(cid: bytes) -> object:
    return cbor2.CBORTag(42, b"\x00" + cid)


def written(record: object) -> bytes:
    return cbor2.dumps(record, canonical=True)


def projected(record: object) -> object:
    text = to_json(written(record), LIMIT)
    return None if text is None else orjson.loads(text)


def nested(depth: int) -> object:
    """Return a record of ``depth`` containers, itself included."""
    value: object = "leaf"
    for _ in range(depth - 1):
        value = [value]
    return {"v": value}


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        ({}, {}),
        ({"a": [1, -1, True, False, None, "é"]}, {"a": [1, -1, True, False, None, "é"]}),
        ({"max": 2**63 - 1, "min": -(2**63)}, {"max": 2**63 - 1, "min": -(2**63)}),
        ({"b": b""}, {"b": {"$bytes": ""}}),
        ({"b": b"\x01"}, {"b": {"$bytes": "AQ"}}),
        ({"b": b"\xfb\xff"}, {"b": {"$bytes": "+/8"}}),
        ({"l": link(CID)}, {"l": {"$link": cid_text(CID)}}),
        ({"l": link(SUSPECT)}, {"l": {"$link": cid_text(SUSPECT)}}),
        ({"l": link(CID), "b": b"x"}, {"l": {"$link": cid_text(CID)}, "b": {"$bytes": "eA"}}),
    ],
)
def test_projection(record: object, expected: object) -> None:
    assert projected(record) == expected


def test_bytes_that_look_like_a_link_stay_bytes() -> None:
    record = {"b": CID, "l": link(CID)}
    assert projected(record) == {
        "b": {"$bytes": "AVUSIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f"},
        "l": {"$link": cid_text(CID)},
    }


def test_members_keep_their_order() -> None:
    assert to_json(written({"bb": 1, "a": 2, "c": 3}), LIMIT) == b'{"a":2,"c":3,"bb":1}'


@pytest.mark.parametrize(
    "record",
    [
        {"f": 1.5},
        {"f": 0.0},
        {"deep": [{"f": 1e300}]},
        {"i": 2**63},
        {"i": 2**64 - 1},
        {"i": -(2**63) - 1},
        {"i": -(2**64)},
        {"i": 2**64},
        {"$link": "x"},
        {"a": {"$bytes": "AQ"}},
        {"l": link(b"\x12\x20" + bytes(32))},  # CIDv0
        {"l": link(b"\x01\x70\x12\x20" + bytes(32))},  # dag-pb
        {"l": cbor2.CBORTag(42, CID)},  # no multibase byte
        {"t": cbor2.CBORTag(0, "2026-07-04T14:39:14Z")},
        {1: "a"},
        {"u": cbor2.undefined},
        [],
        "text",
        None,
    ],
)
def test_what_is_not_atproto_data_has_no_json(record: object) -> None:
    assert projected(record) is None


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xa1\x61a",  # cut short
        written({"a": 1}) + b"\x00",
        b"\xa2\x61b\x01\x61a\x02",  # keys out of order
        b"\xa2\x61a\x01\x61a\x02",  # a key twice
        b"\xa1\x61a\x18\x01",  # a number longer than it must be
        b"\xbf\x61a\x01\xff",  # of indefinite length
        b"\xa1\x61a\x61\xff",  # not UTF-8
        b"\xa1\x61a\x63\xed\xa0\x80",  # a surrogate
        b"\xa1\x61a\xfb\x7f\xf0\x00\x00\x00\x00\x00\x00",  # infinity
        b"\xa1\x61a\xf9\x3c\x00",  # half a float
        b"\x81" * 100_000,
    ],
)
def test_what_is_not_strict_cbor_has_no_json(data: bytes) -> None:
    assert to_json(data, LIMIT) is None


def test_nesting_is_bounded_at_32() -> None:
    assert projected(nested(32)) == nested(32)
    assert projected(nested(33)) is None


def test_many_shallow_containers_are_not_deep() -> None:
    record: dict[str, list[list[str]]] = {"v": [[] for _ in range(100)]}
    assert projected(record) == record


def test_brackets_in_text_are_not_depth() -> None:
    record = {"v": "[{" * 100}
    assert projected(record) == record


def test_more_json_than_the_limit_is_none() -> None:
    for record in ({"t": "x" * 100}, {"b": [b""] * 20}, {"b": CID, "t": "x" * 100}):
        text = to_json(written(record), LIMIT)
        assert text is not None
        assert to_json(written(record), len(text)) == text
        assert to_json(written(record), len(text) - 1) is None


def test_a_large_record_that_only_the_slow_decoder_could_read_has_no_json() -> None:
    assert projected({"b": CID, "t": "x" * 60_000}) is not None
    assert projected({"b": CID, "t": "x" * 70_000}) is None
    assert projected({"l": link(CID), "t": "x" * 70_000}) is not None


def test_a_record_of_too_many_items_has_no_json() -> None:
    assert to_json(cbor2.dumps({"a": [0] * 99_000}, canonical=True), 10**6) is not None
    assert to_json(cbor2.dumps({"a": [0] * 100_000}, canonical=True), 10**6) is None
    assert to_json(b"\xa1aa" + b"\x99\x04\x00" * 900 + bytes(1_100), 10**6) is None


def test_many_byte_strings_have_json_only_if_they_are_long() -> None:
    def record(size: int) -> bytes:
        return cbor2.dumps({"a": [b"\xff" * size] * 1_000}, canonical=True)

    assert to_json(record(20), 10**6) is not None
    assert to_json(record(8), 10**6) is None
    assert to_json(cbor2.dumps({"a": [b"\xff"] * 256}, canonical=True), 10**6) is not None
