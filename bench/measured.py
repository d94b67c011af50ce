"""The result of one round of one scenario."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bench.deployment import Usage

SERVERS = ("kafka", "postgres")
APART = ("relay", "host", "reader", "floor")  # what makes the load and looks at the results


@dataclass(frozen=True, slots=True)
class Measured:
    """``count`` commits or frames in ``seconds``; ``cpu`` in µs for each of them, by group.

    ``memory``: the largest resident size of each group so far, in MiB.
    ``lags``: p50 and p99 of the time from the relay to the events, in ms.
    ``floor``: µs of CPU, as measured beside.
    """

    count: int
    seconds: float
    cpu: Mapping[str, float]
    memory: Mapping[str, float] = field(default_factory=dict)
    lags: tuple[float, float] | None = None
    floor: float | None = None

    @property
    def rate(self) -> float:
        """Commits or frames per second of wall-clock time."""
        return self.count / self.seconds

    @property
    def own(self) -> float:
        """CPU µs of our own processes."""
        return self._sum(*SERVERS, *APART)

    @property
    def total(self) -> float:
        """CPU µs of all processes, without those that make the load."""
        return self._sum(*APART)

    def of(self, role: str) -> float:
        """CPU µs of the processes of ``role``, which are called worker-1, worker-2 and so on."""
        return sum(spent for group, spent in self.cpu.items() if group.partition("-")[0] == role)

    def _sum(self, *without: str) -> float:
        return sum(spent for group, spent in self.cpu.items() if group not in without)


def between(begun: Usage, ended: Usage, count: int, *, seconds: float) -> Measured:
    """Return what ``count`` commits or frames cost from ``begun`` to ``ended``."""
    cpu = {group: (ended.cpu[group] - begun.cpu[group]) / count * 1e6 for group in ended.cpu}
    return Measured(count, seconds, cpu)


def typical(rounds: Sequence[Measured]) -> Measured:
    """Return the round that used the median CPU time; of two, the cheaper."""
    ordered = sorted(rounds, key=lambda one: one.total)
    middle = statistics.median_low(range(len(ordered)))
    return ordered[middle]
