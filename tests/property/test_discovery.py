"""Whatever sources answer, every search ends, nothing loops, and no source is asked in vain."""

from __future__ import annotations

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from consumer.scope import EVERYTHING
from consumer.state.discovery import (
    HOSTS,
    Answer,
    AnswerKind,
    Search,
    SearchRules,
    SearchState,
    after,
    plan,
)

A, B = "https://a.example", "https://b.example"
LISTINGS = ("a.b.c", "d.e.f")
RULES = SearchRules()
DAY = 86_400.0

_CURSORS = st.sampled_from([None, "x", "y", "z"])
_PAGES = st.builds(Answer, st.just(AnswerKind.PAGE), named=st.integers(0, 3), cursor=_CURSORS)
_OTHERS = st.builds(
    Answer,
    st.sampled_from([kind for kind in AnswerKind if kind is not AnswerKind.PAGE]),
    st.just("words"),
    name=st.sampled_from(["BadRequest", "InvalidRequest"]),
    retry_after=st.sampled_from([0.0, 0.0, 30.0, 3_600.0]),
)
_ANSWERS = st.one_of(_PAGES, _OTHERS)
# What a source answers in turn, and then for ever.
_SCRIPTS = st.lists(_ANSWERS, min_size=1, max_size=30)


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(st.tuples(st.sampled_from([A, B]), st.sampled_from(LISTINGS)), _SCRIPTS))
def test_every_search_ends(scripts: dict[tuple[str, str], list[Answer]]) -> None:
    known: dict[tuple[str, str], Search] = {}
    asked: Counter[tuple[str, str]] = Counter()
    opened: Counter[tuple[str, str]] = Counter()
    now = 0.0
    while True:
        for search in plan(LISTINGS, (A, B), known, 1, now, RULES):
            key = (search.source, search.listing)
            opened[key] += not search.ended
            known[key] = search
        going = [search for search in known.values() if not search.ended]
        if not going or now > 3 * DAY:
            break
        search = min(going, key=lambda each: each.due)
        now = max(now, search.due)
        key = (search.source, search.listing)
        script = scripts.get(key, [Answer(AnswerKind.ABSENT)])
        answer = script[min(asked[key], len(script) - 1)]
        asked[key] += 1
        step = after(search, answer, now, 0.0, RULES)
        assert step.ended or step.due >= now
        assert step.ended or step.limit >= 1
        if answer.kind is AnswerKind.PAGE and answer.cursor is not None and not step.ended:
            assert step.cursor == answer.cursor
        known[key] = step
    for key, count in asked.items():
        assert count <= 200 * opened[key]
        # Within a day nothing is opened again: a search that has ended stays so.
        assert opened[key] <= 1 + now / DAY
    for listing in LISTINGS:
        states = [known[s, listing].state for s in (A, B) if (s, listing) in known]
        assert SearchState.OPEN not in states or now > 3 * DAY
        if SearchState.COMPLETED not in states:
            assert len(states) == 2, "every source was asked"


@given(st.lists(st.sampled_from([*SearchState]), min_size=2, max_size=2))
def test_a_host_listing_falls_back_only_without_one(states: list[SearchState]) -> None:
    known = {
        (source, HOSTS): Search(source, HOSTS, state=state, epoch=1, due=10.0)
        for source, state in zip((A, B), states, strict=True)
    }
    steps = plan([HOSTS], (A, B), known, 1, 0.0, RULES)
    served = any(state in (SearchState.COMPLETED, SearchState.OPEN) for state in states)
    assert bool([each for each in steps if each.listing == EVERYTHING]) is not served
