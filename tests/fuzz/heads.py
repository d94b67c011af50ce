"""Heads of CBOR items, in the shortest form or in any other."""

from __future__ import annotations

_WIDTHS = {24: 1, 25: 2, 26: 4, 27: 8}


def head(kind: int, number: int, info: int | None = None) -> bytes:
    """Return the head of a major type; ``info`` 24 to 27 sets its width, where that suffices."""
    if info is None or number >= 1 << (8 * _WIDTHS[info]):
        info = next((i for i, width in _WIDTHS.items() if number < 1 << (8 * width)), 27)
        if number < 24:
            return bytes((kind << 5 | number,))
    return bytes((kind << 5 | info,)) + number.to_bytes(_WIDTHS[info], "big")
