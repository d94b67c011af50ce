"""What arrives at a worker: Kafka records and parked frames, as values.  Pure.

An ``IncomingFrame`` is one frame of ``chive.firehose`` with the headers that the tailer gave
it.  A record without these headers was not written by a tailer, and is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from consumer.errors import Reason, Refused
from consumer.events.envelope import Origin, Source
from consumer.store.rows import ParkedFrame
from procedures import times

_MAX_NUMBER = 2**63 - 1
_MILLISECONDS_TIME = len("2026-07-04T14:39:14.123Z")


class Record(Protocol):
    """A Kafka record; ``timestamp`` is LogAppendTime in Unix milliseconds."""

    @property
    def offset(self) -> int: ...
    @property
    def timestamp(self) -> int: ...
    @property
    def key(self) -> bytes | None: ...
    @property
    def value(self) -> bytes | None: ...
    @property
    def headers(self) -> Sequence[tuple[str, bytes | None]]: ...


@dataclass(frozen=True, slots=True)
class IncomingFrame:
    """One frame: its place in the log, its place in the relay's sequence, its bytes.

    ``prev_seq`` is None for a frame that was parked: it was accounted for when it came.
    """

    key: str
    offset: int
    log_time: int  # Unix milliseconds
    seq: int
    epoch: int
    prev_seq: int | None
    relay: str
    frame: bytes

    @property
    def parked(self) -> bool:
        return self.prev_seq is None


def of_record(record: Record) -> IncomingFrame:
    """Return the frame in a record of ``chive.firehose``; raise ``Refused`` if there is none."""
    headers = {name: value for name, value in record.headers if value is not None}
    try:
        return IncomingFrame(
            key=(record.key or b"").decode(),
            offset=record.offset,
            log_time=record.timestamp,
            seq=_number(headers["seq"]),
            epoch=_number(headers["session"]),
            prev_seq=_number(headers["prev_seq"]),
            relay=_url(headers["relay"]),
            frame=record.value or b"",
        )
    except (KeyError, ValueError) as error:
        raise Refused(Reason.FRAME_MALFORMED, f"headers of no tailer: {error!r}") from error


def _url(text: bytes) -> str:
    url = text.decode()
    if "\0" in url:  # which PostgreSQL does not take
        raise ValueError("a relay with a NUL")
    return url


def _number(text: bytes) -> int:
    number = int(text)
    if not 0 <= number <= _MAX_NUMBER:
        raise ValueError(f"out of range: {number}")
    return number


def follows(arrival: IncomingFrame, epoch: int, last_seq: int) -> bool:
    """Tell whether nothing is missing between the lane's last frame and ``arrival``.

    A lane that has never had a frame (epoch 0) misses nothing; with ``last_seq`` 0 the
    predecessor is not known.
    """
    if epoch == 0:
        return True
    return arrival.epoch == epoch and last_seq in {0, arrival.prev_seq}


def of_parked(parked: ParkedFrame) -> IncomingFrame:
    """Return the frame as it came, before it was parked."""
    return IncomingFrame(
        key=parked.did,
        offset=parked.log_offset,
        log_time=parked.log_time,
        seq=parked.seq,
        epoch=parked.epoch,
        prev_seq=None,
        relay=parked.relay,
        frame=parked.frame,
    )


def to_parked(did: str, arrival: IncomingFrame) -> ParkedFrame:
    """Return the frame as it is kept until its account's key is known."""
    return ParkedFrame(
        did,
        arrival.offset,
        arrival.log_time,
        arrival.seq,
        arrival.epoch,
        arrival.relay,
        arrival.frame,
    )


def origin_of(arrival: IncomingFrame, time: str | None) -> Origin:
    """Return the origin of what a frame leads to; ``time`` is the frame's own."""
    shown = _normalized(time) or times.to_text(arrival.log_time / 1000)
    return Origin(Source.FIREHOSE, arrival.seq, shown, arrival.relay)


def _normalized(time: str | None) -> str | None:
    """Return an atproto datetime in UTC with milliseconds, None if it is no moment."""
    if time is None:
        return None
    try:
        moment = times.from_text(time)
    except ValueError:
        return None
    exact = len(time) == _MILLISECONDS_TIME and time.endswith("Z")
    return time if exact else times.to_text(moment)
