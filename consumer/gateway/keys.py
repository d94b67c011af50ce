"""Signing keys of callers: looked up through the guard, cached, and bounded in number.

Any caller can name any issuer.  So lookups are bounded, shared by all requests that wait for the
same DID, and their results cached, also that there is no such DID.  Lookups at arbitrary hosts,
which may be slow, take no slot from those at the directory.  Keys are cached for an hour; one
that fails to verify is looked up again, at most once in ``refresh_interval``.

High-S signatures are refused in tokens as in commits: atproto's own signers make low-S ones.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from consumer.errors import Refused, Transient
from consumer.fetch.documents import Document, is_plc
from consumer.verify.keys import SigningKey
from procedures.auth import KeyMissing, KeyUnavailable

_CACHED_SECONDS = 3_600.0
_MISSING_CACHED_SECONDS = 60.0
_MAX_CACHED = 10_000
_AT_ONCE = 16
_MAX_WAITING = 256

Resolve = Callable[[str], Awaitable[Document]]


@dataclass(frozen=True, slots=True)
class _Known:
    key: SigningKey | None  # None: there is no such DID, or no key in its document
    since: float


@dataclass(slots=True)
class _LookupPool:
    """Lookups under way, by DID: ``_AT_ONCE`` run, the others wait for a slot."""

    open: dict[str, asyncio.Task[_Known]] = field(default_factory=dict)
    slots: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(_AT_ONCE))


class Keys:
    """A cache in front of ``resolve``, which raises ``Refused`` or ``Transient``.

    A forced refresh looks up one DID at most once in ``refresh_interval`` seconds; ``clock``
    gives monotonic seconds.
    """

    def __init__(
        self,
        resolve: Resolve,
        refresh_interval: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._resolve = resolve
        self._interval = refresh_interval
        self._clock = clock
        self._known: dict[str, _Known] = {}
        self._at_directory, self._at_hosts = _LookupPool(), _LookupPool()

    async def key(self, did: str, *, refresh: bool) -> SigningKey:
        """Return the key of ``did``; ``refresh``: not from the cache.

        Raises ``KeyMissing`` or ``KeyUnavailable``.
        """
        known = self._known.get(did)
        if known is None or self._is_old(known, refresh=refresh):
            known = await asyncio.shield(self._looked_up(did))
        if known.key is None:
            raise KeyMissing(did)
        return known.key

    def _is_old(self, known: _Known, *, refresh: bool) -> bool:
        age = self._clock() - known.since
        cached = _MISSING_CACHED_SECONDS if known.key is None else _CACHED_SECONDS
        return age >= (min(self._interval, cached) if refresh else cached)

    def _looked_up(self, did: str) -> asyncio.Task[_Known]:
        lookups = self._at_directory if is_plc(did) else self._at_hosts
        task = lookups.open.get(did)
        if task is None:
            if len(lookups.open) >= _MAX_WAITING:
                raise KeyUnavailable("too many lookups of signing keys at once")
            task = lookups.open[did] = asyncio.create_task(self._look_up(did, lookups.slots))
            task.add_done_callback(lambda done: _close(lookups, did, done))
        return task

    async def _look_up(self, did: str, slots: asyncio.Semaphore) -> _Known:
        async with slots:
            try:
                key = SigningKey.from_did_key((await self._resolve(did)).signing_key)
                known = _Known(key, self._clock())
            except Refused:
                known = _Known(None, self._clock())
            except Transient as error:
                raise KeyUnavailable(str(error)) from error
        self._known.pop(did, None)
        self._known[did] = known
        if len(self._known) > _MAX_CACHED:
            del self._known[next(iter(self._known))]
        return known


def _close(lookups: _LookupPool, did: str, task: asyncio.Task[_Known]) -> None:
    del lookups.open[did]
    if not task.cancelled():
        task.exception()  # seen: the requests that wait raise it themselves
