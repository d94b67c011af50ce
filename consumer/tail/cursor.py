"""Where we are on one relay's firehose, and what a reconnect may assume.  Pure.

A ``Cursor`` is the durable position: a value on ``chive.cursor`` under the relay's URL, written
in the transaction of the frames before it.  A cursor belongs to one relay URL.

An **epoch** is a stretch of the firehose without a known break.  Epochs are numbered from 1
over all relays of the deployment; a higher number tells the workers that frames may be missing
before it.

A connection asks from a few frames before the position, and what is replayed is compared with
what was kept of these frames (seq, DID, rev; never time).  Equal frames prove continuity,
whatever the times say.  Continuity breaks when

- the relay was changed: another one's frames came between;
- the sequence was reset: a replayed frame differs from the kept one, or nothing but old seqs
  comes for a long while, or the relay denies the position: it says FutureCursor, or begins below
  what was asked for.  A relay that has just restarted may deny a good position, so a denial
  counts only if it is repeated after ``confirm`` seconds;
- the cursor is too old: the relay says OutdatedCursor and replays nothing; or it replays nothing
  that was kept, and the first frame is not plausibly the next one.

A jump in seq behind a replayed frame proves nothing: gaps are legal.  A frame with a seq at or
below the position is a replay, and dropped.  Times are Unix seconds, except ``time``: the
frame's own text.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from functools import partial
from typing import Any

import orjson

from consumer.errors import Fatal
from consumer.metrics.labels import EpochCause
from consumer.shard import WHOLE
from procedures import times

HOUR = 3600.0
# Seconds.  Relays keep about 72 hours of frames: every relay 12, none more than 72.
_REMEMBERED = 12 * HOUR
_FORGOTTEN = 72 * HOUR
# Seconds by which the first frame after the cursor may be younger while nothing is missing.
_JUMP = 600.0
# Unix seconds, the year 9000: times near the end of the calendar cannot be written in every zone.
_LAST = 221_845_392_000.0
# Seconds by which a frame may be younger than its predecessor if nothing that we kept is replayed.
_NEAR = 60.0
# This many frames in a row with seqs of the past are not replays.
_REPLAYS = 1_000
# This many of the last frames are kept, to be compared with what is replayed.
KEPT = 16

_WHOLE = str(WHOLE)

# What is kept of a frame: its seq, its DID, and its rev; its kind if it has no rev.
Kept = tuple[int, str, str]


class Admission(Enum):
    """What a frame is to the position.  The breaks have moved it into a new epoch."""

    NEXT = "next"
    FIRST = "first"  # there was no position before it
    REPLAY = "replay"
    DENIED = "denied"  # not taken: the relay denies the position, which is to be confirmed
    RESET = EpochCause.RESET
    TOO_OLD = EpochCause.TOO_OLD

    @property
    def cause(self) -> EpochCause | None:
        """Why a new epoch begins with the frame; None if it does not."""
        return self.value if isinstance(self.value, EpochCause) else None


# Each frame compares with it: a global is found sooner than the member of a class.
NEXT = Admission.NEXT


def plausible(before: tuple[int, float | None], after: tuple[int, float | None]) -> bool:
    """Tell whether frame ``after`` can be the one behind ``before`` although nothing is replayed.

    Each is a seq and a Unix time (None: not known).  A relay that has our sequence replays what
    it is asked for.  One that does not may have forgotten it just now: then the next seq comes,
    at about the same time.  Everything else is an implausible distance.
    """
    (seq, time), (next_seq, next_time) = before, after
    if time is None or next_time is None:
        return False
    return next_seq == seq + 1 and abs(next_time - time) <= _NEAR


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
    this epoch, 0 before the first.  ``as_of``: until then we had received everything.  ``seen``
    are the newest frames up to ``seq``, in their order; empty if an earlier version wrote it.
    ``shard``: whose frames were forwarded.
    """

    seq: int
    time: str | None
    epoch: int
    last: tuple[int, ...]
    as_of: float
    seen: tuple[Kept, ...] = ()
    shard: str = _WHOLE

    def encode(self) -> bytes:
        """Return the value for ``chive.cursor``; the epoch is stored as ``session``."""
        fields: dict[str, Any] = {
            "seq": self.seq,
            "time": self.time,
            "session": self.epoch,
            "last": self.last,
            "as_of": self.as_of,
        }
        if self.seen:
            fields["seen"] = self.seen
        if self.shard != _WHOLE:
            fields["shard"] = self.shard
        return orjson.dumps(fields)

    @classmethod
    def decode(cls, value: bytes) -> Cursor:
        """Parse ``encode()``'s form.  Raises ``Fatal`` for anything else."""
        try:
            fields: dict[str, Any] = orjson.loads(value)
            epoch, last = fields.pop("session"), fields.pop("last")
            seen = tuple(
                (int(seq), str(did), str(mark)) for seq, did, mark in fields.pop("seen", ())
            )
            return cls(**fields, epoch=epoch, last=tuple(map(int, last)), seen=seen)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise Fatal(f"a cursor that we did not write: {value[:200]!r}") from error


class Position:
    """The tailer's position on the firehose: ahead of the durable cursor by what is in flight.

    Before each connection read ``ask`` and call ``connected``.  Pass each frame that has a seq
    to ``admit``.  ``now`` is in Unix seconds; ``confirm`` is how long the relay must deny the
    position until it is given up.  ``announced`` is the newest epoch that the lanes
    were told of.  Without a position none is announced: what is missed until the first frame comes
    belongs to the loss window before it.  ``start`` is the cursor to connect with as long as there
    is no position: 0 for the oldest frame kept, None for the frames to come.  ``shard``: whose
    frames are forwarded.
    """

    def __init__(
        self,
        epoch: int,
        partitions: int,
        *,
        start: int | None,
        now: float,
        confirm: float = 60.0,
        shard: str = _WHOLE,
    ) -> None:
        self.epoch = epoch
        self._shard = shard
        self.seq = 0
        self.time: str | None = None
        self.last = [0] * partitions
        self.as_of = now
        self.announced = epoch
        self._start = start
        self._confirm = confirm
        self._seen: deque[Kept] = deque(maxlen=KEPT)
        self._denied_at: float | None = None
        self._replays = 0
        # Of the connection:
        self._settled = True  # continuity with what came before it is decided
        self._at = now  # when it was made
        self._away = 0.0
        self._asked = 0
        self._kept: dict[int, Kept] = {}  # what the relay may replay, by seq
        self._matched = False  # something of it was replayed
        self._strange = False  # a frame that we do not know came behind that
        self._outdated = False  # the relay says so

    @property
    def ask(self) -> int | None:
        """The cursor to connect with; None to start with the frames to come."""
        if self._seen:
            return max(0, self._seen[0][0] - 1)
        return self.seq or self._start

    def cursor(self) -> Cursor:
        """Return the position as it is to be stored."""
        last, seen = tuple(self.last), tuple(self._seen)
        return Cursor(self.seq, self.time, self.epoch, last, self.as_of, seen, self._shard)

    def restore(self, cursor: Cursor) -> None:
        """Go on at a stored cursor, in its epoch."""
        self.epoch, self.seq, self.time = cursor.epoch, cursor.seq, cursor.time
        self.last, self.as_of = list(cursor.last), cursor.as_of
        self._remember(cursor.seen)

    def connected(self, now: float) -> None:
        """Note that a connection with ``ask`` is open."""
        self._at, self._away = now, now - self.as_of
        self._asked = self.ask or 0
        self._kept = {frame[0]: frame for frame in self._seen}
        self._settled = False
        self._matched = self._strange = self._outdated = False
        self._replays = 0

    def caught_up(self, now: float) -> None:
        """Note that the relay has no more frames for now."""
        self.as_of = max(self.as_of, now)

    def reached(self, now: float) -> None:
        """Note that everything up to the newest frame has come, whatever time it claims."""
        self.as_of = max(self.as_of, min(seconds(self.time) or 0.0, now))

    def admit(self, seq: int, time: str | None, did: str = "", mark: str = "") -> Admission:
        """Move to ``seq``, unless the frame is a replay or in doubt; return what it is.

        ``mark`` is the frame's rev, or its kind if it has none.
        """
        if seq > self.seq and self._settled:
            self.seq, self.time, self._replays = seq, time, 0
            self._seen.append((seq, did, mark))
            return NEXT
        return self._judge((seq, did, mark), time)

    def outdated(self) -> bool:
        """Begin an epoch if the relay says for the first time that the cursor is too old.

        Return whether it began.  Once for each connection: every epoch has all repositories
        looked at again.  If frames were kept, the next frame decides: the relay may have
        forgotten some of them, and yet no frame behind the position.
        """
        if not self.seq or self._outdated:
            return False
        self._outdated = True
        if self._kept and not self._settled:
            return False
        self.begin_epoch()
        return True

    def denied(self, now: float) -> bool:
        """Note that the relay denies the position; return whether it has for long enough."""
        if not self.seq:
            return False
        if self._denied_at is None:
            self._denied_at = now
        return now - self._denied_at >= self._confirm

    def begin_epoch(self) -> None:
        """Note that continuity is broken: the next frame has no known predecessor."""
        self.epoch += 1
        self.last = [0] * len(self.last)
        self._remember(())
        self._settled = True

    def forget(self) -> None:
        """Begin an epoch in another sequence: the seqs of this one mean nothing to the relay."""
        self.begin_epoch()
        self.seq, self.time, self._denied_at = 0, None, None
        self._start = _of_any_sequence(self._start)

    def _remember(self, seen: Iterable[Kept]) -> None:
        self._seen.clear()
        self._seen.extend(seen)

    def _judge(self, frame: Kept, time: str | None) -> Admission:
        admission = self._classify(frame, time)
        if admission is Admission.REPLAY:
            self._replays += 1
            return admission
        if admission is Admission.DENIED:
            return admission
        if admission.cause is not None:
            self.begin_epoch()
        self.seq, self.time, self._settled, self._replays = frame[0], time, True, 0
        self._denied_at = None
        self._seen.append(frame)
        return admission

    def _classify(self, frame: Kept, time: str | None) -> Admission:
        seq = frame[0]
        if seq > self.seq:
            return self._beyond(seq, time)
        if self._replays >= _REPLAYS and seq < self.seq:
            return Admission.RESET
        if self._settled:
            return Admission.REPLAY
        if seq < self._asked:
            return Admission.RESET if self.denied(self._at) else Admission.DENIED
        return self._compare(frame)

    def _beyond(self, seq: int, time: str | None) -> Admission:
        """Judge the first frame behind the position."""
        if not self.seq:
            return Admission.FIRST
        if self._matched:
            return Admission.RESET if self._strange else Admission.NEXT
        if self._outdated:
            return Admission.TOO_OLD
        if self._kept:
            before, after = (self.seq, seconds(self.time)), (seq, seconds(time))
            return Admission.NEXT if plausible(before, after) else Admission.TOO_OLD
        return Admission.TOO_OLD if self._forgotten(time) else Admission.NEXT

    def _compare(self, frame: Kept) -> Admission:
        """Compare a frame between the cursor asked for and the position with what was kept.

        One that we do not know proves nothing as long as one that we do follows: it may have
        been left out when it came, out of order.
        """
        seq = frame[0]
        known = self._kept.get(seq)
        if known == frame or (not self._kept and seq == self.seq):
            self._matched, self._strange, self._denied_at = True, False, None
            self._settled = seq == self.seq
        elif known is not None or not (self._matched or seq == self._asked):
            return Admission.RESET
        elif self._matched:
            self._strange = True
        return Admission.REPLAY

    def _forgotten(self, time: str | None) -> bool:
        """Tell whether the relay may have dropped frames between the position and ``time``."""
        if self._away < _REMEMBERED:
            return False
        before, after = seconds(self.time), seconds(time)
        return self._away > _FORGOTTEN or before is None or after is None or after - before > _JUMP


def _of_any_sequence(start: int | None) -> int | None:
    """Return ``start`` if it means something on every relay, else None."""
    return 0 if start == 0 else None


def resume(
    cursors: Mapping[str, Cursor],
    relay: str,
    partitions: int,
    *,
    start: int | None,
    now: float,
    confirm: float = 60.0,
    shard: str = _WHOLE,
) -> tuple[Position, EpochCause | None]:
    """Return the position on ``relay`` to go on from, and why its epoch is new, if it is.

    ``cursors`` are the durable ones of all relays, by URL.  ``start``, ``confirm`` (seconds) and
    ``shard`` are as for ``Position``; a ``start`` that is a seq counts only until the first frame
    of the deployment has come: later it may be another sequence's.  Raises ``Fatal`` if the cursor
    was written with another number of ``partitions``, or one of them for another shard.
    """
    if others := {cursor.shard for cursor in cursors.values()} - {shard}:
        raise Fatal(
            f"chive.cursor was written for shard {min(others)}, and scope.shard is {shard}: each "
            "shard has a kafka.topic_prefix of its own (docs/scaling.md)"
        )
    begin = partial(Position, partitions=partitions, confirm=confirm, shard=shard)
    newest = max((cursor.epoch for cursor in cursors.values()), default=0)
    own = cursors.get(relay)
    if newest > 1 or any(cursor.seq for cursor in cursors.values()):
        start = _of_any_sequence(start)
    if own is None:
        position = begin(newest + 1, start=start, now=now)
        position.announced = newest or position.epoch
        return position, EpochCause.RELAY if newest else None
    if len(own.last) != partitions:
        raise Fatal(f"the cursor knows {len(own.last)} partitions, the settings say {partitions}")
    position = begin(own.epoch, start=start, now=own.as_of)
    position.restore(own)
    if own.epoch == newest:
        if not own.seq:
            position.announced = max(1, newest - 1)
        return position, None
    position.announced = newest
    position.epoch, position.last = newest + 1, [0] * partitions
    return position, EpochCause.RELAY
