from __future__ import annotations

from consumer.errors import Reason
from consumer.worker import letters
from consumer.worker.letters import BACKFILL, FIREHOSE
from tests.unit.worker.frames import RELAY, arrival
from tests.unit.worker.test_incoming import Record


def test_a_letter_is_the_input_with_its_reason_and_its_place() -> None:
    letter = letters.of_arrival(arrival(b"frame", "did:plc:x", 9), Reason.CAR_INVALID, "no header")
    assert (letter.topic, letter.key, letter.value) == (FIREHOSE, b"did:plc:x", b"frame")
    assert letter.all_headers("chive.", 3) == (
        ("reason", b"car_invalid"),
        ("detail", b"no header"),
        ("source", b"chive.firehose/3/9"),
        ("seq", b"9"),
        ("relay", RELAY.encode()),
        ("session", b"1"),
    )


def test_a_detail_may_hold_anything_of_any_length() -> None:
    letter = letters.of_arrival(arrival(b"", "did:plc:x"), Reason.CAR_INVALID, "\ud800" * 9_999)
    assert dict(letter.all_headers("", 0))["detail"] == b"?" * 1_024


def test_a_record_of_a_stranger_is_cut_to_what_kafka_takes() -> None:
    huge = 8 * 1024 * 1024
    strange = (("\U0001f4a3" * 99_999, b"x" * huge),) * 99
    record = Record(key=b"k" * huge, value=b"v" * huge, headers=strange)
    letter = letters.of_record(BACKFILL, record, Reason.BACKFILL_MALFORMED, "")
    headers = letter.all_headers("chive.", 0)
    size = sum(len(name.encode()) + len(value) for name, value in headers)
    assert size + len(letter.key or b"") + len(letter.value or b"") < huge
    null = Record(key=None, value=None, headers=(("h", None),))
    empty = letters.of_record(BACKFILL, null, Reason.STALLED, "")
    assert (empty.key, empty.value, empty.headers) == (None, None, (("h", b""),))
