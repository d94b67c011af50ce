"""Parts of a file: each behind its length."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator

_LENGTH = struct.Struct(">I")


def framed(parts: Iterable[bytes]) -> Iterator[bytes]:
    """Yield what to write for ``parts``."""
    for part in parts:
        yield _LENGTH.pack(len(part))
        yield part


def split(data: bytes) -> Iterator[bytes]:
    """Yield the parts that ``framed`` has put together."""
    at = 0
    while at < len(data):
        (length,) = _LENGTH.unpack_from(data, at)
        at += _LENGTH.size
        yield data[at : at + length]
        at += length
