"""Which frames are forwarded to ``chive.firehose``.  Pure.

Frames of another shard's accounts never are: the deployment that has the shard takes them.  Of
the others ``#account``, ``#identity`` and ``#sync`` always are.  A commit is forwarded if its
repository is tracked, or if it touches a wanted collection: the repository is tracked from that
commit on.
So a tracked repository's chain of commits arrives without holes, and the tracked set can be
found again: it is what the workers know, and what they have not read yet.
"""

from __future__ import annotations

from collections.abc import Iterable

from consumer.scope import Repos, Scope
from consumer.tail.packed import PackedDids
from consumer.verify.frames import Kind, Peek

_MOST_PLAIN = 1_000_000  # DIDs, 130 MiB


class Relevance:
    """The filter, and the set of tracked DIDs as it grows.

    Above ``most_plain`` DIDs the set is packed: a commit that seems to be of a tracked repository,
    and is not, is forwarded, and dropped by the worker.
    """

    def __init__(self, scope: Scope, *, forward_all: bool, most_plain: int = _MOST_PLAIN) -> None:
        self._scope = scope
        self._most_plain = most_plain
        self._everything = forward_all or scope.repos is Repos.ALL
        self._joins = scope.repos is Repos.COLLECTIONS
        self._shard = None if scope.shard.is_whole else scope.shard
        self._tracked: set[str] | PackedDids = set(scope.dids)

    @property
    def selective(self) -> bool:
        """False if every frame is forwarded, whatever is tracked."""
        return not self._everything

    @property
    def tracked(self) -> int:
        """The number of tracked DIDs."""
        return len(self._tracked)

    def track(self, dids: Iterable[str]) -> None:
        """Track ``dids`` from now on."""
        self._tracked.update(dids)
        if isinstance(self._tracked, set) and len(self._tracked) > self._most_plain:
            self._tracked = PackedDids(self._tracked)

    def wants(self, look: Peek) -> bool:
        """Tell whether the frame is forwarded, and track its repository if it joins."""
        if self._everything or look.kind is not Kind.COMMIT or look.did in self._tracked:
            return self._shard is None or self.concerns(look)
        if self._joins and any(map(self._scope.wants, look.paths)):
            if not self.concerns(look):
                return False
            self._tracked.add(look.did or "")
            return True
        return False

    def concerns(self, look: Peek) -> bool:
        """Tell whether the frame is of an account of this shard."""
        return self._shard is None or self._shard.has(look.did or "")
