"""The status report: what it says of given tables and waiting messages, and its readable form."""

from __future__ import annotations

import io
from dataclasses import replace
from datetime import UTC, datetime
from uuid import uuid4

import orjson
import pytest
from rich.console import Console

from consumer.cli.report import Waiting, render, report
from consumer.kafka.topics import Topic
from consumer.state.discovery import Search, SearchState
from consumer.state.sweep import Round, Way
from consumer.store.answers import HeldHost
from consumer.store.rows import RELEASED, Lane
from consumer.store.status import Cursor, RelayConnection, Status
from consumer.store.sweep import Progress

NOW = 1_800_000_000.0


def moment(ago: float) -> datetime:
    return datetime.fromtimestamp(NOW - ago, UTC)


URL = "wss://relay.example"
CONNECTED = RelayConnection(URL, True, moment(3600), "", moment(1))
AWAY = RelayConnection(URL, False, moment(90), "[Errno 111] Connection refused", moment(1))
OLD = RelayConnection(URL, True, moment(7200), "", moment(300))

FOUND = Status(
    cursors=[Cursor("wss://relay.example", 31527015322, moment(2.5), 3, moment(1))],
    lanes=[
        Lane(0, uuid4(), firehose_offset=1000, last_seq=7),
        Lane(1, RELEASED, firehose_offset=50, stalls=2),
    ],
    repos={
        ("active", "active", None): 40,
        ("active", "desynchronized", "first_seen"): 7,
        ("active", "desynchronized", "chain"): 2,
        ("deactivated", "active", None): 1,
    },
    records=1234,
    parked=3,
    lookups=1,
    operations={"queued": 9},
    outbox={1: 5},
    relays=[CONNECTED],
)
EMPTY = Status([], [], {}, 0, 0, 0, {}, {})
WAITING = {(Topic.FIREHOSE, 1): Waiting(12, NOW - 30)}


def test_report() -> None:
    seen = report(FOUND, WAITING, NOW)
    assert seen["cursors"][0]["ageSeconds"] == 2.5
    assert seen["lagSeconds"] == 30.0
    assert seen["repos"] == {
        "total": 50,
        "byState": {"active": 41, "desynchronized": 9},
        "byStatus": {"active": 49, "deactivated": 1},
        "desynchronizedBy": {"first_seen": 7, "chain": 2},
    }
    assert [lane["owned"] for lane in seen["lanes"]] == [True, False]
    assert [lane["firehoseWaiting"] for lane in seen["lanes"]] == [0, 12]
    assert [lane["lagSeconds"] for lane in seen["lanes"]] == [0.0, 30.0]
    assert [lane["outbox"] for lane in seen["lanes"]] == [0, 5]
    assert seen["outbox"] == 5
    assert orjson.loads(orjson.dumps(seen)) == seen


def test_the_cursor_of_a_relay_that_is_not_read_and_not_in_the_settings_was_left() -> None:
    [read] = FOUND.cursors
    others = [replace(read, relay=relay) for relay in ("wss://spare", "wss://former")]
    found = replace(FOUND, cursors=[read, *others])
    seen = report(found, WAITING, NOW, ("wss://spare",))
    assert [cursor["left"] for cursor in seen["cursors"]] == [False, False, True]
    assert shown(seen).count("no longer read") == 1


SWEPT = Progress(
    Round(Way.HOSTS, NOW - 60, ended=False, total=10_000, taken=1_234),
    {"in_step": 1_200, "behind": 3, "unasked": 12, "newer": 2},
    {None: 2, "HostUnreachable": 11, "RateLimited": 1},
    {"in_step": 9_990},
)


def test_how_far_the_sweep_is() -> None:
    seen = report(replace(EMPTY, sweep=SWEPT), {}, NOW)
    assert seen["sweep"] == {
        "way": "hosts",
        "beganAt": moment(60).isoformat(),
        "seconds": 60.0,
        "ended": False,
        "tracked": 10_000,
        "taken": 1_234,
        "findings": {"in_step": 1_200, "behind": 3, "unasked": 12, "newer": 2},
        "findingsBefore": {"in_step": 9_990},
        "maybeBehind": 2,
        "unasked": {"HostUnreachable": 11, "RateLimited": 1},
    }
    text = shown(seen)
    assert "1,234 of 10,000 repositories compared with their hosts" in text
    assert "3 were behind and are synced; 2 may be behind" in text
    assert "could not ask about 12: 11 HostUnreachable, 1 RateLimited" in text


def test_a_sweep_by_the_listing() -> None:
    walk = Round(Way.LISTING, NOW, ended=True, total=2_000_000, taken=0)
    text = shown(report(replace(EMPTY, sweep=Progress(walk, {}, {}, {})), {}, NOW))
    assert "2,000,000 repositories are compared with the relay's listing" in text
    assert report(EMPTY, {}, NOW)["sweep"] is None


def test_how_far_the_listings_were_read() -> None:
    a, b, host = "https://a.example", "https://b.example", "https://pds.example"
    votes, comments = "pub.chive.graph.vote", "pub.chive.review.comment"
    searches = [
        Search(a, votes, state=SearchState.UNSUPPORTED, failed=3, detail="status 400 BadRequest"),
        Search(b, votes, state=SearchState.COMPLETED, pages=2, found=700),
        Search(a, comments, pages=1, found=9),
        Search(host, "*", named_by=a, state=SearchState.COMPLETED, pages=4, found=40),
    ]
    seen = report(replace(FOUND, searches=searches, found=(12, 5, 3)), WAITING, NOW)
    discovery = seen["discovery"]
    assert (discovery["listings"], discovery["read"]) == (2, 1)
    assert discovery["searches"][0]["detail"] == "status 400 BadRequest"
    assert discovery["hosts"]["found"] == 40
    text = shown(seen)
    assert "1 of 2 listings read" in text
    assert "12 are not synced yet, 3 of them failed before" in text
    for part in ("1 of 3", votes, b, "completed", "700", "unsupported", "status 400 BadRequest"):
        assert part in text


def test_listings_that_wait_for_the_same_source_share_a_line() -> None:
    away = "https://away.example"
    searches = [
        Search(away, listing, failed=2, detail=f"ConnectError from {away}/x?collection={listing}")
        for listing in ("pub.chive.graph.vote", "pub.chive.review.comment", "pub.chive.eprint.tag")
    ]
    seen = report(replace(FOUND, searches=searches), WAITING, NOW)
    assert len(seen["discovery"]["searches"]) == 3
    [line] = [line for line in shown(seen).splitlines() if "ConnectError" in line]
    assert line.split()[:7] == ["3", "of", "3", "pub.chive.graph.vote", "and", "2", "more"]


def test_a_host_whose_deletions_wait_is_named_with_what_to_do() -> None:
    host = "[red]pds.example"
    seen = report(replace(FOUND, held=[HeldHost(host, 400, 5_000)]), WAITING, NOW)
    assert seen["heldDeletions"] == [{"host": host, "gone": 400, "tracked": 5_000}]
    text = shown(seen)
    assert f"{host} says that 400 of 5,000 accounts are gone" in text
    assert "run for each of them: consumer sync DID" in text
    assert "DELETIONS WAIT" not in shown(report(FOUND, WAITING, NOW))


def test_report_of_nothing() -> None:
    seen = report(EMPTY, {}, NOW)
    assert seen["lagSeconds"] is None
    assert report(replace(EMPTY, relays=[CONNECTED]), {}, NOW)["lagSeconds"] == 0.0
    assert seen["repos"]["total"] == 0
    assert "none yet" in shown(seen)


def shown(seen: dict[str, object]) -> str:
    console = Console(file=io.StringIO(), width=200)
    render(seen, console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_people_see_the_same() -> None:
    text = shown(report(FOUND, WAITING, NOW))
    for words in ("seq 31527015322", "30.0", "7 first_seen", "9 queued", "1,234", "5 rows"):
        assert words in text


@pytest.mark.parametrize(
    "hostile", ["\x1b[2J", "\x9b2J", "\r\nlag  0.0 s", "\u202egnp.exe", "\u2028", "\x7f\x08", "\0"]
)
def test_a_status_that_a_stranger_chose_is_escaped(hostile: str) -> None:
    strange = Status([], [], {(f"[red]{hostile}", "active", None): 1}, 0, 0, 0, {}, {})
    text = shown(report(strange, {}, NOW))
    assert text.replace("\n", "").isprintable()
    assert len(text.splitlines()) == len(shown(report(EMPTY, {}, NOW)).splitlines()) + 1
    assert "[red]" in text


def test_the_first_line_says_that_the_relay_is_connected_and_since_when() -> None:
    seen = report(FOUND, WAITING, NOW)
    since = moment(3600).isoformat()
    assert seen["relay"] == {
        "url": URL,
        "connected": True,
        "since": since,
        "seconds": 3600.0,
        "reason": None,
    }
    first = shown(seen).splitlines()[0].split()
    assert first[:4] == ["relay", "connected", "to", URL]
    assert " ".join(first[4:]) == f"since {since[:10]} {since[11:19]} UTC (3,600 s)"


@pytest.mark.parametrize(
    ("relays", "why"),
    [
        ([AWAY], "(90 s): [Errno 111] Connection refused"),
        ([OLD], "(300 s): no tailer has reported for 300 s; is the role tailer running?"),
        ([AWAY, OLD], "(90 s): [Errno 111] Connection refused"),
        ([OLD, AWAY], "(90 s): [Errno 111] Connection refused"),
        ([], "no tailer has reported yet; is the role tailer running?"),
    ],
)
def test_what_is_not_connected_says_why_and_has_no_lag_of_zero(
    relays: list[RelayConnection], why: str
) -> None:
    seen = report(replace(FOUND, relays=relays), {}, NOW)
    assert seen["lagSeconds"] is None
    assert [lane["lagSeconds"] for lane in seen["lanes"]] == [None, None]
    lines = shown(seen).splitlines()
    assert lines[0].split()[0] == "relay"
    assert "not connected to" in lines[0].lower() or "not connected:" in lines[0]
    assert lines[0].rstrip().endswith(why)
    assert not any(line.split()[:2] == ["lag", "0.0"] for line in lines)
    assert " 0.0 " not in shown(seen)


def test_waiting_messages_are_late_even_if_the_relay_is_away() -> None:
    seen = report(replace(FOUND, relays=[AWAY]), WAITING, NOW)
    assert seen["lagSeconds"] == 30.0
    assert [lane["lagSeconds"] for lane in seen["lanes"]] == [None, 30.0]
