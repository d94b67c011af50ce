"""How far a partition of the events is complete in the firehose.  Pure.

A lane takes the frames of its partition in their order.  While it takes some, the newest one says
how far it is.  While it takes none, the tailer's cursor does: it has the seq of the newest frame
of each partition, and once the lane has taken that one, nothing of its partition is missing up to
the cursor's own seq, however many frames of others lie between.  A frame that waits for a key
holds both back.

A seq means something only beside its epoch: epochs are numbered over all relays, and rise.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple
from uuid import UUID

from consumer.events.envelope import Encoded

_FIRST = 1  # the first epoch of a deployment, which is not announced to the lanes
_QUIET = 6.0  # intervals after which a lane that has got no further says so


class Place(NamedTuple):
    """A frame's place in all that was ever received."""

    epoch: int
    seq: int


NOWHERE = Place(0, 0)
"""Before all frames."""


@dataclass(frozen=True, slots=True)
class Reached:
    """A frame that is reached, and everything before it.

    ``relay`` is the one of the epoch.  ``time`` is of the firehose (ISO 8601); ``as_of``: until
    then everything had come (Unix seconds).
    """

    relay: str
    place: Place
    time: str
    as_of: float


@dataclass(frozen=True, slots=True)
class Received:
    """A durable cursor; ``last`` holds the seq of the newest frame of each partition, or 0."""

    reached: Reached
    last: tuple[int, ...]


def reached(
    lane: int,
    decided: Place,
    newest: Reached | None,
    received: Received | None,
    oldest_parked: Reached | None,
) -> Reached | None:
    """Return up to where every frame of ``lane`` is decided, None if that is not known.

    ``decided`` is the lane's position, ``newest`` its newest frame as far as it was taken just
    now; ``oldest_parked`` is the place that the first of the parked frames has.
    """
    found = newest
    if received is not None and (found is None or received.reached.place >= found.place):
        found = received.reached if _has_all(lane, decided, received) else newest
    if found is None or oldest_parked is None or oldest_parked.place > found.place:
        return found
    epoch, seq = oldest_parked.place
    as_of = min(found.as_of, oldest_parked.as_of)
    return Reached(oldest_parked.relay, Place(epoch, seq - 1), oldest_parked.time, as_of)


def _has_all(lane: int, decided: Place, received: Received) -> bool:
    """Tell whether the lane has taken all of its frames up to a cursor."""
    epoch, seq = received.reached.place
    last = received.last[lane] if lane < len(received.last) else None
    if not seq or last is None:
        return False
    if decided.epoch == 0:  # it has had no frame and no notice of an epoch
        return epoch == _FIRST and last == 0
    return decided.epoch == epoch and decided.seq >= last


def is_due(found: Reached, said: Place, since: float, every: float) -> bool:
    """Tell whether a lane is to say that it has reached ``found``.

    ``said`` is what it said last, ``since`` seconds ago; ``every`` is the interval in seconds.
    """
    return found.place > said or (found.place == said and since >= _QUIET * every)


@dataclass(frozen=True, slots=True)
class LaneReport:
    """What ``lane`` says of itself: where it is, and the ``snapshot`` that it has whole, if it has.

    ``as_of``: until then it is complete, None if that is not known.  ``records`` are the events
    that say so.
    """

    lane: int
    place: Place
    as_of: float | None
    snapshot: UUID | None
    records: tuple[Encoded, ...]
