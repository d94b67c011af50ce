"""What an operator is told about searches."""

from __future__ import annotations

import time

import pytest
from structlog.testing import capture_logs

from consumer.fetch.discovery.search_log import SearchLog, UnservedLog
from consumer.state.discovery import Answer, AnswerKind, Search, SearchState

ONE, OTHER = "https://one.test", "https://other.test"
COLLECTION = "org.example.thing"
AWAY = Answer(AnswerKind.AWAY, "503 busy")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    seconds = [1_000.0]
    monkeypatch.setattr(time, "monotonic", lambda: seconds[0])
    return seconds


def postponed(source: str, listing: str = COLLECTION) -> Search:
    return Search(source, listing, detail="503 busy")


def told(log: SearchLog, search: Search, answer: Answer = AWAY) -> list[str]:
    with capture_logs() as logs:
        log.tell(search, answer)
    return [each["event"] for each in logs]


def test_a_source_that_fails_is_named_at_once_and_then_once_a_minute(clock: list[float]) -> None:
    log = SearchLog()
    assert told(log, postponed(ONE)) == ["listing_postponed"]
    clock[0] += 59.0
    assert told(log, postponed(ONE, "org.example.other")) == []
    assert told(log, postponed(OTHER)) == ["listing_postponed"]
    clock[0] += 1.0
    assert told(log, postponed(ONE)) == ["listing_postponed"]
    assert told(log, postponed(ONE)) == []


def test_the_warning_names_source_listing_and_error() -> None:
    with capture_logs() as logs:
        SearchLog().tell(postponed(ONE), AWAY)
    assert logs == [
        {
            "event": "listing_postponed",
            "log_level": "warning",
            "listing": COLLECTION,
            "source": ONE,
            "error": "503 busy",
        }
    ]


def test_pages_and_failing_hosts_of_a_listing_are_no_warnings() -> None:
    page = Answer(AnswerKind.PAGE, named=3, cursor="next")
    assert told(SearchLog(), postponed(ONE), page) == []
    assert told(SearchLog(), Search(ONE, "*", OTHER, detail="503 busy")) == []


def test_a_source_that_does_not_serve_is_named_once() -> None:
    log, absent = SearchLog(), Answer(AnswerKind.ABSENT, "404")
    refused = Search(ONE, COLLECTION, state=SearchState.UNSUPPORTED, detail="404")
    assert told(log, refused, absent) == ["listing_unsupported"]
    assert told(log, refused, absent) == []


def unserved(log: UnservedLog, *, at_once: bool) -> list[list[str]]:
    with capture_logs() as logs:
        log.tell(at_once=at_once)
    return [each["listings"] for each in logs]


def test_listings_that_no_source_serves_are_named_in_one_line(clock: list[float]) -> None:
    log = UnservedLog([ONE, OTHER])
    assert unserved(log, at_once=True) == []
    log.add({"b.c.d": "404"})
    log.add({})
    assert unserved(log, at_once=False) == []
    log.add({"a.b.c": "404"})
    assert unserved(log, at_once=True) == [["a.b.c", "b.c.d"]]
    assert unserved(log, at_once=True) == []

    log.add({"b.c.d": "404"})
    clock[0] += 59.0
    log.add({"a.b.c": "404"})
    assert unserved(log, at_once=False) == []
    clock[0] += 1.0
    assert unserved(log, at_once=False) == [["a.b.c", "b.c.d"]]
    assert unserved(log, at_once=False) == []


def test_the_line_of_unserved_listings_names_sources_and_the_first_error() -> None:
    log = UnservedLog([ONE, OTHER])
    log.add({"b.c.d": "404 first"})
    log.add({"a.b.c": "404 second"})
    with capture_logs() as logs:
        log.tell(at_once=True)
    assert logs == [
        {
            "event": "listing_unserved",
            "log_level": "warning",
            "listings": ["a.b.c", "b.c.d"],
            "sources": [ONE, OTHER],
            "error": "404 first",
            "meaning": "repositories that write nothing new are not found",
        }
    ]
