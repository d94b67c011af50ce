"""Events for people: filters and readable lines."""

from __future__ import annotations

from typing import Any

import pytest

from consumer.cli.events import Filter, line

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
