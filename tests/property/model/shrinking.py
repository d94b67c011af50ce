"""A counterexample made small: the shortest script, with the smallest numbers, that still fails."""

from __future__ import annotations

from collections.abc import Iterator

from consumer.errors import Fatal
from tests.property.model.checks import Violation
from tests.property.model.scripts import Script, Step, play


def complaint(script: Script) -> object:
    """Return which promise ``script`` breaks, None if none."""
    try:
        play(script)
    except (Violation, Fatal) as broken:
        return broken.args[0]
    return None


def shrunk(script: Script) -> Script:
    """Return a small script that breaks the same promise as ``script``."""
    wanted = complaint(script)
    while True:
        smaller = next((s for s in _smaller(script) if complaint(s) == wanted), None)
        if smaller is None:
            return script
        script = smaller


def _smaller(script: Script) -> Iterator[Script]:
    size = len(script) // 2
    while size:
        for at in range(0, len(script), size):
            yield [*script[:at], *script[at + size :]]
        size //= 2
    for at, step in enumerate(script):
        for other in _lower(step):
            yield [*script[:at], other, *script[at + 1 :]]


def _lower(step: Step) -> Iterator[Step]:
    act, x, y, z = step
    yield from (Step(act, lower, y, z) for lower in range(min(x, 13)))
    yield from (Step(act, x, lower, z) for lower in range(min(y, 13)))
    yield from (Step(act, x, y, lower) for lower in range(min(z, 13)))
