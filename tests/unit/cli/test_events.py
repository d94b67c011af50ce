"""Events for people: filters and readable lines."""

from __future__ import annotations

import math
from typing import Any

import orjson
import pytest

from consumer.cli.event_stream import Span
from consumer.cli.events import Filter, as_record, line, span_of
from tests.support.kafka import recorded

DID = "did:plc:z72i7hdynmk6r22z27h6tvur"
OTHER = "did:web:example.org"


def record(**fields: Any) -> dict[str, Any]:
    return {
        "type": "record",
        "time": "2026-07-04T14:39:14.123Z",
        "did": DID,
        "rev": "3lrev",
        "collection": "pub.chive.eprint.submission",
        "rkey": "3lkey",
        "action": "create",
        "live": True,
        "source": "firehose",
        **fields,
    }


PROGRESS = {
    "type": "progress",
    "time": "2026-07-04T14:39:14.123Z",
    "lane": 3,
    "relay": "wss://relay.test",
    "epoch": 2,
    "seq": 4711,
    "lag": 0.25,
    "parked": 0,
}
ACCOUNT = {"type": "account", "did": DID, "status": "deactivated", "live": True}


@pytest.mark.parametrize(
    ("wanted", "event", "passes"),
    [
        (Filter.of([], [], []), record(), True),
        (Filter.of([], [], []), ACCOUNT, True),
        (Filter.of([DID], [], []), record(), True),
        (Filter.of([OTHER], [], []), record(), False),
        (Filter.of([DID, OTHER], [], []), record(), True),
        (Filter.of([], ["pub.chive.*"], []), record(), True),
        (Filter.of([], ["pub.chive.*"], []), record(collection="pub.chivexyz.a"), False),
        (Filter.of([], ["pub.chive.eprint.submission"], []), record(), True),
        (Filter.of([], ["site.standard.*", "pub.*"], []), record(), True),
        (Filter.of([], ["pub.chive.*"], []), ACCOUNT, False),
        (Filter.of([], ["*"], []), ACCOUNT, False),
        (Filter.of([], [], ["account"]), ACCOUNT, True),
        (Filter.of([], [], ["account", "sync"]), record(), False),
        (Filter.of([OTHER], ["pub.chive.*"], ["record"]), record(), False),
        (Filter.of([DID], ["pub.chive.*"], ["record"]), {}, False),
        (Filter.of([], [], []), PROGRESS, False),
        (Filter.of([], [], ["progress"]), PROGRESS, True),
        (Filter.of([DID], [], ["progress"]), PROGRESS, False),
    ],
)
def test_filters(wanted: Filter, event: dict[str, Any], *, passes: bool) -> None:
    assert wanted.wants(event) is passes


def test_a_lane_speaks_of_itself() -> None:
    assert line(PROGRESS).split() == [
        "2026-07-04",
        "14:39:14",
        "progress",
        "lane=3",
        "relay=wss://relay.test",
        "epoch=2",
        "seq=4711",
        "lag=0.25",
        "parked=0",
    ]
    whole = {"type": "snapshot_complete", "lane": 3, "failed": 1}
    assert line(whole).split() == ["snapshot_complete", "lane=3", "failed=1"]


def test_lines_say_what_happened() -> None:
    assert line(record()).split() == [
        "2026-07-04",
        "14:39:14",
        "record",
        "create",
        DID,
        "pub.chive.eprint.submission/3lkey",
        "rev=3lrev",
    ]
    assert "deactivated" in line(ACCOUNT)
    desynchronized = {"type": "sync", "did": DID, "state": "desynchronized", "reason": "chain"}
    assert "desynchronized" in line(desynchronized)
    assert "reason=chain" in line(desynchronized)
    assert "source=backfill" in line(record(live=False, source="backfill"))
    assert "handle=a.test" in line({"type": "identity", "did": DID, "handle": "a.test"})


def test_lines_are_lines_whatever_a_stranger_wrote() -> None:
    text = line(record(rkey="a\nb\x1b[2J", did="x\u202ey", time=None, action=7))
    assert text.isprintable()


def test_an_event_without_anything_is_still_a_line() -> None:
    assert line({})


NOW = 1_000_000.0


@pytest.mark.parametrize(
    ("follows", "from_beginning", "since", "until", "span"),
    [
        (False, False, None, None, Span(0, None)),
        (True, False, None, None, Span(math.inf, math.inf)),
        (False, True, None, None, Span(0, math.inf)),
        (True, True, None, None, Span(0, math.inf)),
        (False, True, None, "now", Span(0, None)),
        (False, True, None, "1m", Span(0, NOW - 60)),
        (False, False, "2h", None, Span(NOW - 7_200, None)),
        (True, False, "2h", None, Span(NOW - 7_200, math.inf)),
        (True, False, "2h", "now", Span(NOW - 7_200, None)),
        (False, False, "2h", "1h", Span(NOW - 7_200, NOW - 3_600)),
        (False, False, None, "1970-02-01", Span(0, 31 * 86_400)),
        (True, False, None, "1970-02-01", Span(math.inf, 31 * 86_400)),
    ],
)
def test_what_the_options_ask_for(
    follows: bool, from_beginning: bool, since: str | None, until: str | None, span: Span
) -> None:
    assert span_of(NOW, follows, from_beginning, since, until) == span


def test_records_stand_as_they_are() -> None:
    value = b'{"n":12345678901234567890}'
    line = as_record({}, recorded(b"at://did:web:x/a.b.c/k", value, type=b"record", odd=b"a\xff"))
    assert value.decode() in line
    assert orjson.loads(line) | {"value": None} == {
        "topic": "events",
        "partition": 3,
        "offset": 7,
        "timestamp": "1970-01-01T00:00:01.001Z",
        "key": "at://did:web:x/a.b.c/k",
        "headers": {"type": "record", "odd": "a\\xff"},
        "value": None,
    }
    assert orjson.loads(as_record({}, recorded(b"k", None)))["value"] is None
