"""Logs: both forms, hostile text, library logs, and calm outages."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from enum import Enum, StrEnum

import orjson
import pytest
import structlog
from structlog.testing import capture_logs

from consumer.config.settings import LogSettings
from consumer.errors import Transient
from consumer.printable import MAX_TEXT, escape_json
from consumer.runtime import logs


@pytest.fixture(autouse=True)
def _restore() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    structlog.reset_defaults()
    logging.captureWarnings(capture=False)
    root.handlers[:] = handlers
    root.setLevel(level)


def configured(form: str, level: str = "info") -> io.StringIO:
    stream = io.StringIO()
    logs.configure(LogSettings.model_validate({"format": form, "level": level}), stream)
    return stream


HOSTILE = "a\x1b[31mred\x07\r\nfake line\x9b2J\u202eevil\x7f\ud800"


@pytest.mark.parametrize("form", ["json", "console"])
def test_control_characters_never_reach_the_stream(form: str) -> None:
    stream = configured(form)
    structlog.get_logger().info("refused", detail=HOSTILE, nested={"k\x1b": [HOSTILE]})
    logging.getLogger("aiokafka").error("bad %s", HOSTILE)
    text = stream.getvalue()
    assert len(text.splitlines()) == 2
    assert all(c.isprintable() for c in text.replace("\n", ""))
    assert "red" in text


def test_json_keeps_its_meaning_without_its_control_characters() -> None:
    value = {"k\x7f": [HOSTILE[:-1], "\U000e0041", "é\u2028", '\\"', "\0"], "n": 1}
    for option in (None, orjson.OPT_INDENT_2):
        text = escape_json(orjson.dumps(value, option=option).decode())
        assert text.replace("\n", "").isprintable()
        assert json.loads(text) == orjson.loads(text) == value
    plain = '{"a":"é \U0001f600"}'
    assert escape_json(plain) == plain
    assert escape_json("\ud800") == r"\ud800"


@pytest.mark.parametrize("form", ["json", "console"])
def test_a_traceback_shows_no_values_of_variables(form: str) -> None:
    stream = configured(form, "debug")
    password = "hid" + "den"
    try:
        int("x" * len(password))
    except ValueError:
        structlog.get_logger().exception("root_failed")
        logging.getLogger("asyncio").exception("a task failed")
    assert stream.getvalue().count("Traceback") == 2
    assert "hidden" not in stream.getvalue()


@pytest.mark.parametrize("form", ["json", "console"])
def test_a_traceback_keeps_its_lines_but_not_the_escapes_of_a_message(form: str) -> None:
    stream = configured(form)
    try:
        int(HOSTILE)
    except ValueError:
        structlog.get_logger().exception("root_failed", detail=HOSTILE)
    text = stream.getvalue()
    assert "Traceback" in text
    assert "\x1b" not in text
    assert "\x9b" not in text


def test_json_has_level_time_and_fields() -> None:
    stream = configured("json")
    structlog.get_logger().warning("lane_lost", lane=3, raw=b"\x00\xff")
    entry = json.loads(stream.getvalue())
    assert entry["event"] == "lane_lost"
    assert entry["level"] == "warning"
    assert entry["lane"] == 3
    assert entry["raw"] == "00ff"
    assert entry["timestamp"].endswith("Z")


def test_auto_is_json_without_a_terminal() -> None:
    stream = configured("auto")
    structlog.get_logger().info("started")
    assert json.loads(stream.getvalue())["event"] == "started"


def test_level_filters_ours_and_the_libraries() -> None:
    stream = configured("json", "warning")
    structlog.get_logger().info("quiet")
    logging.getLogger("some.library").info("quiet")
    assert stream.getvalue() == ""


def test_library_logs_have_the_same_form() -> None:
    stream = configured("json")
    logging.getLogger("aiokafka.conn").warning("no broker at %s", "x:1")
    logging.getLogger("aiokafka.conn").info("chatter")
    (line,) = stream.getvalue().splitlines()
    entry = json.loads(line)
    assert entry["event"] == "no broker at x:1"
    assert entry["logger"] == "aiokafka.conn"
    assert entry["level"] == "warning"


def test_a_library_that_repeats_itself_is_calmed() -> None:
    now = [0.0]
    calm = logs._Calm(every=30.0, clock=lambda: now[0])
    said: list[str] = []
    for second in range(0, 61, 10):
        now[0] = second
        record = logging.LogRecord("aiokafka", 40, "", 0, "no node %s", (second,), None)
        if calm.filter(record):
            said.append(record.getMessage())
    assert said == [
        "no node 0",
        "no node 30 (2 more like this)",
        "no node 60 (2 more like this)",
    ]
    assert calm.filter(logging.LogRecord("asyncio", 40, "", 0, "something else", (), None))
    assert calm.filter(logging.LogRecord("asyncio", 40, "", 0, "another thing", (), None))


def test_a_driver_has_one_line_for_all_that_it_says_of_an_outage() -> None:
    now = [0.0]
    calm = logs._Calm(every=60.0, clock=lambda: now[0])

    def passes(name: str, text: str) -> bool:
        return calm.filter(logging.LogRecord(name, 30, "", 0, text, (), None))

    assert passes("aiokafka", "cannot connect")
    assert not passes("aiokafka", "cannot update metadata")
    assert not passes("aiokafka.consumer.fetcher", "failed fetch")
    assert passes("psycopg.pool", "cannot connect")
    now[0] = 60.0
    outage = logs.Outage(structlog.get_logger(), "services")
    with capture_logs():
        outage.again(Transient("away", "kafka"))
        assert not passes("aiokafka", "cannot connect")
        assert passes("psycopg.pool", "cannot connect")
        outage.over()
    assert passes("aiokafka", "cannot connect")


def test_errors_of_the_kafka_driver_are_warnings() -> None:
    stream = configured("json")
    logging.getLogger("aiokafka.conn").error("no node")
    logging.getLogger("asyncio").error("a task failed")
    assert [json.loads(line)["level"] for line in stream.getvalue().splitlines()] == [
        "warning",
        "error",
    ]


def test_json_begins_with_what_the_eye_looks_for() -> None:
    stream = configured("json")
    structlog.get_logger().info("lane_lost", alpha=1)
    assert list(json.loads(stream.getvalue())) == ["timestamp", "level", "event", "alpha"]


def test_a_stream_that_fails_is_no_failure_of_ours() -> None:
    class Full(io.StringIO):
        def write(self, _text: str) -> int:
            raise OSError(28, "No space left on device")

    logs.configure(LogSettings(format="json"), Full())
    structlog.get_logger().error("lane_lost")
    logging.getLogger("asyncio").error("a task failed")


def test_long_texts_are_cut() -> None:
    stream = configured("json")
    structlog.get_logger().info("x", detail="y" * 100_000)
    assert len(stream.getvalue()) < MAX_TEXT + 300


def test_an_outage_is_said_at_once_then_rarely_then_its_end() -> None:
    now = [0.0]
    with capture_logs() as entries:
        outage = logs.Outage(structlog.get_logger(), "relay", every=60, clock=lambda: now[0])
        for second in range(0, 130, 10):
            now[0] = second
            outage.again("no route")
        outage.over(url="wss://x")
        outage.over()
    assert [(e["event"], e["away"]) for e in entries] == [
        ("relay_unreachable", 0),
        ("relay_unreachable", 60),
        ("relay_unreachable", 120),
        ("relay_back", 120),
    ]
    assert entries[-1]["attempts"] == 13


def test_places_that_wait_for_the_same_thing_share_their_lines() -> None:
    now = [0.0]
    log = structlog.get_logger()
    with capture_logs() as entries:
        one, other = (logs.Outage(log, "services", clock=lambda: now[0]) for _ in range(2))
        for second in range(0, 70, 10):
            now[0] = second
            one.again(Transient("Kafka is away", "kafka"), root="tailer")
            other.again(Transient("no answer", "kafka"), lane=3)
        one.over()
        other.again(Transient("no answer", "kafka"), lane=3)
        other.over(lane=3)
    assert [(e["event"], e["away"]) for e in entries] == [
        ("kafka_unreachable", 0),
        ("kafka_unreachable", 60),
        ("kafka_back", 60),
    ]
    assert entries[0]["root"] == "tailer"
    assert entries[-1] == {
        "event": "kafka_back",
        "log_level": "info",
        "attempts": 15,
        "away": 60,
        "lane": 3,
    }


def test_different_things_that_are_away_have_lines_of_their_own() -> None:
    with capture_logs() as entries:
        outage = logs.Outage(structlog.get_logger(), "services")
        outage.again(Transient("away", "kafka"))
        outage.again(Transient("away", "postgres"))
        outage.again("something else")
        outage.over()
    assert [entry["event"] for entry in entries] == [
        "kafka_unreachable",
        "postgres_unreachable",
        "services_unreachable",
        "kafka_back",
        "postgres_back",
        "services_back",
    ]


def test_an_outage_that_is_given_up_ends_in_silence() -> None:
    log = structlog.get_logger()
    with capture_logs() as entries:
        given_up = logs.Outage(log, "given_up")
        given_up.again("away")
        del given_up
        outage = logs.Outage(log, "given_up")
        outage.again("away")
        outage.over()
    assert [(entry["event"], entry["attempts"]) for entry in entries] == [
        ("given_up_unreachable", 1),
        ("given_up_unreachable", 1),
        ("given_up_back", 1),
    ]


class Colour(Enum):
    RED = 1


class Shade(StrEnum):
    DARK = "dark"


@pytest.mark.parametrize("form", ["json", "console"])
def test_enums_are_logged_as_their_values(form: str) -> None:
    stream = configured(form)
    shades = [Shade.DARK]
    structlog.get_logger().info("painted", colour=Colour.RED, shades=shades, by={"x": Shade.DARK})
    text = stream.getvalue()
    assert "dark" in text
    assert "Shade" not in text
    assert "Colour" not in text
