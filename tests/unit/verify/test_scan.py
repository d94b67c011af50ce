"""The plain reader: each rule of DAG-CBOR, named where it is broken."""

from __future__ import annotations

import pytest

from consumer.errors import Reason, Refused
from consumer.verify.scan import Link, Reader, check_items
from procedures.syntax import DAG_CBOR_PREFIX

CID = DAG_CBOR_PREFIX + bytes(range(32))

BROKEN = [
    ("1800", "shortest"),
    ("190018", "shortest"),
    ("1a0000ffff", "shortest"),
    ("1b00000000ffffffff", "shortest"),
    ("780161", "shortest"),
    ("b800", "shortest"),
    ("d9002a58250001711220" + "00" * 32, "shortest"),
    ("fb3ff8000000000000", "float"),
    ("a16161fb3ff8000000000000", "float"),
    ("f7", "undefined"),
    ("9fff", "indefinite"),
    ("1c", "reserved"),
    ("a2616201616100", "order"),
    ("a2616100616101", "repeated"),
    ("a10000", "text"),
    ("61ff", "UTF-8"),
    ("", "end of data"),
    ("8201", "end of data"),
    ("9b7fffffffffffffff", "end of data"),
    ("bb7fffffffffffffff", "end of data"),
    ("5b7fffffffffffffff", "end of data"),
    ("c000", "tag"),
    ("d82a450001550000", "tag"),
    ("d82a58230012" + "20" + "00" * 32, "tag"),
    ("d82a582600" + "01711220" + "00" * 33, "tag"),
    ("d82a582500" + "01701220" + "00" * 32, "CID"),
    ("d82a582501" + "01711220" + "00" * 32, "CID"),
]


@pytest.mark.parametrize(("data", "problem"), BROKEN)
def test_refused_with_the_problem_named(data: str, problem: str) -> None:
    reader = Reader(bytes.fromhex(data), 32)
    with pytest.raises(Refused) as caught:
        reader.item()
    assert caught.value.reason is Reason.CBOR_INVALID
    assert problem in caught.value.detail


def test_items_in_sequence() -> None:
    data = b"\xa1aa\x81\xf6" + b"\x38\x63" + b"\xd8\x2aX%\x00" + CID + b"\xf5Aaaa"
    reader = Reader(data, 2)
    read = [reader.item() for _ in range(5)]
    assert read == [{"a": [None]}, -100, Link(CID), True, b"a"]
    assert reader.item() == "a"
    assert reader.finished


@pytest.mark.parametrize(
    ("data", "items"),
    [
        ("", 0),
        ("00", 1),
        ("0000", 2),
        ("80a0", 2),
        ("83010203", 4),
        ("a16161" + "820102", 5),
        ("78ff" + "61" * 255 + "f6", 2),
        ("d82a582500" + CID.hex(), 2),
        ("fb" + "00" * 8 + "1b" + "00" * 8, 2),
    ],
)
def test_items_are_counted(data: str, items: int) -> None:
    check_items(bytes.fromhex(data), items)
    if items:
        with pytest.raises(Refused, match=f"more than {items - 1} items"):
            check_items(bytes.fromhex(data), items - 1)


def test_what_is_claimed_counts_before_it_comes() -> None:
    with pytest.raises(Refused, match="more than 254 items"):
        check_items(b"\x98\xff", 254)
    with pytest.raises(Refused, match="more than 508 items"):
        check_items(b"\x98\xff\xb8\x7f", 508)


@pytest.mark.parametrize(
    "data", ["1c" + "80" * 9, "9f" + "80" * 9, "5a00ffffff", "18", "5b" + "ff" * 8]
)
def test_the_count_ends_where_the_decoder_will(data: str) -> None:
    check_items(bytes.fromhex(data), 1)
