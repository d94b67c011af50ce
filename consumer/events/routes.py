"""Which topics an event goes to.  Pure.

A record goes to the topic of the most specific pattern that its collection matches: the collection
itself, then the longest wildcard, ``*`` at last.  Of two patterns for one collection one is always
longer, so the order in which they are given means nothing.  A record without a pattern goes to the
topic of all the others.  What is said of an account or a lane concerns every reader: it goes to all
of these topics.  A tombstone has the key of its record, and goes where that went.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache

from consumer.scope import EVERYTHING

_RECORD = b"at://"
_COLLECTIONS = 4_096  # whose topics are kept in memory: with the scope ``*`` anybody makes new ones


class Routes:
    """The topics of events: ``patterns`` of collections, and ``others`` for the rest."""

    def __init__(self, patterns: Mapping[str, str], others: str) -> None:
        self.topics = tuple(dict.fromkeys((others, *sorted(patterns.values()))))
        self._patterns = {pattern: (topic,) for pattern, topic in patterns.items()}
        self._others = (others,)
        self._of_collection = lru_cache(_COLLECTIONS)(self._routed)

    def of(self, key: bytes | None) -> tuple[str, ...]:
        """Return the topics of the event with ``key``, an AT-URI if it is one of a record."""
        if key is None or not key.startswith(_RECORD):
            return self.topics
        return self._of_collection(key[len(_RECORD) :].split(b"/", 2)[1])

    def _routed(self, collection: bytes) -> tuple[str, ...]:
        for pattern in _patterns_of(collection.decode()):
            if (found := self._patterns.get(pattern)) is not None:
                return found
        return self._others


def _patterns_of(collection: str) -> Iterator[str]:
    """Yield every pattern that matches, the most specific first."""
    yield collection
    stem = collection
    while "." in stem:
        stem, _, _ = stem.rpartition(".")
        yield f"{stem}.*"
    yield EVERYTHING
