"""Replay guard: remembers the tokens that were used and have not expired.

Bounded in all and per issuer, so that one issuer cannot fill it for the others.  When it is full a
token is refused, never let through unseen.  It is per process: several gateways behind one name
share nothing, so each token could be used once at each of them; ``Replays`` is the place for a
shared memory.
"""

from __future__ import annotations

import hashlib
import heapq
from collections import Counter
from enum import StrEnum
from typing import Protocol


class Use(StrEnum):
    """What became of the attempt to use a token."""

    FIRST = "first"
    AGAIN = "again"
    ISSUER_FULL = "issuer_full"
    FULL = "full"


class Replays(Protocol):
    """Remembers tokens until they expire."""

    async def use(self, issuer: str, jti: str, expires: float, now: float) -> Use:
        """Use a token; of any number of simultaneous uses exactly one is the first.

        ``expires`` and ``now`` are Unix seconds.
        """


class MemoryReplays:
    """``Replays`` in the memory of this process."""

    def __init__(self, capacity: int = 100_000, per_issuer: int = 1_000) -> None:
        self._capacity = capacity
        self._per_issuer = per_issuer
        self._seen: set[bytes] = set()
        self._counts: Counter[str] = Counter()
        self._expiring: list[tuple[float, bytes, str]] = []

    def __len__(self) -> int:
        return len(self._seen)

    def _forget(self, now: float) -> None:
        while self._expiring and self._expiring[0][0] <= now:
            _, digest, issuer = heapq.heappop(self._expiring)
            self._seen.discard(digest)
            self._counts[issuer] -= 1
            if not self._counts[issuer]:
                del self._counts[issuer]

    async def use(self, issuer: str, jti: str, expires: float, now: float) -> Use:
        """Use a token.  Nothing is awaited inside: no other use can come between."""
        self._forget(now)
        digest = hashlib.sha256(f"{issuer} {jti}".encode()).digest()
        if digest in self._seen:
            return Use.AGAIN
        if self._counts[issuer] >= self._per_issuer:
            return Use.ISSUER_FULL
        if len(self._seen) >= self._capacity:
            return Use.FULL
        self._seen.add(digest)
        self._counts[issuer] += 1
        heapq.heappush(self._expiring, (expires, digest, issuer))
        return Use.FIRST
