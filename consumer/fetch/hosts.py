"""Consideration for hosts: how many requests at once, and how long one that is in trouble rests.

Trouble belongs to the host, not to the accounts behind it: whoever comes while it rests is told
for how long (``Resting``) and has lost nothing.  A host in trouble is tried by one request at a
time; the first success ends the trouble.  Times are seconds.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from consumer.errors import Transient
from consumer.fetch.http import HostTrouble

_MAX_HOSTS = 10_000  # remembered; names come from the network
_BUSY_SECONDS = 1.0
_MAX_DOUBLINGS = 20


class Resting(Transient):
    """The host cannot be asked now; it may be in ``seconds``.

    ``tried`` tells whether it has been: this is what came of it.
    """

    def __init__(self, detail: str, seconds: float, host: str = "", *, tried: bool = False) -> None:
        super().__init__(detail)
        self.seconds = seconds
        self.host = host
        self.tried = tried


def backoff(failures: int, longest: float, chance: Callable[[], float] = random.random) -> float:
    """Return the pause after so many failures: 1 s, doubling up to ``longest``, with jitter.

    The jitter takes up to half of it away; ``chance`` returns numbers from 0 to 1.
    """
    return float(min(2 ** min(failures - 1, _MAX_DOUBLINGS), longest)) * (1 - chance() / 2)


@dataclass(frozen=True, slots=True)
class Terms:
    """What a host is given: requests at once, the longest rest, and whether callers queue."""

    requests: int
    longest_rest: float = 3600.0
    queue: bool = False


@dataclass(slots=True)
class _Host:
    running: int = 0
    queued: int = 0
    failures: int = 0
    rests_until: float = 0.0
    freed: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def in_use(self) -> bool:
        return bool(self.running or self.queued)


class Hosts:
    """Every host asked so far; ``special`` terms by host, ``terms`` for all the others."""

    def __init__(
        self,
        terms: Terms,
        special: Mapping[str, Terms] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._terms = terms
        self._special = special or {}
        self._clock = clock
        self._hosts: dict[str, _Host] = {}

    @asynccontextmanager
    async def turn(self, name: str) -> AsyncIterator[None]:
        """Hold one of the host's places during the block, and learn from how it ends.

        Raises ``Resting`` at once if the host rests, or is busy and its callers do not queue,
        and in place of the block's ``HostTrouble``.
        """
        terms = self._special.get(name, self._terms)
        host = self._host(name)
        await self._enter(name, host, terms)
        try:
            yield
        except HostTrouble as trouble:
            raise self._rest(name, host, terms, trouble) from trouble
        else:
            host.failures = 0
        finally:
            host.running -= 1
            host.freed.set()
            if not (host.in_use or host.failures):
                self._hosts.pop(name, None)

    def busy(self) -> list[str]:
        """Return the hosts that have no place for another request now."""
        return [
            name
            for name, host in self._hosts.items()
            if host.running >= _places(host, self._special.get(name, self._terms))
        ]

    async def _enter(self, name: str, host: _Host, terms: Terms) -> None:
        while True:
            rest = host.rests_until - self._clock()
            if rest > 0:
                raise Resting(f"{name} rests for {rest:.0f} s", rest, name)
            if host.running < _places(host, terms):
                host.running += 1
                return
            if not terms.queue:
                raise Resting(f"{name} is busy", backoff(1, _BUSY_SECONDS), name)
            await self._queue(host)

    async def _queue(self, host: _Host) -> None:
        host.freed.clear()
        host.queued += 1
        try:
            await host.freed.wait()
        finally:
            host.queued -= 1

    def _rest(self, name: str, host: _Host, terms: Terms, trouble: HostTrouble) -> Resting:
        now = self._clock()
        if host.rests_until <= now:  # else another request of the same time has said so already
            host.failures += 1
            pause = backoff(host.failures, terms.longest_rest)
            host.rests_until = now + max(pause, trouble.retry_after or 0.0)
        return Resting(str(trouble), host.rests_until - now, name, tried=True)

    def _host(self, name: str) -> _Host:
        if name not in self._hosts and len(self._hosts) >= _MAX_HOSTS:
            self._forget_quiet()
        return self._hosts.setdefault(name, _Host())

    def _forget_quiet(self) -> None:
        """Make room: forget the half of the idle hosts that have rested most."""
        idle = [name for name, host in self._hosts.items() if not host.in_use]
        idle.sort(key=lambda name: self._hosts[name].rests_until)
        for name in idle[: len(idle) // 2 + 1]:
            del self._hosts[name]


def _places(host: _Host, terms: Terms) -> int:
    return 1 if host.failures else terms.requests
