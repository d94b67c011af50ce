"""Chunks and proofs of a simulated repository, as the fetcher makes them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from consumer.backfill import Chunk, Entry, Proof
from consumer.scope import Interval, Scope
from simulator.repo import Repo


def clipped(scope: Scope, after: str | None, through: str | None) -> Iterator[Interval]:
    """Clip the wanted intervals to the paths in (after, through]."""
    lowest = "" if after is None else after + "\0"
    highest = None if through is None else through + "\0"
    for interval in scope.intervals:
        lower = max(interval.lower, lowest)
        uppers = [upper for upper in (interval.upper, highest) if upper is not None]
        upper = min(uppers) if uppers else None
        if upper is None or lower < upper:
            yield Interval(lower, upper)


def chunks_of(
    repo: Repo, scope: Scope, operation: str, attempt: int = 1, *, size: int = 10, **fields: Any
) -> list[Chunk]:
    """Return the snapshot of ``repo`` as it is, ``size`` records in a chunk."""
    paths = [path for path in sorted(repo.records) if scope.wants(path)]
    groups = [paths[i : i + size] for i in range(0, len(paths), size)] or [[]]
    bounds: list[str | None] = [None, *(group[-1] for group in groups[:-1]), None]
    assert repo.rev is not None
    return [
        Chunk(
            **{
                "did": repo.account.did,
                "operation": operation,
                "attempt": attempt,
                "rev": repo.rev,
                "data": repo.data,
                "commit": b"commit",
                "scope": scope.digest,
                "resync_generation": 0,
                "after": bounds[i],
                "through": bounds[i + 1],
                "last": i == len(groups) - 1,
                "intervals": tuple(clipped(scope, bounds[i], bounds[i + 1])),
                "entries": tuple(entry(repo, path) for path in group),
                **fields,
            }
        )
        for i, group in enumerate(groups)
    ]


def prove(repo: Repo, path: str, operation: str, attempt: int = 1, rev: str | None = None) -> Proof:
    """Return what ``repo`` holds at ``path``, or that it holds nothing there."""
    found = entry(repo, path) if path in repo.records else None
    return Proof(repo.account.did, operation, attempt, rev or repo.rev or "", path, found)


def entry(repo: Repo, path: str) -> Entry:
    record, cid = repo.records[path]
    return Entry(path, cid, record)
