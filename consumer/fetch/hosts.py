"""Limits and circuit breakers for hosts: how many requests at once, and when to pause.

A host that fails opens its circuit: until the pause is over, callers get ``CircuitOpen`` and
nothing is sent.  After the pause one request at a time tries the host; the first success closes
the circuit.  Times are in seconds.

A failure of the connection belongs to the host, and so does one whose answer says when to come
again.  Any other belongs to the repository that was asked for (a large one that always answers
500), until another repository fails as well and none has succeeded in between.
"""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Self

import anyio

from consumer.config.settings import Settings
from consumer.errors import Transient
from consumer.fetch.http import HostError, HostErrorKind, host_of
from procedures.retries import Backoff, RetryPolicy

_MAX_HOSTS = 10_000  # remembered; names come from the network
_DIRECTORY_REQUESTS = 16
_BRIEFLY = 0.25  # a host of small repositories has a slot again within it
_CROWDED_SECONDS = 5.0
_OF_HOST = frozenset({HostErrorKind.AWAY, HostErrorKind.BUSY})


class HostUnavailable(Transient):
    """No request can be made to ``host`` now; it is worth trying again in ``seconds``.

    ``tried``: a request was made and failed (``__cause__`` is its ``HostError``); else nothing
    was sent.
    """

    def __init__(self, detail: str, seconds: float, host: str = "", *, tried: bool = False) -> None:
        super().__init__(detail)
        self.seconds = seconds
        self.host = host
        self.tried = tried


class CircuitOpen(HostUnavailable):
    """The host has failed, by this request or an earlier one; it gets no request until then."""


class RepoFailed(HostUnavailable):
    """A request for one repository failed; the host may be asked for others."""


class HostBusy(HostUnavailable):
    """Every slot of the host is taken."""


@dataclass(frozen=True, slots=True)
class HostPolicy:
    """Limits of a host.

    ``requests`` may run at once; ``pauses`` are those of the circuit; ``queue``: callers wait
    for a slot, however long; else as many as may run wait briefly, and then get ``HostBusy``.
    """

    requests: int
    pauses: Backoff
    queue: bool = False


@dataclass(slots=True)
class _Host:
    running: int = 0
    queued: int = 0
    failures: int = 0  # consecutive
    suspect: str | None = None  # the one repository that has failed since the last success
    open_until: float = 0.0
    freed: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def in_use(self) -> bool:
        return bool(self.running or self.queued)

    def slots(self, policy: HostPolicy) -> int:
        return 1 if self.failures else policy.requests

    def room(self, policy: HostPolicy) -> int:
        """Return how many callers can run or wait briefly, all in all."""
        return 2 * self.slots(policy)


class Hosts:
    """Every host requested so far.

    ``special`` are policies by host, ``policy`` holds for all others; ``retries`` has the rules
    for busy hosts and for Retry-After; ``clock`` returns seconds and never goes back.
    """

    def __init__(
        self,
        policy: HostPolicy,
        special: Mapping[str, HostPolicy],
        retries: RetryPolicy,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._policy = policy
        self._special = special
        self._retries = retries
        self._clock = clock
        self._hosts: dict[str, _Host] = {}
        self._turned_away_at = -math.inf

    @classmethod
    def of(cls, settings: Settings, *, queue: bool = False) -> Self:
        """Return the hosts of one client, with the policies that ``settings`` give.

        ``queue``: callers wait for a slot of a host.

        Everything depends on the PLC directory, so its callers queue and its pauses are short.
        """
        retries = settings.retries.policy()
        directory = HostPolicy(_DIRECTORY_REQUESTS, retries.directory, queue=True)
        return cls(
            HostPolicy(settings.network.requests_per_host, retries.host, queue),
            {host_of(settings.identity.plc_url): directory},
            retries,
        )

    @asynccontextmanager
    async def slot(self, name: str, subject: str | None = None) -> AsyncIterator[None]:
        """Hold one of the host's slots during the block, and learn from how the block ends.

        ``subject``: the DID of the repository that the block asks for, None if it asks for none.
        Raises ``CircuitOpen`` at once while the circuit is open.  In place of the block's
        ``HostError`` it raises ``RepoFailed`` if the failure is the subject's, else
        ``CircuitOpen``; ``HostBusy`` when no slot gets free and callers do not queue.
        """
        policy = self._special.get(name, self._policy)
        host = self._host(name)
        await self._enter(name, host, policy)
        try:
            yield
        except HostError as error:
            if _is_of_repo(host, subject, error):
                host.suspect = subject
                seconds = self._retries.honoured(error.retry_after)
                raise RepoFailed(str(error), seconds, name, tried=True) from error
            raise self._open_circuit(name, host, policy, error) from error
        else:
            host.failures, host.suspect = 0, None
        finally:
            host.running -= 1
            host.freed.set()
            if not (host.in_use or host.failures or host.suspect):
                self._hosts.pop(name, None)

    def busy(self) -> list[str]:
        """Return the hosts without a free slot."""
        return [
            name
            for name, host in self._hosts.items()
            if host.running >= host.slots(self._special.get(name, self._policy))
        ]

    @property
    def crowded(self) -> bool:
        """Whether a caller got ``HostBusy`` a moment ago: more of them would mostly get it too."""
        return self._clock() - self._turned_away_at < _CROWDED_SECONDS

    def room(self, name: str) -> int:
        """Return how many callers can have a slot of the host or wait for one briefly."""
        policy = self._special.get(name, self._policy)
        return self._hosts.get(name, _Host()).room(policy)

    async def _enter(self, name: str, host: _Host, policy: HostPolicy) -> None:
        give_up = math.inf if policy.queue else anyio.current_time() + _BRIEFLY
        while True:
            pause = host.open_until - self._clock()
            if pause > 0:
                raise CircuitOpen(f"{name} failed: no request for {pause:.0f} s", pause, name)
            if host.running < host.slots(policy):
                host.running += 1
                return
            seconds = give_up - anyio.current_time()
            if seconds <= 0 or not (policy.queue or host.running + host.queued < host.room(policy)):
                self._turned_away_at = self._clock()
                raise HostBusy(f"{name} is busy", _random(self._retries.busy_host, 1), name)
            await self._queue(host, seconds)

    async def _queue(self, host: _Host, seconds: float) -> None:
        """Wait until a slot gets free, for ``seconds`` at most."""
        host.freed.clear()
        host.queued += 1
        try:
            with anyio.move_on_after(seconds):
                await host.freed.wait()
        finally:
            host.queued -= 1

    def _open_circuit(
        self, name: str, host: _Host, policy: HostPolicy, error: HostError
    ) -> CircuitOpen:
        now = self._clock()
        if host.open_until <= now:  # requests that fail together count once
            host.failures += 1
            pause = _random(policy.pauses, host.failures)
            host.open_until = now + max(pause, self._retries.honoured(error.retry_after))
        return CircuitOpen(str(error), host.open_until - now, name, tried=True)

    def _host(self, name: str) -> _Host:
        if name not in self._hosts and len(self._hosts) >= _MAX_HOSTS:
            self._forget_idle()
        return self._hosts.setdefault(name, _Host())

    def _forget_idle(self) -> None:
        """Make room: forget half of the idle hosts, those first whose circuit closes first."""
        idle = [name for name, host in self._hosts.items() if not host.in_use]
        idle.sort(key=lambda name: self._hosts[name].open_until)
        for name in idle[: len(idle) // 2 + 1]:
            del self._hosts[name]


def _is_of_repo(host: _Host, subject: str | None, error: HostError) -> bool:
    """Tell whether a failure says nothing of the host's other repositories."""
    if subject is None or error.kind in _OF_HOST or error.retry_after is not None:
        return False
    return host.failures == 0 and host.suspect in (None, subject)


def _random(backoff: Backoff, failures: int) -> float:
    return backoff.wait(failures, random.random())  # noqa: S311 - jitter
