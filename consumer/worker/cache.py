"""What a lane's owner remembers between batches, so that it need not ask Postgres.

Only the lane's owner writes what is remembered here, so that it stays true as long as the lane
is ours and the outcome of every transaction is known.  A batch changes it before its COMMIT;
after any failure all of it is dropped and read again.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Generic, TypeVar

from consumer.store.rows import Identity, Parking

V = TypeVar("V")

_IDENTITIES = 50_000
_TRACKED = 200_000


class Bounded(Generic[V]):
    """A mapping that keeps at most ``most`` entries; what was set longest ago goes first."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._entries: dict[str, V] = {}

    def __contains__(self, key: str) -> bool:
        return key in self._entries

    def get(self, key: str) -> V | None:
        return self._entries.get(key)

    def set(self, key: str, value: V) -> None:
        self._entries.pop(key, None)
        self._entries[key] = value
        if len(self._entries) > self._most:
            del self._entries[next(iter(self._entries))]


@dataclass(slots=True)
class Waiting:
    """The parked frames of one DID and their ``size`` in bytes.

    ``ready``: an answer came, they are to be tried again.
    """

    frames: int
    size: int
    ready: bool


class LaneCache:
    """The remembered state of one lane.

    ``identities`` and ``tracked`` (DIDs that have a repo) are caches: what is not there may
    exist.  ``waiting`` is complete: every DID of the lane that has parked frames.
    """

    def __init__(self, parkings: Iterable[Parking] = ()) -> None:
        self.identities: Bounded[Identity] = Bounded(_IDENTITIES)
        self.tracked: Bounded[None] = Bounded(_TRACKED)
        self.waiting = {p.did: Waiting(p.frames, p.size, p.ready) for p in parkings}
        self._asked: Bounded[float] = Bounded(_IDENTITIES)

    def is_tracked(self, did: str) -> bool:
        """Tell whether ``did`` is known to have a repo, or frames that may lead to one."""
        return did in self.tracked or did in self.waiting

    def learn(self, identity: Identity) -> None:
        """Remember an identity, unless a newer one is known."""
        known = self.identities.get(identity.did)
        if known is None or known.fetched_at <= identity.fetched_at:
            self.identities.set(identity.did, identity)

    def ready(self) -> list[str]:
        """Return the DIDs whose parked frames are to be tried again."""
        return [did for did, waiting in self.waiting.items() if waiting.ready]

    def parked_frames(self) -> int:
        """Return how many frames of the lane are parked."""
        return sum(waiting.frames for waiting in self.waiting.values())

    def asks_again(self, did: str, now: float, interval: float) -> bool:
        """Tell whether a background question is due, at most one in ``interval``; note it."""
        asked = self._asked.get(did)
        if asked is not None and now - asked < interval:
            return False
        self._asked.set(did, now)
        return True
