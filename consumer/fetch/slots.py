"""Which of the due operations get the free slots.  Pure.

Each type has slots of its own.  What a person asked for goes first, and one slot of each type is
kept for it; what was asked for with many others takes more than half of the slots only where
nothing else is due.  A host is given no more than it has room for.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

from consumer.store.rows import DueOperation, WantedOperations
from procedures.operations import Operation, Type

MOST = 64
"""Due operations of a type that are looked at together."""


class FreeSlots:
    """The slots that are free in one look, and what takes them.

    ``slots`` by type; ``running``: operations and the hosts they were known to go to; ``room``:
    how many operations there may be at a host, by its name.
    """

    def __init__(
        self,
        slots: Mapping[Type, int],
        running: Iterable[tuple[Operation, str]],
        room: Callable[[str], int],
    ) -> None:
        self._slots = slots
        self._room = room
        self._taken: Counter[Type] = Counter()
        self._later: Counter[Type] = Counter()  # automatic, or asked for with many others
        self._behind: Counter[Type] = Counter()  # asked for with many others
        self._at_host: Counter[str] = Counter()
        self._subjects: set[tuple[Type, str | None, str | None]] = set()
        self._seen: set[tuple[Type, bool]] = set()  # all of it, with spare or without
        self._over_share: set[Type] = set()
        for one, host in running:
            self._count(one.type, host, automatic=one.automatic, behind=one.behind)

    def wanted(self, *, spare: bool) -> list[WantedOperations]:
        """Return what to ask for next; nothing if everything that is due has been seen.

        ``spare``: nothing else is due, so that what was asked for with many others may have more
        than its share.
        """
        return [
            WantedOperations(kind, self._has_place(kind), self._has_share(kind, spare))
            for kind, slots in self._slots.items()
            if self._taken[kind] < slots
            and (kind, spare) not in self._seen
            and (not spare or kind in self._over_share)
        ]

    def take(self, found: Sequence[DueOperation], *, spare: bool) -> list[DueOperation]:
        """Return what to claim of ``found``, the answer to ``wanted``, in its order."""
        by_type = Counter(each.type for each in found)
        for each in self.wanted(spare=spare):
            if by_type[each.type] < MOST:
                self._seen.add((each.type, spare))
            if each.automatic and not each.behind:
                self._over_share.add(each.type)
        return [each for each in found if self._takes(each, spare)]

    def full(self) -> list[str]:
        """Return the hosts that have no room for more."""
        return [host for host in self._at_host if self._is_full(host)]

    def _takes(self, due: DueOperation, spare: bool) -> bool:
        kind, subject = due.type, (due.type, due.did, due.uri)
        if due.behind and self._has_place(kind) and not self._has_share(kind, spare):
            self._over_share.add(kind)
            return False
        if (
            self._taken[kind] >= self._slots[kind]
            or ((due.automatic or due.behind) and not self._has_place(kind))
            or subject in self._subjects
            or self._is_full(due.host)
        ):
            return False
        self._count(kind, due.host, automatic=due.automatic, behind=due.behind)
        self._subjects.add(subject)
        return True

    def _is_full(self, host: str) -> bool:
        return host != "" and self._at_host[host] >= self._room(host)

    def _count(self, kind: Type, host: str, *, automatic: bool, behind: bool) -> None:
        self._taken[kind] += 1
        self._later[kind] += automatic or behind
        self._behind[kind] += behind
        self._at_host[host] += 1

    def _has_place(self, kind: Type) -> bool:
        """Tell whether there is a slot for what no person asked for by itself."""
        return self._later[kind] < max(1, self._slots[kind] - 1)

    def _has_share(self, kind: Type, spare: bool) -> bool:
        share = self._behind[kind] < max(1, self._slots[kind] // 2)
        return self._has_place(kind) and (spare or share)
