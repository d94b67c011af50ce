"""Very many DIDs in little memory."""

from __future__ import annotations

import tracemalloc

from hypothesis import given
from hypothesis import strategies as st

from consumer.scope import Scope
from consumer.tail.packed import PackedDids
from consumer.tail.relevance import Relevance
from consumer.verify.frames import Kind, Peek

_MANY = 100_000


def did(number: int) -> str:
    return f"did:plc:{number:024x}"


@given(st.lists(st.text()), st.lists(st.text()))
def test_what_was_added_is_in_it_once(first: list[str], then: list[str]) -> None:
    packed = PackedDids(first)
    packed.update(then)
    assert all(each in packed for each in (*first, *then))
    assert len(packed) == len({*first, *then})


def test_nothing_else_is() -> None:
    packed = PackedDids(map(did, range(_MANY)))
    assert len(packed) == _MANY
    assert not any(did(_MANY + number) in packed for number in range(_MANY))


def test_it_is_a_fraction_of_a_set() -> None:
    tracemalloc.start()
    try:
        packed = PackedDids()
        before, _ = tracemalloc.get_traced_memory()
        for number in range(_MANY):
            packed.add(did(number))
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # Few share a string yet: most of it is the strings' own size.
    assert (after - before) / _MANY < 60


def test_the_tracked_set_is_packed_when_it_is_large() -> None:
    relevance = Relevance(Scope(("pub.chive.*",)), forward_all=False, most_plain=10)
    other = ("app.bsky.feed.post/3k",)
    for numbers in (range(5), range(20), range(30, 35)):
        relevance.track(map(did, numbers))
        for number in (*numbers, 50):
            look = Peek(Kind.COMMIT, 1, did(number), None, other)
            assert relevance.wants(look) == (number in numbers)
    assert relevance.tracked == 25
    assert relevance.wants(Peek(Kind.COMMIT, 1, did(99), None, ("pub.chive.graph.vote/3k",)))
    assert relevance.wants(Peek(Kind.COMMIT, 1, did(99), None, other))
    assert relevance.tracked == 26
