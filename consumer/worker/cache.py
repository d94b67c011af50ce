"""What a lane's owner knows of the lane's accounts without asking Postgres.  Pure.

Only the owner of a lane writes what is cached here.  So it stays true as long as the lane is
owned and the outcome of every transaction is known.  A batch changes the cache before its
COMMIT; after any failure the whole cache is dropped and read again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from consumer.bounded import BoundedMap
from consumer.state.progress import Place, Reached
from consumer.store.rows import Identity, Parking

_IDENTITIES = 50_000  # accounts
_TRACKED = 200_000  # accounts


@dataclass(slots=True)
class ParkedQueue:
    """The parked frames of one account; ``size`` is in bytes.

    ``ready``: an answer about the account's identity has come, the frames are to be tried again.
    ``doubted``: frames of the account may be missing behind these.
    """

    frames: int
    size: int
    ready: bool
    doubted: bool = False


@dataclass(frozen=True, slots=True)
class KnownAccount:
    """What is known of an account when one of its frames is judged.

    ``tracked``: it has a repo.  ``queue``: its parked frames; an account without a repo may
    have some, and they may lead to one.
    """

    identity: Identity | None
    tracked: bool
    queue: ParkedQueue | None

    @property
    def counts(self) -> bool:
        """Whether any frame of the account counts, and not only a wanted one."""
        return self.tracked or self.queue is not None


class LaneCache:
    """What is known of the accounts of one lane.

    ``identities`` and ``tracked`` (DIDs that have a repo) are incomplete: what is not in them
    may be in Postgres.  ``queues`` and ``forgotten`` are complete: every DID of the lane that has
    parked frames, and the next incarnation of every one that was forgotten.  ``parked_from`` has
    for each of ``queues`` a place before which none of its frames waits.
    """

    def __init__(
        self,
        parkings: Iterable[Parking] = (),
        forgotten: Mapping[str, int] | None = None,
        parked_from: Mapping[str, Reached] | None = None,
    ) -> None:
        self.identities: BoundedMap[str, Identity] = BoundedMap(_IDENTITIES)
        self.tracked: BoundedMap[str, None] = BoundedMap(_TRACKED)
        self.queues = {p.did: ParkedQueue(p.frames, p.size, p.ready, p.doubted) for p in parkings}
        self.forgotten = dict(forgotten or {})
        self.parked_from = dict(parked_from or {})
        self._refreshed: BoundedMap[str, float] = BoundedMap(_IDENTITIES)

    def account(self, did: str) -> KnownAccount:
        """Return what is known of ``did``."""
        return KnownAccount(self.identities.get(did), did in self.tracked, self.queues.get(did))

    def track(self, did: str) -> None:
        """Remember that ``did`` has a repo."""
        self.tracked.put(did, None)

    def learn(self, identity: Identity) -> None:
        """Remember an identity, unless a newer one is known."""
        known = self.identities.get(identity.did)
        if known is None or known.fetched_at <= identity.fetched_at:
            self.identities.put(identity.did, identity)

    def forget(self, did: str, incarnation: int) -> None:
        """Know nothing of ``did`` but its next ``incarnation``."""
        self.tracked.drop(did)
        self.identities.drop(did)
        self.queues.pop(did, None)
        self.parked_from.pop(did, None)
        self.forgotten[did] = incarnation

    def park(self, did: str, size: int, at: Reached) -> None:
        """Note one more parked frame of ``size`` bytes, with its place."""
        queue = self.queues.setdefault(did, ParkedQueue(0, 0, ready=False))
        self.parked_from.setdefault(did, at)
        queue.frames += 1
        queue.size += size

    def unpark(self, did: str, size: int, at: Reached) -> bool:
        """Note that a parked frame of ``size`` bytes, the oldest of its account, was decided.

        Returns whether frames may be missing behind it: it was the last of a doubted account.
        """
        queue = self.queues[did]
        queue.frames -= 1
        queue.size -= size
        if queue.frames > 0:
            epoch, seq = at.place
            self.parked_from[did] = replace(at, place=Place(epoch, seq + 1))
            return False
        del self.queues[did]
        self.parked_from.pop(did, None)
        return queue.doubted

    def doubt_parked(self) -> None:
        """Note that frames may be missing behind all parked frames."""
        for queue in self.queues.values():
            queue.doubted = True

    def parkings(self, dids: Iterable[str]) -> list[Parking]:
        """Return the rows of those of ``dids`` that have parked frames."""
        found = [(did, self.queues[did]) for did in dids if did in self.queues]
        return [Parking(did, q.ready, q.frames, q.size, q.doubted) for did, q in found]

    def ready(self) -> list[str]:
        """Return the DIDs whose parked frames are to be tried again."""
        return [did for did, queue in self.queues.items() if queue.ready]

    def parked_frames(self) -> int:
        """Return how many frames of the lane are parked."""
        return sum(queue.frames for queue in self.queues.values())

    def oldest_parked(self) -> Reached | None:
        """Return a place before which no frame of the lane waits, None if none waits at all."""
        return min(self.parked_from.values(), key=lambda at: at.place, default=None)

    def refresh_due(self, did: str, now: float, interval: float) -> bool:
        """Tell whether to look an old identity up again, once per ``interval``, and note it.

        ``now`` is in Unix seconds, ``interval`` in seconds.
        """
        last = self._refreshed.get(did)
        if last is not None and now - last < interval:
            return False
        self._refreshed.put(did, now)
        return True
