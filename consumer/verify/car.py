"""CAR version 1 as commits carry it: a header with roots, then blocks.  Pure.

Specification: https://ipld.io/specs/transport/car/carv1/, with the CIDs of
https://atproto.com/specs/repository (dag-cbor or raw, SHA-256).  Blocks may come in any order
and include more than is needed; the whole input must be consumed.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from typing import NoReturn

from consumer.errors import Reason, Refused
from consumer.verify.cbor import Link, decode
from procedures.syntax import CID_LENGTH, CID_PREFIXES

# The header that every writer makes for one root: varint 58, {"roots": [CID], "version": 1}.
_ONE_ROOT = b"\x3a\xa2\x65roots\x81\xd8\x2a\x58\x25\x00"
_VERSION_1 = b"\x67version\x01"
_ROOT_END = len(_ONE_ROOT) + CID_LENGTH
_HEADER_END = _ROOT_END + len(_VERSION_1)

MAX_HEADER = 4_096  # bytes; one root takes 58
_MAX_VARINT = 9
_MORE = 0x80  # the bit of a byte that says that another follows


@dataclass(frozen=True, slots=True)
class Car:
    """The roots and blocks of a CAR; ``blocks`` maps binary CIDs to bytes."""

    roots: tuple[bytes, ...]
    blocks: dict[bytes, bytes]

    def check_hashes(self) -> None:
        """Raise ``Refused(BLOCK_HASH)`` if any block is not what its CID says."""
        for cid, block in self.blocks.items():
            if sha256(block).digest() != cid[4:]:
                raise Refused(Reason.BLOCK_HASH, f"block {cid.hex()}")


def read_car(data: bytes, limit: int) -> Car:
    """Return the CAR in ``data``, at most ``limit`` bytes long, with every hash checked.

    Raises ``Refused`` with ``CAR_TOO_BIG``, ``CAR_INVALID`` or ``BLOCK_HASH``.
    """
    car = parse_car(data, limit)
    car.check_hashes()
    return car


def parse_car(data: bytes, limit: int) -> Car:
    """Return the CAR in ``data`` with no hash checked yet.

    Raises ``Refused`` with ``CAR_TOO_BIG`` or ``CAR_INVALID``.
    """
    if len(data) > limit:
        raise Refused(Reason.CAR_TOO_BIG, f"{len(data)} bytes, at most {limit}")
    roots, position = read_header(data)
    return Car(roots, _blocks(data, position))


def _invalid(problem: str) -> NoReturn:
    raise Refused(Reason.CAR_INVALID, problem)


def _varint(data: bytes, position: int) -> tuple[int, int]:
    value = 0
    for index, byte in enumerate(data[position : position + _MAX_VARINT]):
        value |= (byte & 0x7F) << (7 * index)
        if byte < _MORE:
            if byte == 0 and index:
                _invalid("length not in its shortest form")
            return value, position + index + 1
    _invalid("length does not end")


def read_header(data: bytes) -> tuple[tuple[bytes, ...], int]:
    """Return the roots, and where the blocks begin; raise ``Refused(CAR_INVALID)``."""
    if data.startswith(_ONE_ROOT) and data.startswith(_VERSION_1, _ROOT_END):
        root = data[len(_ONE_ROOT) : _ROOT_END]
        if root[:4] in CID_PREFIXES:
            return (root,), _HEADER_END
    length, start = _varint(data, 0)
    if length > MAX_HEADER:
        _invalid(f"header of {length} bytes, at most {MAX_HEADER}")
    end = start + length
    if end > len(data):
        _invalid("header is cut off")
    try:
        header = decode(data[start:end])
    except Refused as error:
        _invalid(f"header: {error.detail}")
    return _roots(header), end


def _roots(header: object) -> tuple[bytes, ...]:
    if not isinstance(header, dict) or header.get("version") != 1:
        _invalid("header is not that of version 1")
    roots = header.get("roots")
    if not isinstance(roots, list) or not all(isinstance(root, Link) for root in roots):
        _invalid("header without a list of roots")
    return tuple(root.raw for root in roots)


def _blocks(data: bytes, position: int) -> dict[bytes, bytes]:
    blocks: dict[bytes, bytes] = {}
    size = len(data)
    while position < size:
        length = data[position]
        if length < _MORE:  # in one byte
            position += 1
        elif position + 1 < size and 0 < data[position + 1] < _MORE:  # in two
            length += (data[position + 1] - 1) * _MORE
            position += 2
        else:
            length, position = _varint(data, position)
        start = position + CID_LENGTH
        cid = data[position:start]
        position += length
        if length < CID_LENGTH or position > size:
            _invalid("block is cut off")
        if cid[:4] not in CID_PREFIXES:
            _invalid("block CID that is not version 1, dag-cbor or raw, SHA-256")
        block = data[start:position]
        if blocks.setdefault(cid, block) != block:
            raise Refused(Reason.BLOCK_HASH, f"two blocks say they are {cid.hex()}")
    return blocks
