"""CAR version 1 from a stream: where each block lies, with every hash checked.  Pure.

Specification: https://ipld.io/specs/transport/car/carv1/, with the CIDs of
https://atproto.com/specs/repository (dag-cbor or raw, SHA-256).  A few blocks are in memory at
a time; ``car.py`` reads what is in memory as a whole.
"""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import sha256
from typing import IO

from consumer.errors import Reason, Refused
from consumer.verify.car import MAX_HEADER, read_header
from procedures.syntax import CID_LENGTH, CID_PREFIXES

Location = tuple[int, int]
"""Where a block lies in its stream: position and size, in bytes."""

_MAX_VARINT = 9  # bytes
_HEAD = MAX_HEADER + _MAX_VARINT
_READ = 256 * 1024  # bytes at once
_MORE = 0x80  # the bit of a byte that says that another follows


def read_roots(stream: IO[bytes]) -> tuple[bytes, ...]:
    """Return the roots of the CAR that ``stream`` begins with, and go to the first block.

    Raises ``Refused`` with ``CAR_TRUNCATED`` or ``CAR_INVALID``.
    """
    head = stream.read(_HEAD)
    if not head:
        raise Refused(Reason.CAR_TRUNCATED, "the file is empty")
    roots, position = read_header(head)
    stream.seek(position)
    return roots


def checked_blocks(stream: IO[bytes], largest: int) -> Iterator[tuple[bytes, Location]]:
    """Yield the CID and location of every block, once its hash is checked.

    Raises ``Refused`` with ``CAR_TRUNCATED``, ``BLOCK_HASH`` or ``CAR_INVALID``, the last also
    for a block of more than ``largest`` bytes.
    """
    window = _Window(stream)
    while (length := _length(window)) is not None:
        if not CID_LENGTH <= length <= largest + CID_LENGTH:
            raise Refused(Reason.CAR_INVALID, f"a block of {length} bytes")
        if not window.has(length):
            raise Refused(Reason.CAR_TRUNCATED, "the file ends inside a block")
        data, at = window.data, window.at
        window.at = end = at + length
        cid = data[at : at + CID_LENGTH]
        if cid[:4] not in CID_PREFIXES:
            raise Refused(Reason.CAR_INVALID, "a block with a CID of another kind")
        at += CID_LENGTH
        if sha256(data[at:end]).digest() != cid[4:]:
            raise Refused(Reason.BLOCK_HASH, f"block {cid.hex()}")
        yield cid, (window.start + at, end - at)


class _Window:
    """A part of a stream: ``data`` begins at ``start``, reading goes on at ``at`` within it."""

    __slots__ = ("at", "data", "start", "stream")

    def __init__(self, stream: IO[bytes]) -> None:
        self.stream = stream
        self.start = stream.tell()
        self.data = b""
        self.at = 0

    def has(self, size: int) -> bool:
        """Tell whether ``size`` more bytes are there; read on if need be."""
        missing = self.at + size - len(self.data)
        if missing > 0:
            self.start += self.at
            self.data = self.data[self.at :] + self.stream.read(max(missing, _READ))
            self.at = 0
        return len(self.data) - self.at >= size


def _length(window: _Window) -> int | None:
    """Read the length before a block, a varint; None at the end of the stream."""
    value = 0
    for index in range(_MAX_VARINT):
        if not window.has(1):
            if index:
                raise Refused(Reason.CAR_TRUNCATED, "the file ends inside a length")
            return None
        byte = window.data[window.at]
        window.at += 1
        value |= (byte & 0x7F) << (7 * index)
        if byte < _MORE:
            if byte == 0 and index:
                raise Refused(Reason.CAR_INVALID, "length not in its shortest form")
            return value
    raise Refused(Reason.CAR_INVALID, "length does not end")
