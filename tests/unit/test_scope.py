"""Which records are wanted: patterns as predicates, as key intervals, and as a digest."""

from __future__ import annotations

import itertools
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumer.scope import Interval, Repos, Scope, interval_of
from procedures.syntax import MAX_NSID

SEGMENT = st.text(string.ascii_lowercase + string.digits + "-", min_size=1, max_size=3)
NSIDS = st.lists(SEGMENT, min_size=3, max_size=5).map(".".join)
WILDCARDS = st.lists(SEGMENT, min_size=2, max_size=4).map(lambda parts: ".".join(parts) + ".*")
PATTERNS = st.one_of(NSIDS, WILDCARDS, st.just("*"))


@pytest.mark.parametrize(
    ("pattern", "collection", "wanted"),
    [
        ("app.bsky.feed.post", "app.bsky.feed.post", True),
        ("app.bsky.feed.post", "app.bsky.feed.postgate", False),
        ("app.bsky.feed.post", "app.bsky.feed.post.draft", False),
        ("app.bsky.feed.post", "app.bsky.feed.pos", False),
        ("app.bsky.feed.post", "app.bsky.feed.POST", False),
        ("app.bsky.feed.*", "app.bsky.feed.post", True),
        ("app.bsky.feed.*", "app.bsky.feed.post.draft", True),
        ("app.bsky.feed.*", "app.bsky.feed", False),
        ("app.bsky.feed.*", "app.bsky.feedgen", False),
        ("app.bsky.feed.*", "app.bsky.feedgen.post", False),
        ("app.bsky.feed.*", "app.bsky.feed-old.post", False),
        ("app.bsky.feed.*", "app.bsky.fee.post", False),
        ("app.bsky.feed.*", "com.app.bsky.feed.post", False),
        ("*", "app.bsky.feed.post", True),
        ("*", "a", True),
    ],
)
def test_a_pattern_matches_whole_segments(pattern: str, collection: str, wanted: bool) -> None:
    assert Scope((pattern,)).wants(f"{collection}/3kabc") is wanted


def matches(pattern: str, collection: str) -> bool:
    """Match as the documentation says it, segment by segment."""
    if pattern == "*":
        return True
    if pattern.endswith(".*"):
        stem = pattern.split(".")[:-1]
        parts = collection.split(".")
        return len(parts) > len(stem) and parts[: len(stem)] == stem
    return pattern == collection


@given(patterns=st.lists(PATTERNS, max_size=5), collection=NSIDS, rkey=SEGMENT)
def test_predicate_intervals_and_segments_agree(
    patterns: list[str], collection: str, rkey: str
) -> None:
    scope, path = Scope(tuple(patterns)), f"{collection}/{rkey}"
    expected = any(matches(pattern, collection) for pattern in patterns)
    assert scope.wants(path) is expected
    assert any(path in interval for interval in scope.intervals) is expected


@pytest.mark.parametrize(
    ("pattern", "interval"),
    [
        ("pub.chive.note", Interval("pub.chive.note/", "pub.chive.note0")),
        ("pub.chive.*", Interval("pub.chive.", "pub.chive/")),
        ("*", Interval("", None)),
    ],
)
def test_a_pattern_is_one_interval_of_keys(pattern: str, interval: Interval) -> None:
    assert interval_of(pattern) == interval


@pytest.mark.parametrize(
    ("path", "inside"),
    [("a", False), ("b", True), ("bz", True), ("b\xff", True), ("c", False), ("d", False)],
)
def test_an_interval_ends_before_its_upper_bound(path: str, inside: bool) -> None:
    assert (path in Interval("b", "c")) is inside


def test_an_interval_without_an_upper_bound_does_not_end() -> None:
    assert "\U0010ffff" in Interval("b", None)
    assert "a" not in Interval("b", None)


@pytest.mark.parametrize(
    ("patterns", "intervals"),
    [
        ([], []),
        (["*", "pub.chive.*"], [("", None)]),
        (["pub.chive.note", "*"], [("", None)]),
        (["pub.chive.note", "pub.chive.*"], [("pub.chive.", "pub.chive/")]),
        (["pub.chive.*", "pub.chive.eprint.*"], [("pub.chive.", "pub.chive/")]),
        (["pub.chive.*", "pub.chive.*"], [("pub.chive.", "pub.chive/")]),
        (
            ["site.standard.document", "pub.chive.*"],
            [
                ("pub.chive.", "pub.chive/"),
                ("site.standard.document/", "site.standard.document0"),
            ],
        ),
        (  # intervals that touch are one
            ["pub.chive.note", "pub.chive.note.*"],
            [("pub.chive.note.", "pub.chive.note0")],
        ),
    ],
)
def test_intervals_are_merged_and_in_key_order(
    patterns: list[str], intervals: list[tuple[str, str | None]]
) -> None:
    found = Scope(tuple(patterns)).intervals
    assert [(one.lower, one.upper) for one in found] == intervals


@given(patterns=st.lists(PATTERNS, max_size=6))
def test_intervals_are_disjoint_whatever_the_patterns(patterns: list[str]) -> None:
    found = Scope(tuple(patterns)).intervals
    for left, right in itertools.pairwise(found):
        assert left.upper is not None
        assert left.upper < right.lower


def test_the_digest_tells_which_keys_are_wanted() -> None:
    digest = Scope(("pub.chive.*", "site.standard.document")).digest
    assert len(digest) == 32
    assert Scope(("site.standard.document", "pub.chive.*")).digest == digest
    assert Scope(("site.standard.document", "pub.chive.note", "pub.chive.*")).digest == digest
    others = [(), ("*",), ("pub.chive.*",), ("pub.chive.*", "site.standard.documents")]
    assert digest not in {Scope(other).digest for other in others}
    assert len({Scope(other).digest for other in others}) == len(others)


def test_the_digest_is_stored_and_so_never_changes() -> None:
    digest = Scope(("pub.chive.*", "site.standard.document")).digest
    assert digest.hex() == "6597ff00ace1d3a593ea4370d0d4f4394079338e081272c11f973f94d4e98757"


def test_verdicts_are_remembered_within_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Scope, "_MAX_VERDICTS", 3)
    scope = Scope(("pub.chive.*",))
    for number in range(10):
        assert scope.wants(f"pub.chive.c{number}/k")
        assert not scope.wants(f"pub.chiver.c{number}/k")
        assert len(scope._verdicts) <= 3
    before = dict(scope._verdicts)
    too_long = "pub.chive." + "x" * MAX_NSID
    assert scope.wants(f"{too_long}/k")
    assert scope._verdicts == before


def test_scopes_are_equal_by_what_they_want() -> None:
    one, other = Scope(("pub.chive.*",)), Scope(("pub.chive.*",))
    one.wants("pub.chive.note/k")
    assert one == other
    assert "_verdicts" not in repr(one)


def test_the_extent_names_collections_and_repositories() -> None:
    scopes = [
        Scope(("a.b.*",)),
        Scope(("a.b.*",), Repos.ALL),
        Scope(("a.b.*",), Repos.LISTED, dids=frozenset({"did:plc:a"})),
        Scope(("a.b.*",), Repos.LISTED, dids=frozenset({"did:plc:a", "did:plc:b"})),
        Scope(("a.c.*",)),
    ]
    assert len({scope.extent for scope in scopes}) == len(scopes)
    assert Scope(("a.b.*", "a.b.c")).extent == scopes[0].extent
