"""CAR version 1 from a stream: where each block lies, with every hash checked.  Pure.

Specification: https://ipld.io/specs/transport/car/carv1/, with the CIDs of
https://atproto.com/specs/repository (dag-cbor or raw, SHA-256).  One block is in memory at a
time; ``car.py`` reads what is in memory as a whole.
"""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import sha256
from typing import BinaryIO

from consumer.errors import Reason, Refused
from consumer.verify.car import MAX_HEADER, read_header
from procedures.syntax import CID_LENGTH, CID_PREFIXES

Location = tuple[int, int]
"""Where a block lies in its stream: position and size, in bytes."""

_MAX_VARINT = 9  # bytes
_HEAD = MAX_HEADER + _MAX_VARINT
_MORE = 0x80  # the bit of a byte that says that another follows


def read_roots(stream: BinaryIO) -> tuple[bytes, ...]:
    """Return the roots of the CAR that ``stream`` begins with, and go to the first block.

    Raises ``Refused`` with ``CAR_TRUNCATED`` or ``CAR_INVALID``.
    """
    head = stream.read(_HEAD)
    if not head:
        raise Refused(Reason.CAR_TRUNCATED, "the file is empty")
    roots, position = read_header(head)
    stream.seek(position)
    return roots


def checked_blocks(stream: BinaryIO, largest: int) -> Iterator[tuple[bytes, Location]]:
    """Yield the CID and location of every block, once its hash is checked.

    Raises ``Refused`` with ``CAR_TRUNCATED``, ``BLOCK_HASH`` or ``CAR_INVALID``, the last also
    for a block of more than ``largest`` bytes.
    """
    while (length := _varint(stream)) is not None:
        if not CID_LENGTH <= length <= largest + CID_LENGTH:
            raise Refused(Reason.CAR_INVALID, f"a block of {length} bytes")
        data = stream.read(length)
        if len(data) < length:
            raise Refused(Reason.CAR_TRUNCATED, "the file ends inside a block")
        cid, size = data[:CID_LENGTH], length - CID_LENGTH
        if cid[:4] not in CID_PREFIXES:
            raise Refused(Reason.CAR_INVALID, "a block with a CID of another kind")
        if sha256(memoryview(data)[CID_LENGTH:]).digest() != cid[4:]:
            raise Refused(Reason.BLOCK_HASH, f"block {cid.hex()}")
        yield cid, (stream.tell() - size, size)


def _varint(stream: BinaryIO) -> int | None:
    """Read the length before a block; None at the end of the stream."""
    value = 0
    for index in range(_MAX_VARINT):
        read = stream.read(1)
        if not read:
            if index:
                raise Refused(Reason.CAR_TRUNCATED, "the file ends inside a length")
            return None
        byte = read[0]
        value |= (byte & 0x7F) << (7 * index)
        if byte < _MORE:
            if byte == 0 and index:
                raise Refused(Reason.CAR_INVALID, "length not in its shortest form")
            return value
    raise Refused(Reason.CAR_INVALID, "length does not end")
