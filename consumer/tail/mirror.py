"""The mirror: the newest cursor and the state of the connection, in Postgres for people to see.

Best effort: what cannot be written is tried again.  The truth is ``chive.cursor``.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import NoReturn

import anyio

from consumer.errors import Transient
from consumer.tail.cursor import Cursor, Position

# Seconds.
_WRITE_EVERY = 1.0
_QUIET_EVERY = 10.0  # while nothing comes
_REPORT_EVERY = 20.0  # readers take a report of a minute ago for none

_clock = time.monotonic


@dataclass(frozen=True, slots=True)
class RelayState:
    """Whether the tailer is connected, since when (Unix seconds), and if not, why."""

    connected: bool
    since: float
    reason: str = ""


class Mirror:
    """What the tailer shows of the relay it reads; ``mirror`` and ``report`` write to Postgres."""

    def __init__(
        self,
        mirror: Callable[[str, Cursor], Awaitable[None]],
        report: Callable[[str, RelayState], Awaitable[None]],
    ) -> None:
        self._relay: str | None = None
        self._mirror = mirror
        self._report = report
        self._state = RelayState(connected=False, since=time.time(), reason="not tried yet")
        self._newest: Cursor | None = None
        self._changed = asyncio.Event()

    def follow(self, relay: str) -> None:
        """Show ``relay`` from now on."""
        if relay != self._relay:
            self._relay, self._newest = relay, None
            self._set(connected=False, reason="not tried yet")

    def committed(self, cursor: Cursor) -> None:
        """Note the newest durable cursor."""
        self._newest = cursor
        self._changed.set()

    def caught_up(self, position: Position) -> None:
        """Note that everything up to ``position`` is durable, and that nothing more has come."""
        newest = self._newest
        if newest is None or (newest.epoch, newest.seq) != (position.epoch, position.seq):
            return
        if position.as_of - newest.as_of >= _QUIET_EVERY:
            self.committed(replace(newest, as_of=position.as_of))

    def connected(self) -> None:
        """Note that the relay is connected."""
        self._set(connected=True)

    def disconnected(self, reason: str) -> None:
        """Note that the relay is not connected, and why; ``since`` stays if it was not before."""
        self._set(connected=False, reason=reason)

    async def run(self) -> NoReturn:
        """Write what changed until cancelled, at most once in ``_WRITE_EVERY``."""
        mirrored: Cursor | None = None
        reported: tuple[str, RelayState] | None = None
        report_at = 0.0
        while True:
            with anyio.move_on_after(_REPORT_EVERY):
                await self._changed.wait()
            self._changed.clear()
            relay, state, newest = self._relay, self._state, self._newest
            if relay is None:
                continue
            try:
                if (relay, state) != reported or _clock() >= report_at:
                    await self._report(relay, state)
                    reported, report_at = (relay, state), _clock() + _REPORT_EVERY
                if newest is not None and newest != mirrored:
                    await self._mirror(relay, newest)
                    mirrored = newest
            except Transient:
                self._changed.set()  # tried again, even if nothing changes for long
            await asyncio.sleep(_WRITE_EVERY)

    def _set(self, *, connected: bool, reason: str = "") -> None:
        since = time.time() if connected != self._state.connected else self._state.since
        self._state = RelayState(connected, since, reason)
        self._changed.set()
