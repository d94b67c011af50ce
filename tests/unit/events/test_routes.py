from __future__ import annotations

import random

import pytest

from consumer.events.routes import Routes
from consumer.scope import interval_of

PATTERNS = {
    "pub.chive.*": "chive",
    "pub.chive.eprint.*": "eprints",
    "pub.chive.eprint.citation": "events",
    "pub.chive.graph.node": "graph",
    "site.standard.*": "chive",
}
ROUTES = Routes(PATTERNS, "events")


def key(collection: str) -> bytes:
    return f"at://did:plc:ewvi7nxzyoun6zhxrhs64oiz/{collection}/3lbcdefghijkl".encode()


@pytest.mark.parametrize(
    ("collection", "topic"),
    [
        ("pub.chive.eprint.submission", "eprints"),
        ("pub.chive.eprint.citation", "events"),  # an exception inside a wildcard
        ("pub.chive.eprint.citation.note", "eprints"),
        ("pub.chive.eprint", "chive"),  # a wildcard is over whole segments, and not its own stem
        ("pub.chive.eprints.submission", "chive"),
        ("pub.chive.graph.node", "graph"),
        ("pub.chive.graph.edge", "chive"),
        ("site.standard.document", "chive"),
        ("site.standards.document", "events"),
        ("network.cosmik.card", "events"),
    ],
)
def test_the_most_specific_pattern_counts(collection: str, topic: str) -> None:
    assert ROUTES.of(key(collection)) == (topic,)


def test_everything_may_leave_the_topic_of_the_rest() -> None:
    routes = Routes({"*": "all-records", "pub.chive.*": "chive"}, "events")
    assert routes.of(key("network.cosmik.card")) == ("all-records",)
    assert routes.of(key("pub.chive.graph.node")) == ("chive",)
    assert routes.of(b"did:plc:ewvi7nxzyoun6zhxrhs64oiz#account") == (
        "events",
        "all-records",
        "chive",
    )


@pytest.mark.parametrize(
    "other", [b"did:plc:a#account", b"did:plc:a#identity", b"did:plc:a#sync", b"lane/3", None]
)
def test_what_is_of_no_record_goes_to_every_topic_once(other: bytes | None) -> None:
    assert ROUTES.of(other) == ("events", "chive", "eprints", "graph")


def test_without_routes_there_is_one_topic() -> None:
    routes = Routes({}, "events")
    assert routes.topics == ("events",)
    assert routes.of(key("pub.chive.graph.node")) == ("events",)
    assert routes.of(b"did:plc:a#sync") == ("events",)


def test_the_order_of_patterns_means_nothing_and_the_scope_agrees() -> None:
    """The topic is that of the narrowest interval of the scope that holds the path."""
    chance = random.Random(5)
    segments = ["a", "b", "c"]
    for _ in range(300):
        names = [
            ".".join(chance.choices(segments, k=chance.randrange(2, 6))) + chance.choice(["", ".*"])
            for _ in range(chance.randrange(1, 8))
        ]
        patterns = {name: f"topic-{n}" for n, name in enumerate({*names, "*"})}
        shuffled = list(patterns.items())
        chance.shuffle(shuffled)
        collection = ".".join(chance.choices(segments, k=chance.randrange(3, 6)))
        matching = [one for one in patterns if f"{collection}/self" in interval_of(one)]
        narrowest = max(matching, key=lambda one: (not one.endswith("*"), len(one)))
        expected = (patterns[narrowest],)
        assert Routes(patterns, "events").of(key(collection)) == expected
        assert Routes(dict(shuffled), "events").of(key(collection)) == expected
