"""When each source may be asked again."""

from __future__ import annotations

import time
from dataclasses import dataclass, field


@dataclass
class Pace:
    """When each source may be asked again: not before its turn, nor before it said so."""

    seconds: float
    _next: dict[str, float] = field(default_factory=dict)

    def turn(self, source: str) -> float:
        """Take the next turn of ``source``; return the seconds until then."""
        now = time.monotonic()
        turn = max(now, self._next.get(source, now))
        self._next[source] = turn + self.seconds
        return turn - now

    def hold(self, source: str, seconds: float) -> None:
        """Let ``source`` rest, as it asked for."""
        until = time.monotonic() + seconds
        self._next[source] = max(until, self._next.get(source, until))

    def held(self) -> list[str]:
        """Return the sources that rest; forget turns that have passed."""
        now = time.monotonic()
        self._next = {source: turn for source, turn in self._next.items() if turn > now}
        return [source for source, turn in self._next.items() if turn > now + self.seconds]
