"""Which records are wanted: collection patterns as predicates and as key intervals.  Pure.

A pattern is a collection NSID (``pub.chive.eprint.submission``), a wildcard over whole
segments (``pub.chive.*``), or ``*`` for every collection.  The same patterns answer two
questions: whether one path is wanted, and which intervals of the MST's key order a
repository snapshot must cover (``pub.chive.*`` is every key from ``pub.chive.`` up to,
but without, ``pub.chive/``: ``/`` is the byte after ``.``).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum

from consumer.shard import WHOLE, Shard
from procedures.syntax import MAX_NSID

EVERYTHING = "*"


class Repos(StrEnum):
    """Which repositories are tracked."""

    COLLECTIONS = "collections"  # any repo with a record in a wanted collection
    ALL = "all"
    LISTED = "listed"


class History(StrEnum):
    """Whether gaps are repaired by automatic syncs (``full``) or only on demand (``live``)."""

    FULL = "full"
    LIVE = "live"


@dataclass(frozen=True, slots=True)
class Interval:
    """Paths ``lower <= path < upper`` in bytewise order; ``upper`` None means unbounded."""

    lower: str
    upper: str | None

    def __contains__(self, path: str) -> bool:
        return self.lower <= path and (self.upper is None or path < self.upper)


def interval_of(pattern: str) -> Interval:
    """Return the key interval that a collection pattern covers."""
    if pattern == EVERYTHING:
        return Interval("", None)
    if pattern.endswith(".*"):
        stem = pattern[:-2]
        return Interval(stem + ".", stem + "/")
    return Interval(pattern + "/", pattern + "0")


def _merged(intervals: Iterable[Interval]) -> tuple[Interval, ...]:
    merged: list[Interval] = []
    for interval in sorted(intervals, key=lambda i: i.lower):
        last = merged[-1] if merged else None
        if last is None or (last.upper is not None and interval.lower > last.upper):
            merged.append(interval)
        elif last.upper is not None and (interval.upper is None or interval.upper > last.upper):
            merged[-1] = Interval(last.lower, interval.upper)
    return tuple(merged)


@dataclass(frozen=True)
class Scope:
    """The wanted collections and tracked repositories, as one immutable value.

    Repositories of another ``shard`` are not wanted, whatever they hold.
    """

    collections: tuple[str, ...]
    repos: Repos = Repos.COLLECTIONS
    history: History = History.FULL
    dids: frozenset[str] = frozenset()
    shard: Shard = WHOLE
    _verdicts: dict[str, bool] = field(default_factory=dict, compare=False, repr=False)

    # Collections come from the network: the cache of verdicts must not grow without bound, and
    # so remembers only names of a legal length.
    _MAX_VERDICTS = 10_000

    @property
    def intervals(self) -> tuple[Interval, ...]:
        """The disjoint key intervals covered by the wanted collections, in key order."""
        return _merged(map(interval_of, self.collections))

    @property
    def digest(self) -> bytes:
        """SHA-256 of the intervals: equal exactly when two scopes want the same keys."""
        text = "\n".join(f"{i.lower}\t{i.upper}" for i in self.intervals)
        return hashlib.sha256(text.encode()).digest()

    @property
    def extent(self) -> bytes:
        """SHA-256 of the intervals and of which repositories are tracked."""
        parts = [self.digest.hex(), self.repos, *sorted(self.dids)]
        return hashlib.sha256("\n".join(parts).encode()).digest()

    def wants(self, path: str) -> bool:
        """Tell whether the record at ``path`` (``collection/rkey``) is in a wanted collection."""
        collection = path.partition("/")[0]
        verdict = self._verdicts.get(collection)
        if verdict is None:
            probe = collection + "/"
            verdict = any(probe in interval for interval in self.intervals)
            if len(collection) > MAX_NSID:
                return verdict
            if len(self._verdicts) >= self._MAX_VERDICTS:
                self._verdicts.clear()
            self._verdicts[collection] = verdict
        return verdict
