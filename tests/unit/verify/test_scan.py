"""The plain reader: each rule of DAG-CBOR, named where it is broken."""

from __future__ import annotations

import pytest

from consumer.errors import Reason, Refused
from consumer.verify.scan import Link, Reader
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
