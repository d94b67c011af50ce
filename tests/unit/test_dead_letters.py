from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
from jsonschema import Draft202012Validator, ValidationError

from consumer import dead_letters
from consumer.control.transaction import dead_letter as dead_command
from consumer.dead_letters import DeadLetter, EncodedLetter, InputRecord, InputTopic
from consumer.errors import Reason
from consumer.kafka.client import MAX_RECORD_BYTES
from consumer.kafka.topics import Topic, Topics
from consumer.kafka.transaction import OutRecord
from consumer.scope import Scope
from consumer.tail.collector import Collector
from consumer.tail.cursor import Position
from consumer.tail.relevance import Relevance
from consumer.tail.splitter import Message, Unusable
from consumer.worker import incoming
from procedures.messages import Refusal, RefusalReason
from tests.support.dead_letters import SCHEMA, validate
from tests.unit.worker.frames import RELAY, incoming_frame
from tests.unit.worker.test_incoming import Record

HUGE = 8 * 1024 * 1024
STRANGE = (("\U0001f4a3" * 99_999, b"x" * HUGE),) * 99
LETTER = DeadLetter(
    reason=Reason.CAR_INVALID,
    detail="no header",
    source=InputRecord(InputTopic.FIREHOSE, 3, 9),
    key=b"did:plc:x",
    value=b"frame",
)


def encoded(letter: DeadLetter) -> EncodedLetter:
    return dead_letters.encode(letter, "chive.")


def size(record: EncodedLetter) -> int:
    headers = sum(len(name.encode()) + len(value) for name, value in record.headers)
    return headers + len(record.key or b"") + len(record.value or b"")


def test_the_schema_is_one_and_knows_every_reason() -> None:
    Draft202012Validator.check_schema(SCHEMA)
    assert SCHEMA["$defs"]["inputReason"]["examples"] == list(Reason)
    assert SCHEMA["$defs"]["commandReason"]["examples"] == list(RefusalReason)


def test_the_topics_of_inputs_are_topics() -> None:
    assert {*InputTopic} <= {*Topic}


def test_a_detail_may_hold_anything_of_any_length() -> None:
    letter = encoded(replace(LETTER, detail="\ud800" * 9_999))
    assert dict(letter.headers)["detail"] == b"?" * 1_024


def test_the_largest_frame_is_kept_whole() -> None:
    frame = bytes(MAX_RECORD_BYTES - 64 * 1024)  # the largest that the settings allow
    letter = encoded(replace(LETTER, value=frame, detail="\U0001f4a3" * 9_999, key=b"k" * HUGE))
    assert letter.value == frame


@pytest.mark.parametrize(
    ("header", "kept"),
    [
        (("reason", b"replay"), None),
        (("source", b"relay"), None),
        (("lane", b"7"), None),
        (("out_seq", b"7"), None),
        (("seq", b"7"), b"7"),
        (("trace", b"7"), b"7"),
    ],
)
def test_an_input_cannot_replace_a_header_of_ours(
    header: tuple[str, bytes], kept: bytes | None
) -> None:
    headers = encoded(replace(LETTER, own_headers=(header,))).headers
    assert [value for name, value in headers[3:] if name == header[0]] == [kept] * (
        kept is not None
    )
    assert dict(headers)["reason"] == Reason.CAR_INVALID.encode()


# -- the worker -------------------------------------------------------------------------------


def test_a_dead_frame_says_where_it_lies_and_where_it_came_from() -> None:
    frame = incoming_frame(b"frame", "did:plc:x", 9)
    letter = encoded(incoming.dead_frame(frame, 3, Reason.CAR_INVALID, "no header"))
    validate(letter)
    assert letter == (
        3,
        b"did:plc:x",
        b"frame",
        (
            ("reason", b"car_invalid"),
            ("detail", b"no header"),
            ("source", b"chive.firehose/3/9"),
            ("seq", b"9"),
            ("relay", RELAY.encode()),
            ("session", b"1"),
        ),
    )


@pytest.mark.parametrize("topic", [InputTopic.FIREHOSE, InputTopic.BACKFILL])
def test_a_record_of_a_stranger_is_cut_to_what_kafka_takes(topic: InputTopic) -> None:
    record = Record(key=b"k" * HUGE, value=b"v" * HUGE, headers=STRANGE)
    letter = encoded(incoming.dead_record(topic, record, 0, Reason.BACKFILL_MALFORMED, ""))
    validate(letter)
    assert HUGE - 40_000 < size(letter) < HUGE - 30_000
    null = Record(key=None, value=None, headers=(("h", None),))
    empty = encoded(incoming.dead_record(topic, null, 0, Reason.STALLED, ""))
    validate(empty)
    assert (empty.key, empty.value, empty.headers[3:]) == (None, None, (("h", b""),))


# -- the controller ---------------------------------------------------------------------------


@dataclass
class Command(Record):
    """A Kafka record of the control topic."""

    topic: str = "chive.control"
    partition: int = 0
    headers: tuple[tuple[str, bytes], ...] = (("trace", b"7"),)


@pytest.mark.parametrize("reason", RefusalReason)
def test_a_dead_command_says_where_it_lies(reason: RefusalReason) -> None:
    letter = encoded(dead_command(Command(key=None, value=b"{"), Refusal(reason, "why")))
    validate(letter)
    assert letter == (
        0,
        None,
        b"{",
        (
            ("reason", reason.encode()),
            ("detail", b"why"),
            ("source", b"chive.control/0/30"),
            ("trace", b"7"),
        ),
    )


def test_a_command_of_any_size_is_cut() -> None:
    command = Command(key=b"k" * HUGE, value=b"v" * HUGE, headers=STRANGE)
    letter = encoded(dead_command(command, Refusal(RefusalReason.TOO_BIG, "d" * HUGE)))
    validate(letter)
    assert letter.value == b"v" * 1024 * 1024
    assert size(letter) < 1024 * 1024 + 100_000


# -- the tailer -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("message", "reason", "kept"),
    [
        (b"garbage", Reason.FRAME_MALFORMED, b"garbage"),
        (Unusable(Reason.FRAME_TEXT, "\U0001f4a3" * HUGE, b"hi"), Reason.FRAME_TEXT, b"hi"),
    ],
)
def test_a_dead_message_of_the_relay_has_no_place(
    message: Message, reason: Reason, kept: bytes
) -> None:
    topics = Topics("chive.", 4)
    position = Position(3, topics.partitions, start=None, now=0.0)
    relevance = Relevance(Scope(("pub.chive.*",)), forward_all=False)
    collector = Collector(RELAY, topics, relevance, position, 1_000_000, linger=0.05)
    collector.take([message], 0.0)
    [letter, _cursor] = collector.cut(0.0).records
    validate(letter)
    assert (letter.topic, letter.partition, letter.key) == ("chive.dead-letter", 0, None)
    assert letter.value == kept
    headers = dict(letter.headers)
    assert headers.keys() == {"reason", "detail", "source", "relay"}
    assert (headers["reason"], headers["source"]) == (reason.encode(), b"relay")
    assert len(headers["detail"].decode()) <= 1_024


# -- the schema -------------------------------------------------------------------------------

GOOD = OutRecord("chive.dead-letter", *encoded(LETTER))
REASON, DETAIL, SOURCE = GOOD.headers


@pytest.mark.parametrize(
    "bad",
    [
        GOOD._replace(headers=(DETAIL, SOURCE)),
        GOOD._replace(headers=(REASON, SOURCE)),
        GOOD._replace(headers=(REASON, DETAIL)),
        GOOD._replace(headers=(("reason", b"novelty"), DETAIL, SOURCE)),
        GOOD._replace(headers=(REASON, ("detail", b"d" * 1_025), SOURCE)),
        GOOD._replace(headers=(REASON, DETAIL, ("source", b"chive.firehose/3"))),
        GOOD._replace(headers=(*GOOD.headers, ("out_seq", b"x"))),
        GOOD._replace(headers=(*GOOD.headers, ("trace", b"t" * 1_025))),
        GOOD._replace(key=b"k" * 4_099),
        GOOD._replace(partition=-1),
    ],
)
def test_the_schema_refuses_what_is_no_dead_letter(bad: OutRecord) -> None:
    validate(GOOD)
    with pytest.raises(ValidationError):
        validate(bad)
