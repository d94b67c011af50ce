"""The marker of a lane on ``chive.published``: everything up to ``out_seq`` is in Kafka.  Pure.

Key: the lane's number in decimal.  Value: ``{"out_seq": n}``.  The partition is the lane.
"""

from __future__ import annotations

import orjson

from consumer.errors import Fatal


def key_of(lane: int) -> bytes:
    """Return the key of the lane's marker."""
    return str(lane).encode()


def encode(out_seq: int) -> bytes:
    """Return the value of a marker."""
    return orjson.dumps({"out_seq": out_seq})


def decode(value: bytes) -> int:
    """Return the ``out_seq`` of a marker.  Raises ``Fatal`` if no publisher wrote it."""
    try:
        marker = orjson.loads(value)
    except orjson.JSONDecodeError as error:
        raise Fatal(f"a marker on chive.published is not JSON: {value[:100]!r}") from error
    match marker:
        case {"out_seq": int(out_seq)} if out_seq >= 0:
            return out_seq
    raise Fatal(f"a marker on chive.published has no out_seq: {value[:100]!r}")
