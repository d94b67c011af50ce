"""What comes to a worker: records of Kafka and parked frames, as values.  Pure.

An ``IncomingFrame`` is one frame of ``chive.firehose`` with the headers that the tailer gave
it.  A record without these headers was not written by a tailer, and is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from consumer.dead_letters import DeadLetter, InputRecord, InputTopic
from consumer.errors import Reason, Refused
from consumer.events.envelope import Origin, Source
from consumer.notices import EPOCH_NOTICE, NOTICE
from consumer.state.progress import Place, Reached
from consumer.store.rows import ParkedFrame
from procedures import times

_MAX_NUMBER = 2**63 - 1
_MILLISECONDS_TIME = len("2026-07-04T14:39:14.123Z")


class Record(Protocol):
    """A record of Kafka; ``timestamp`` is its log-append time in Unix milliseconds."""

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
    """One frame as the tailer forwarded it.

    ``key`` is the record's key: the DID that the tailer saw.  ``offset`` is the record's in its
    partition, ``log_time`` its log-append time in Unix milliseconds.  ``epoch`` and ``seq``
    place the frame in the relay's sequence.  ``prev_seq`` is the seq of the lane's frame before
    it (0: not known), None for a frame that was parked: its place was checked when it came.
    ``relay`` is a URL, ``frame`` the bytes as they came.
    """

    key: str
    offset: int
    log_time: int
    seq: int
    epoch: int
    prev_seq: int | None
    relay: str
    frame: bytes


@dataclass(frozen=True, slots=True)
class EpochNotice:
    """A tailer's word to a lane, in a record without a frame, that ``epoch`` has begun.

    ``offset`` is the record's in its partition, ``log_time`` its log-append time in Unix
    milliseconds, ``relay`` a URL.
    """

    offset: int
    log_time: int
    epoch: int
    relay: str


@dataclass(frozen=True, slots=True)
class MalformedRecord:
    """A record of the firehose that no tailer wrote, and what is wrong with it."""

    record: Record
    refused: Refused


def of_record(record: Record) -> IncomingFrame:
    """Return the frame in a record of ``chive.firehose``.

    Raises ``Refused`` (``FRAME_MALFORMED``) if no tailer can have written the record.
    """
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
        raise Refused(Reason.FRAME_MALFORMED, f"not the headers of a tailer: {error!r}") from error


def notice_of(record: Record) -> EpochNotice | None:
    """Return the notice in a record of ``chive.firehose``, None if it holds none.

    Raises ``Refused`` (``FRAME_MALFORMED``) if no tailer can have written the record.
    """
    if record.value or (NOTICE, EPOCH_NOTICE) not in record.headers:
        return None
    frame = of_record(record)
    return EpochNotice(frame.offset, frame.log_time, frame.epoch, frame.relay)


def _url(text: bytes) -> str:
    url = text.decode()
    if "\0" in url:  # PostgreSQL does not take it
        raise ValueError("NUL in the relay's URL")
    return url


def _number(text: bytes) -> int:
    number = int(text)
    if not 0 <= number <= _MAX_NUMBER:
        raise ValueError(f"out of range: {number}")
    return number


def follows(incoming: IncomingFrame, epoch: int, last_seq: int) -> bool:
    """Tell whether no frame is missing between the lane's last one and ``incoming``.

    ``epoch`` and ``last_seq`` are those of the last one: epoch 0 if the lane has had none, seq 0
    if it is not known.
    """
    if epoch == 0:
        return True
    return incoming.epoch == epoch and last_seq in {0, incoming.prev_seq}


def of_parked(parked: ParkedFrame) -> IncomingFrame:
    """Return a frame as it came, before it was parked."""
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


def to_parked(incoming: IncomingFrame) -> ParkedFrame:
    """Return a frame as it is kept until its account's key is known."""
    return ParkedFrame(
        incoming.key,
        incoming.offset,
        incoming.log_time,
        incoming.seq,
        incoming.epoch,
        incoming.relay,
        incoming.frame,
    )


def origin_of(incoming: IncomingFrame, time: str | None) -> Origin:
    """Return the origin of what a frame leads to.

    ``time`` is the frame's own, an atproto datetime; without a valid one the log's time counts.
    """
    shown = _normalized(time) or times.to_text(incoming.log_time / 1000)
    return Origin(Source.FIREHOSE, incoming.seq, shown, incoming.relay)


def place_of(incoming: IncomingFrame, time: str | None = None) -> Reached:
    """Return the place of a frame; ``time`` as for ``origin_of``."""
    shown = origin_of(incoming, time).time
    at = Place(incoming.epoch, incoming.seq)
    return Reached(incoming.relay, at, shown, incoming.log_time / 1000)


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


def dead_frame(incoming: IncomingFrame, lane: int, reason: Reason, detail: str) -> DeadLetter:
    """Return the dead letter for a frame of ``lane``."""
    return DeadLetter(
        reason=reason,
        detail=detail,
        source=InputRecord(InputTopic.FIREHOSE, lane, incoming.offset),
        key=incoming.key.encode(),
        value=incoming.frame,
        seq=incoming.seq,
        relay=incoming.relay,
        epoch=incoming.epoch,
    )


def dead_record(
    topic: InputTopic, record: Record, lane: int, reason: Reason, detail: str
) -> DeadLetter:
    """Return the dead letter for a record of ``topic`` that holds nothing readable."""
    return DeadLetter(
        reason=reason,
        detail=detail,
        source=InputRecord(topic, lane, record.offset),
        key=record.key,
        value=record.value,
        own_headers=record.headers,
    )
