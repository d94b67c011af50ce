"""Batches of all lanes of a process: many at a time, or one alone.

A process that dies takes all its lanes with it, whichever input it died of.  So while an input is
tried alone, no batch of another lane is under way.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Turns:
    """The batches under way; for one event loop."""

    def __init__(self) -> None:
        self._together = 0
        self._none_together = asyncio.Event()
        self._none_together.set()
        self._none_alone = asyncio.Event()
        self._none_alone.set()
        self._one_alone = asyncio.Lock()

    @asynccontextmanager
    async def together(self) -> AsyncIterator[None]:
        """Run the block beside others, when none is alone."""
        while not self._none_alone.is_set():
            await self._none_alone.wait()
        self._together += 1
        self._none_together.clear()
        try:
            yield
        finally:
            self._together -= 1
            if self._together == 0:
                self._none_together.set()

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        """Run the block when all others have ended; no other begins meanwhile."""
        async with self._one_alone:
            self._none_alone.clear()
            try:
                await self._none_together.wait()
                yield
            finally:
                self._none_alone.set()
