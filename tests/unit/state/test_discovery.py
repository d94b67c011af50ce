"""Which listing is searched where, and what answers mean."""

from __future__ import annotations

from dataclasses import replace

import pytest

from consumer.scope import EVERYTHING, Repos, Scope
from consumer.state.discovery import (
    HOSTS,
    SWEEP,
    Answer,
    AnswerKind,
    Search,
    SearchRules,
    SearchState,
    after,
    asked_for,
    cancelled,
    listings,
    opened,
    plan,
    postponed,
    unread_hosts,
)
from procedures.messages import Discover

A, B, C = (f"https://{name}.example" for name in "abc")
VOTES = "pub.chive.graph.vote"
RULES = SearchRules()
NOW, DAY = 1_000_000.0, 86_400.0
PAGE, ABSENT, REFUSED, BROKEN, AWAY = AnswerKind


def known(*searches: Search) -> dict[tuple[str, str], Search]:
    return {(each.source, each.listing): each for each in searches}


def planned(*searches: Search, epoch: int = 1, now: float = NOW, **more: object) -> list[Search]:
    wanted = more.get("wanted", [VOTES])
    sources = more.get("sources", [A, B, C])
    return [*plan(wanted, sources, known(*searches), epoch, now, RULES)]  # type: ignore[arg-type]


def completed(source: str, listing: str = VOTES, epoch: int = 1, now: float = NOW) -> Search:
    return after(opened(source, listing, epoch, now), Answer(PAGE), now, 0, RULES)


def unsupported(source: str, listing: str = VOTES, now: float = NOW) -> Search:
    return after(opened(source, listing, 1, now), Answer(ABSENT, "no"), now, 0, RULES)


def test_which_listings_a_scope_needs() -> None:
    assert listings(Scope(("org.a.*", "a.b.c")), ("org.a.b", "org.ab.c")) == ("a.b.c", "org.a.b")
    assert listings(Scope(("*",))) == listings(Scope(("a.b.c",), Repos.ALL)) == (HOSTS,)
    assert listings(Scope(("pub.chive.*",), Repos.LISTED)) == ()


def test_the_first_source_is_searched_first() -> None:
    assert planned() == [opened(A, VOTES, 1, NOW)]
    assert planned(opened(A, VOTES, 1, NOW)) == []


def test_a_source_that_does_not_serve_gives_way_to_the_next() -> None:
    assert planned(unsupported(A)) == [opened(B, VOTES, 1, NOW)]
    assert planned(unsupported(A), completed(B)) == []
    assert planned(unsupported(A), unsupported(B), unsupported(C)) == []


def test_a_source_without_the_method_is_asked_once_for_all_collections() -> None:
    reviews = "pub.chive.review.comment"
    waiting = replace(opened(A, reviews, 1, NOW), operation="searching")
    said = unsupported(A, now=NOW + 1)
    steps = planned(said, waiting, wanted=[VOTES, reviews], now=NOW + 2)
    (spared,) = [one for one in steps if one.ended]
    assert (spared.source, spared.listing, spared.state) == (A, reviews, SearchState.UNSUPPORTED)
    assert (spared.detail, spared.failed, spared.operation) == ("no", 0, "searching")
    assert [one for one in steps if not one.ended] == [
        opened(B, VOTES, 1, NOW + 2),
        opened(B, reviews, 1, NOW + 2),
    ]


def test_only_an_answer_about_the_method_spares_the_other_collections() -> None:
    reviews = "pub.chive.review.comment"
    waiting = opened(A, reviews, 1, NOW)

    def goes_on(*others: Search, waiting: Search = waiting) -> bool:
        steps = planned(*others, waiting, wanted=[VOTES, reviews, "a.b.c"], now=NOW + 2)
        return all(one.listing != reviews for one in steps)

    said = unsupported(A, now=NOW + 1)
    assert not goes_on(said)
    assert goes_on(replace(said, refusal="InvalidRequest")), "it may refuse this collection only"
    assert goes_on(said, completed(A, "a.b.c")), "it has the method"
    assert goes_on(unsupported(B, now=NOW + 1)), "another source"
    later = opened(A, reviews, 1, NOW + 1.5)
    assert goes_on(said, waiting=later), "a command asks again"
    assert goes_on(said, waiting=after(waiting, Answer(AWAY), NOW, 0, RULES)), "it was asked"
    assert goes_on(unsupported(A, HOSTS, NOW + 1)), "another method"


def test_what_a_source_does_not_serve_is_remembered_until_the_timer() -> None:
    served = completed(B)
    assert planned(unsupported(A), served, now=NOW + DAY - 1) == []
    again = planned(unsupported(A), served, now=NOW + DAY)
    assert again == [opened(A, VOTES, 1, NOW + DAY)]


def test_a_new_epoch_opens_what_was_read_again() -> None:
    assert planned(completed(A, epoch=1), epoch=2) == [opened(A, VOTES, 2, NOW)]
    assert planned(unsupported(A), completed(B), epoch=2) == [opened(B, VOTES, 2, NOW)]
    sweep = completed(A, SWEEP)
    assert plan([SWEEP], [A], known(sweep), 2, NOW, RULES) == ()


def test_the_timer_opens_again() -> None:
    assert planned(completed(A), now=NOW + 7 * DAY - 1) == []
    assert planned(completed(A), now=NOW + 7 * DAY) == [opened(A, VOTES, 1, NOW + 7 * DAY)]


def test_a_new_source_in_front_is_searched() -> None:
    assert planned(completed(B), sources=[A, B]) == [opened(A, VOTES, 1, NOW)]
    assert planned(completed(B), sources=[B, A]) == []


def test_a_source_that_is_down_gives_way_and_is_given_up_when_another_was_read() -> None:
    down = after(opened(A, VOTES, 1, NOW), Answer(AWAY, "refused"), NOW, 0, RULES)
    assert planned(down, now=NOW + 600) == []
    later = NOW + 601
    assert planned(down, now=later) == [opened(B, VOTES, 1, later)]
    assert planned(down, opened(B, VOTES, 1, later), now=later) == []
    (given_up,) = planned(down, completed(B, now=later), now=later)
    assert (given_up.source, given_up.state) == (A, SearchState.INCOMPLETE)
    assert "refused" in given_up.detail


def test_all_repositories_are_found_at_hosts_and_else_at_a_source() -> None:
    assert planned(wanted=[HOSTS], sources=[A]) == [opened(A, HOSTS, 1, NOW)]
    assert planned(completed(A, HOSTS), wanted=[HOSTS], sources=[A]) == []
    absent = unsupported(A, HOSTS)
    assert planned(absent, wanted=[HOSTS], sources=[A]) == [opened(A, "*", 1, NOW)]
    assert planned(absent, completed(A, "*"), wanted=[HOSTS], sources=[A]) == []


def test_pages_lead_to_the_end() -> None:
    search = after(opened(A, VOTES, 1, NOW), Answer(PAGE, named=3, cursor="x"), NOW, 0, RULES)
    assert (search.cursor, search.pages, search.found, search.state) == ("x", 1, 3, "open")
    search = after(search, Answer(PAGE, named=1), NOW + 1, 0, RULES)
    assert (search.pages, search.found, search.state) == (2, 4, SearchState.COMPLETED)
    assert search.due == NOW + 1 + 7 * DAY


@pytest.mark.parametrize("length", [1, 2, 3, 31, 32, 33, 100, 1_000])
def test_a_circle_of_cursors_ends_the_search(length: int) -> None:
    search = opened(A, VOTES, 1, NOW)
    requests = 0
    while not search.ended:
        cursor = str(7 if requests < 7 else 8 + (requests - 7) % length)
        cursor = str(requests) if requests < 7 else cursor
        search = after(search, Answer(PAGE, named=1, cursor=cursor), NOW, 0, RULES)
        requests += 1
    assert search.state is SearchState.INCOMPLETE
    assert "came a second time" in search.detail
    assert requests <= 3 * (length + 8)


def test_the_same_name_three_times_over_half_a_minute_means_not_served_here() -> None:
    search = opened(A, VOTES, 1, NOW)
    refusal = Answer(REFUSED, "status 400 BadRequest", name="BadRequest")
    for seconds in (0, 1, 2, 29):
        search = after(search, refusal, NOW + seconds, 0, RULES)
        assert search.state is SearchState.OPEN
    other = after(search, replace(refusal, name="Other"), NOW + 40, 0, RULES)
    assert (other.state, other.refusals) == (SearchState.OPEN, 1)
    search = after(search, refusal, NOW + 30, 0, RULES)
    assert (search.state, search.detail) == (SearchState.UNSUPPORTED, "status 400 BadRequest")


def test_a_source_that_gave_a_page_serves_the_listing() -> None:
    search = after(opened(A, VOTES, 1, NOW), Answer(PAGE, cursor="x"), NOW, 0, RULES)
    assert after(search, Answer(ABSENT), NOW, 0, RULES).state is SearchState.INCOMPLETE


def test_a_page_that_always_fails_is_read_in_smaller_pieces_and_then_named() -> None:
    search = after(opened(A, VOTES, 1, NOW), Answer(PAGE, cursor="x"), NOW, 0, RULES)
    limits, now = [], NOW
    while not search.ended:
        limits.append(search.limit)
        search = after(search, Answer(BROKEN, "status 500"), now, 0.5, RULES)
        now = search.due
    assert limits == [limit for limit in (2_000, 200, 20, 2, 1) for _ in range(3)]
    assert search.state is SearchState.INCOMPLETE
    assert "'x'" in search.detail
    assert "status 500" in search.detail


def test_a_page_in_a_smaller_piece_lets_the_next_be_larger() -> None:
    search = opened(A, VOTES, 1, NOW)
    for _ in range(6):
        search = after(search, Answer(BROKEN), NOW, 0, RULES)
    assert search.limit == 20
    search = after(search, Answer(PAGE, cursor="x"), NOW, 0, RULES)
    assert (search.limit, search.failures, search.tries) == (200, 0, 0)


def test_a_source_that_stays_away_ends_the_search() -> None:
    search = opened(A, VOTES, 1, NOW)
    now, requests = NOW, 0
    while not search.ended:
        search = after(search, Answer(AWAY, "refused", retry_after=7), now, 0, RULES)
        assert search.due - now >= 7
        now, requests = search.due, requests + 1
    assert DAY <= now - NOW <= 3 * DAY
    assert requests < 70


def test_what_waits_for_us_does_not_fail() -> None:
    search = postponed(opened(A, VOTES, 1, NOW), "full", 60, NOW)
    assert (search.due, search.failures, search.failing_since) == (NOW + 60, 0, None)
    assert cancelled(search, NOW, RULES).state is SearchState.INCOMPLETE


def unread(wanted: list[str], searches: list[Search]) -> int | None:
    return unread_hosts(wanted, searches, NOW, RULES)


def test_the_search_is_over_when_every_listing_was_read_at_some_source() -> None:
    votes, others = VOTES, "pub.chive.graph.edge"
    assert unread([votes], []) is None
    assert unread([], []) == 0
    assert unread([votes], [unsupported(A)]) is None
    assert unread([votes], [unsupported(A), completed(B)]) == 0
    assert unread([votes, others], [completed(A)]) is None
    assert unread([votes], [completed(A), opened(A, others, 1, NOW)]) is None
    assert unread([votes], [completed(A), opened(A, SWEEP, 1, NOW)]) == 0


def test_hosts_that_could_not_be_read_are_counted() -> None:
    hosts = completed(A, HOSTS)
    one, two = (opened(each, EVERYTHING, 1, NOW, named_by=A) for each in (B, C))
    assert unread([HOSTS], [hosts, one, two]) is None
    ended = [after(one, Answer(PAGE), NOW, 0, RULES), after(two, Answer(ABSENT), NOW, 0, RULES)]
    assert unread([HOSTS], [hosts, *ended]) == 1
    assert unread([HOSTS], [unsupported(A, HOSTS), *ended]) is None
    away = after(two, Answer(AWAY), NOW - RULES.down_after - 1, 0, RULES)
    assert unread([HOSTS], [hosts, ended[0], away]) == 1
    assert unread([HOSTS], [hosts, ended[0], after(two, Answer(AWAY), NOW, 0, RULES)]) is None
    assert unread([HOSTS], [unsupported(A, HOSTS), completed(A, EVERYTHING)]) == 0


@pytest.mark.parametrize(("collection", "source"), [(None, None), (VOTES, None), (VOTES, A)])
def test_what_a_command_asks_for(collection: str | None, source: str | None) -> None:
    command = Discover(id="x", collection=collection, source=source, requested_at=NOW)
    assert asked_for(command.subject) == (collection, source)
