"""The result of one round of one scenario."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bench.deployment import Usage

SERVERS = ("kafka", "postgres")


@dataclass(frozen=True, slots=True)
class Measured:
    """``count`` commits or frames in ``seconds``; ``cpu`` in µs for each of them, by group."""

    count: int
    seconds: float
    cpu: Mapping[str, float]

    @property
    def rate(self) -> float:
        """Commits or frames per second of wall-clock time."""
        return self.count / self.seconds

    @property
    def own(self) -> float:
        """CPU µs of our own processes."""
        return sum(spent for group, spent in self.cpu.items() if group not in SERVERS)

    @property
    def total(self) -> float:
        """CPU µs of all processes."""
        return sum(self.cpu.values())


def between(begun: Usage, ended: Usage, count: int, *, seconds: float) -> Measured:
    """Return what ``count`` commits or frames cost from ``begun`` to ``ended``."""
    cpu = {group: (ended.cpu[group] - begun.cpu[group]) / count * 1e6 for group in ended.cpu}
    return Measured(count, seconds, cpu)


def typical(rounds: Sequence[Measured]) -> Measured:
    """Return the round that used the median CPU time; of two, the cheaper."""
    ordered = sorted(rounds, key=lambda one: one.total)
    middle = statistics.median_low(range(len(ordered)))
    return ordered[middle]
