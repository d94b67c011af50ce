"""The marker of a lane on ``chive.published``: everything up to ``out_seq`` is in Kafka.  Pure.

Key: the lane's number in decimal.  Value: ``{"out_seq": n, "stamp": "…"}``.  The partition is the
lane.  ``stamp`` is the random UUID of the transaction that decided ``out_seq``: numbers repeat when
a database is restored from a backup and goes on, stamps do not.
"""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

import orjson

from consumer.errors import Fatal
from consumer.store.rows import NO_STAMP


@dataclass(frozen=True, slots=True)
class Marker:
    """Everything up to ``out_seq`` is in Kafka; ``stamp`` is that of ``out_seq``."""

    out_seq: int
    stamp: UUID = NO_STAMP


NOTHING = Marker(0)
"""The marker of a lane that has published nothing."""


def key_of(lane: int) -> bytes:
    """Return the key of the lane's marker."""
    return str(lane).encode()


def encode(marker: Marker) -> bytes:
    """Return the value of a marker."""
    stamp = {} if marker.stamp == NO_STAMP else {"stamp": marker.stamp}
    return orjson.dumps({"out_seq": marker.out_seq} | stamp)


def decode(value: bytes) -> Marker:
    """Return a marker; one of an earlier version has no stamp.

    Raises ``Fatal`` if no publisher wrote it.
    """
    try:
        match orjson.loads(value):
            case {"out_seq": int(out_seq), "stamp": str(stamp)} if out_seq >= 0:
                return Marker(out_seq, UUID(stamp))
            case {"out_seq": int(out_seq)} if out_seq >= 0:
                return Marker(out_seq)
    except ValueError as error:
        raise Fatal(f"a marker on chive.published is damaged: {value[:100]!r}") from error
    raise Fatal(f"a marker on chive.published has no out_seq: {value[:100]!r}")


def contradiction(marker: Marker, decided: int, known: UUID | None, trimmed: int) -> str | None:
    """Say why tables and marker are not of one history, None if they are.

    ``decided`` is the lane's ``last_out_seq``, ``known`` the stamp of the batch in the tables that
    holds the marker's ``out_seq``, ``trimmed`` the newest ``out_seq`` that the tables know to be
    published.  A marker without a stamp is judged by its number.
    """
    if marker.out_seq > decided:
        return (
            f"published through {marker.out_seq} and decided through {decided}: "
            "PostgreSQL was restored from an older state"
        )
    if marker.out_seq < trimmed:
        return (
            f"published through {marker.out_seq} and was published through {trimmed} before: "
            "Kafka was restored from an older state"
        )
    if marker.stamp not in {NO_STAMP, known}:
        return (
            f"published through {marker.out_seq} by a transaction that PostgreSQL does not know: "
            "it was restored from an older state"
        )
    return None
