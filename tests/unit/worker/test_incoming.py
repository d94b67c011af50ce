from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import pytest

from consumer.errors import Reason, Refused
from consumer.worker import incoming
from consumer.worker.incoming import follows, origin_of
from procedures.times import to_text
from tests.unit.worker.frames import NOW, RELAY, incoming_frame

HEADERS = (
    ("seq", b"7"),
    ("relay", RELAY.encode()),
    ("session", b"2"),
    ("prev_seq", b"5"),
)


@dataclass
class Record:
    """A Kafka record of the firehose."""

    offset: int = 30
    timestamp: int = round(NOW * 1000)
    key: bytes | None = b"did:plc:x"
    value: bytes | None = b"frame"
    headers: Sequence[tuple[str, bytes | None]] = field(default=HEADERS)


def test_a_record_of_the_tailer_is_an_incoming_frame() -> None:
    found = incoming.of_record(Record())
    assert (found.key, found.offset, found.frame) == ("did:plc:x", 30, b"frame")
    assert (found.seq, found.epoch, found.prev_seq, found.relay) == (7, 2, 5, RELAY)


@pytest.mark.parametrize(
    "record",
    [
        Record(headers=()),
        Record(headers=HEADERS[1:]),
        Record(headers=(*HEADERS[1:], ("seq", b"seven"))),
        Record(headers=(*HEADERS[1:], ("seq", b"-1"))),
        Record(headers=(*HEADERS[1:], ("seq", b"9223372036854775808"))),
        Record(headers=(*HEADERS[1:], ("seq", None))),
        Record(headers=(*HEADERS, ("relay", b"wss://\0"))),
        Record(key=b"\xff"),
    ],
)
def test_a_record_of_another_writer_is_refused(record: Record) -> None:
    with pytest.raises(Refused) as raised:
        incoming.of_record(record)
    assert raised.value.reason is Reason.FRAME_MALFORMED


def test_a_parked_frame_comes_back_as_it_was() -> None:
    before = incoming_frame(b"frame", "did:plc:x", 9)
    after = incoming.of_parked(incoming.to_parked(before))
    assert after == replace(before, prev_seq=None)
    assert after.prev_seq is None


@pytest.mark.parametrize(
    ("epoch", "last_seq", "unbroken"),
    [
        (0, 0, True),  # the lane never had a frame
        (0, 99, True),
        (1, 8, True),
        (1, 0, True),  # the predecessor is not known
        (1, 7, False),  # a frame is missing
        (1, 9, False),
        (2, 8, False),  # another epoch
    ],
)
def test_a_break_is_another_epoch_or_another_predecessor(
    epoch: int, last_seq: int, unbroken: bool
) -> None:
    assert follows(incoming_frame(b"", "did:plc:x", 9), epoch, last_seq) is unbroken


@pytest.mark.parametrize(
    ("time", "shown"),
    [
        ("2025-01-01T00:00:00.120Z", "2025-01-01T00:00:00.120Z"),
        ("2025-01-01T02:00:00+02:00", "2025-01-01T00:00:00.000Z"),
        ("2025-01-01T00:00:00.123456Z", "2025-01-01T00:00:00.123Z"),
        ("2025-13-01T00:00:00.000Z", None),
        ("yesterday", None),
        (None, None),
    ],
)
def test_the_frame_s_time_is_shown_in_utc_or_that_of_the_log(
    time: str | None, shown: str | None
) -> None:
    assert origin_of(incoming_frame(b"", "did:plc:x"), time).time == (shown or to_text(NOW))


def test_a_notice_of_an_epoch_holds_no_frame() -> None:
    notice = Record(key=b"", value=b"", headers=(*HEADERS, ("notice", b"epoch")))
    found = incoming.notice_of(notice)
    assert found == incoming.EpochNotice(30, round(NOW * 1000), 2, RELAY)
    assert incoming.notice_of(Record()) is None
    assert incoming.notice_of(Record(headers=(*HEADERS, ("notice", b"epoch")))) is None
    assert incoming.notice_of(Record(value=b"", headers=(*HEADERS, ("notice", b"new")))) is None
