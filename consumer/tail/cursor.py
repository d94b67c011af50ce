"""Where we are on one relay's firehose, and what a reconnect may assume.  Pure.

A ``Cursor`` is the durable position: a value on ``chive.cursor`` under the relay's URL, written
in the transaction of the frames before it.  A cursor belongs to one relay URL.

An **epoch** is a stretch of the firehose without a known break.  Epochs are numbered from 1
over all relays of the deployment; a higher number tells the workers that frames may be missing
before it.  Continuity breaks when

- the relay was changed: another one's frames came between;
- the sequence was reset: the first frame after connecting has a seq below the cursor, or the
  relay says FutureCursor, or nothing but old seqs comes for a long while;
- the cursor is too old: the relay says OutdatedCursor, or we were away for longer than the relay
  may keep frames, and the first one is much younger than the cursor.

A jump in seq alone proves nothing: gaps are legal.  A frame with a seq at or below the position
is a replay, and dropped.  Times are Unix seconds, except ``time``: the frame's own text.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

import orjson

from consumer.errors import Fatal
from consumer.metrics import EpochCause
from procedures import times

HOUR = 3600.0
# Seconds.  Relays keep about 72 hours of frames: every relay 12, none more than 72.
_REMEMBERED = 12 * HOUR
_FORGOTTEN = 72 * HOUR
# Seconds by which the first frame after the cursor may be younger while nothing is missing.
_JUMP = 600.0
# Unix seconds, the year 9000: times near the end of the calendar cannot be written in every zone.
_LAST = 221_845_392_000.0
# This many frames in a row with seqs of the past are not replays.
_REPLAYS = 1_000


class Admission(Enum):
    """What a frame is to the position.  The breaks have moved it into a new epoch."""

    NEXT = "next"
    REPLAY = "replay"
    RESET = EpochCause.RESET
    TOO_OLD = EpochCause.TOO_OLD

    @property
    def cause(self) -> EpochCause | None:
        """Why a new epoch begins with the frame; None if it does not."""
        return self.value if isinstance(self.value, EpochCause) else None


# Each frame compares with it: a global is found sooner than the member of a class.
NEXT = Admission.NEXT


def seconds(time: str | None) -> float | None:
    """Return the Unix time of a frame's ``time``, None if it is not a date and time of ours."""
    if time is None:
        return None
    try:
        unix = times.from_iso(time)
    except ValueError:
        return None
    return unix if 0.0 <= unix < _LAST else None


@dataclass(frozen=True, slots=True)
class Cursor:
    """The durable position; ``seq`` 0 means that no frame of the epoch has come yet.

    ``last`` holds, for each partition of ``chive.firehose``, the seq of its newest frame in
    this epoch, 0 before the first.  ``as_of``: until then we had received everything.
    """

    seq: int
    time: str | None
    epoch: int
    last: tuple[int, ...]
    as_of: float

    def encode(self) -> bytes:
        """Return the value for ``chive.cursor``; the epoch is stored as ``session``."""
        return orjson.dumps(
            {
                "seq": self.seq,
                "time": self.time,
                "session": self.epoch,
                "last": self.last,
                "as_of": self.as_of,
            }
        )

    @classmethod
    def decode(cls, value: bytes) -> Cursor:
        """Parse ``encode()``'s form.  Raises ``Fatal`` for anything else."""
        try:
            fields: dict[str, Any] = orjson.loads(value)
            epoch, last = fields.pop("session"), fields.pop("last")
            return cls(**fields, epoch=epoch, last=tuple(map(int, last)))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise Fatal(f"a cursor that we did not write: {value[:200]!r}") from error


class Position:
    """The tailer's position on the firehose: ahead of the durable cursor by what is in flight.

    Before each connection read ``ask`` and call ``connected``.  Pass each frame that has a seq
    to ``admit``.  ``now`` is in Unix seconds.
    """

    def __init__(self, epoch: int, partitions: int, *, oldest: bool, now: float) -> None:
        self.epoch = epoch
        self.seq = 0
        self.time: str | None = None
        self.last = [0] * partitions
        self.as_of = now
        self._oldest = oldest
        self._settled = True  # continuity with what came before the connection is decided
        self._away = 0.0
        self._replays = 0
        self._outdated = False  # the relay has said so, on this connection

    @property
    def ask(self) -> int | None:
        """The cursor to connect with; None to start with the frames to come."""
        return self.seq or (0 if self._oldest else None)

    def cursor(self) -> Cursor:
        """Return the position as it is to be stored."""
        return Cursor(self.seq, self.time, self.epoch, tuple(self.last), self.as_of)

    def connected(self, now: float) -> None:
        """Note that a connection with ``ask`` is open."""
        self._away = now - self.as_of
        self._settled = not self.seq
        self._replays = 0
        self._outdated = False

    def caught_up(self, now: float) -> None:
        """Note that the relay has no more frames for now."""
        self.as_of = max(self.as_of, now)

    def reached(self, now: float) -> None:
        """Note that everything up to the newest frame has come, whatever time it claims."""
        self.as_of = max(self.as_of, min(seconds(self.time) or 0.0, now))

    def admit(self, seq: int, time: str | None) -> Admission:
        """Move to ``seq``, unless the frame is a replay; return what it is."""
        if seq > self.seq and self._settled:
            self.seq, self.time, self._replays = seq, time, 0
            return NEXT
        return self._judge(seq, time)

    def outdated(self) -> bool:
        """Begin an epoch if the relay says for the first time that the cursor is too old.

        Return whether it began.  Once for each connection: every epoch has all repositories
        looked at again.
        """
        if not self.seq or self._outdated:
            return False
        self._outdated = True
        self.begin_epoch()
        return True

    def begin_epoch(self) -> None:
        """Note that continuity is broken: the next frame has no known predecessor."""
        self.epoch += 1
        self.last = [0] * len(self.last)
        self._settled = True

    def forget(self) -> None:
        """Begin an epoch in another sequence: the seqs of this one mean nothing to the relay."""
        self.begin_epoch()
        self.seq, self.time = 0, None

    def _judge(self, seq: int, time: str | None) -> Admission:
        admission = self._classify(seq, time)
        if admission is Admission.REPLAY:
            self._settled = True  # it replays our own position: nothing is missing
            self._replays += 1
            return admission
        if admission is not Admission.NEXT:
            self.begin_epoch()
        self.seq, self.time, self._settled, self._replays = seq, time, True, 0
        return admission

    def _classify(self, seq: int, time: str | None) -> Admission:
        if seq < self.seq and (not self._settled or self._replays >= _REPLAYS):
            return Admission.RESET
        if seq <= self.seq:
            return Admission.REPLAY
        if not self._settled and self._forgotten(time):
            return Admission.TOO_OLD
        return Admission.NEXT

    def _forgotten(self, time: str | None) -> bool:
        """Tell whether the relay may have dropped frames between the position and ``time``."""
        if self._away < _REMEMBERED:
            return False
        before, after = seconds(self.time), seconds(time)
        return self._away > _FORGOTTEN or before is None or after is None or after - before > _JUMP


def resume(
    cursors: Mapping[str, Cursor], relay: str, partitions: int, *, oldest: bool, now: float
) -> tuple[Position, EpochCause | None]:
    """Return the position on ``relay`` to go on from, and why its epoch is new, if it is.

    ``cursors`` are the durable ones of all relays, by URL.  Without one of ``relay`` the position
    is the oldest frame kept, or (not ``oldest``) the next one to come.  Raises ``Fatal`` if the
    cursor was written with another number of ``partitions``.
    """
    newest = max((cursor.epoch for cursor in cursors.values()), default=0)
    own = cursors.get(relay)
    if own is None:
        position = Position(newest + 1, partitions, oldest=oldest, now=now)
        return position, EpochCause.RELAY if newest else None
    if len(own.last) != partitions:
        raise Fatal(f"the cursor knows {len(own.last)} partitions, the settings say {partitions}")
    position = Position(own.epoch, partitions, oldest=oldest, now=own.as_of)
    position.seq, position.time, position.last = own.seq, own.time, list(own.last)
    if own.epoch == newest:
        return position, None
    position.epoch, position.last = newest + 1, [0] * partitions
    return position, EpochCause.RELAY
