"""CAR files: what is read, and every way in which they can be broken."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumer.errors import Reason, Refused
from consumer.verify.car import parse_car, read_car
from consumer.verify.cbor import Link, encode
from procedures.syntax import DAG_CBOR_PREFIX, RAW_PREFIX

BIG = 1_000_000


def varint(number: int) -> bytes:
    out = b""
    while number > 127:
        out += bytes([number & 127 | 128])
        number >>= 7
    return out + bytes([number])


def cid_of(block: bytes, prefix: bytes = DAG_CBOR_PREFIX) -> bytes:
    return prefix + hashlib.sha256(block).digest()


def section(block: bytes, cid: bytes | None = None) -> bytes:
    cid = cid_of(block) if cid is None else cid
    return varint(len(cid) + len(block)) + cid + block


def header(*roots: bytes, **extra: object) -> bytes:
    encoded = encode({"roots": [Link(root) for root in roots], "version": 1, **extra})
    return varint(len(encoded)) + encoded


A, B = encode({"a": 1}), encode({"b": "x" * 300})
GOOD = header(cid_of(A)) + section(A) + section(B)


def reason(data: bytes, limit: int = BIG) -> Reason:
    with pytest.raises(Refused) as caught:
        read_car(data, limit)
    return caught.value.reason


def test_reads_roots_and_blocks() -> None:
    car = read_car(GOOD, len(GOOD))
    assert car.roots == (cid_of(A),)
    assert car.blocks == {cid_of(A): A, cid_of(B): B}


@given(st.lists(st.binary(max_size=20_000), max_size=5), st.integers(0, 3))
def test_any_blocks_and_number_of_roots(blocks: list[bytes], roots: int) -> None:
    data = header(*[cid_of(A)] * roots) + b"".join(section(block) for block in blocks)
    car = read_car(data, len(data))
    assert car.roots == (cid_of(A),) * roots
    assert car.blocks == {cid_of(block): block for block in blocks}


def test_raw_blocks_and_unknown_header_fields_are_legal() -> None:
    raw = cid_of(A, RAW_PREFIX)
    assert read_car(header(raw, note="x") + section(A, raw), BIG).blocks == {raw: A}


def test_too_big() -> None:
    assert reason(GOOD, len(GOOD) - 1) is Reason.CAR_TOO_BIG


@pytest.mark.parametrize("cut", range(len(header(cid_of(A)) + section(A))))
def test_a_cut_file_is_invalid(cut: int) -> None:
    whole = header(cid_of(A)) + section(A)
    if cut == len(header(cid_of(A))):
        assert read_car(whole[:cut], BIG).blocks == {}
    else:
        assert reason(whole[:cut]) is Reason.CAR_INVALID


@pytest.mark.parametrize(
    "data",
    [
        b"\x00" + GOOD,
        header(cid_of(A)) + b"\x00",
        header(cid_of(A)) + varint(35) + bytes(35),
        header(cid_of(A)) + section(A, b"\x12\x20" + bytes(34)),
        header(cid_of(A)) + b"\x80\x00",
        header(cid_of(A)) + b"\xa8\x00" + cid_of(A) + A,
        header(cid_of(A)) + b"\xa8\x80\x00" + cid_of(A) + A,
        header(cid_of(A)) + varint(35) + cid_of(A)[:35] + section(B),
        header(cid_of(A)) + b"\xff" * 12,
        header(cid_of(A)).replace(b"\x01q\x12\x20", b"\x01p\x12\x20"),
        header(cid_of(A)).replace(b"version\x01", b"version\x02"),
        varint(1) + encode([]),
        varint(len(encode({"version": 1}))) + encode({"version": 1}),
        varint(len(encode({"roots": ["x"], "version": 1})))
        + encode({"roots": ["x"], "version": 1}),
    ],
)
def test_broken_files_are_invalid(data: bytes) -> None:
    assert reason(data) is Reason.CAR_INVALID


def test_a_header_is_small() -> None:
    def described(note: int) -> bytes:
        return header(cid_of(A), note="x" * note)

    fits = described(4_000)
    assert read_car(fits + section(A), BIG).roots == (cid_of(A),)
    assert reason(described(4_100) + section(A)) is Reason.CAR_INVALID
    assert reason(varint(BIG // 2) + b"\x9a\x00\x07\x00\x00" * 900 + bytes(BIG // 2)) is (
        Reason.CAR_INVALID
    )


def test_a_wrong_hash_is_found_when_asked() -> None:
    bad = GOOD[:-1] + b"y"
    assert parse_car(bad, BIG).blocks[cid_of(B)].endswith(b"y")
    assert reason(bad) is Reason.BLOCK_HASH


def test_two_blocks_of_one_name() -> None:
    assert read_car(GOOD + section(A), BIG).blocks == read_car(GOOD, BIG).blocks
    assert reason(section_first_wrong()) is Reason.BLOCK_HASH


def section_first_wrong() -> bytes:
    return header(cid_of(A)) + section(B, cid_of(A)) + section(A)
