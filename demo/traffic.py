"""What the people of the local network do: write all the time, and now and then more.

The scripted happenings (a new handle, a deactivation, a reactivation, a deletion, a second
deactivation that lasts) are spread over ``span`` seconds; none of them is ever left out.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from random import Random

from demo.author import Author, Written
from demo.local_network import Endpoints
from demo.xrpc import Xrpc, XrpcFailed

_SUBJECTS = 50  # records of everyone that others review and vote on

_CAST = 5  # the last of the accounts that are always there: four in the script, two that only write

Happening = Callable[[Author], Awaitable[None]]


class Traffic:
    """The traffic maker: ``run`` until ``stop`` is set.

    ``rate`` is in commits per second, all accounts together; handles begin with ``people``.
    ``done`` counts what was done, ``refused`` what the PDS refused, by error name; ``news`` are
    the happenings so far, for people.
    """

    def __init__(
        self,
        endpoints: Endpoints,
        *,
        seed: int,
        accounts: int,
        rate: float,
        span: float,
        people: str = "user",
    ) -> None:
        self.authors: list[Author] = []
        self.done: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()
        self.news: list[str] = []
        self._endpoints = endpoints
        self._seed = seed
        self._random = Random(seed)
        self._accounts = accounts
        self._pause = accounts / rate  # seconds between two writes of one author
        self._span = span
        self._people = people
        self._subjects: list[Written] = []

    async def run(self, stop: asyncio.Event) -> None:
        """Create the accounts and let them write until ``stop``; finishes what is under way."""
        async with asyncio.TaskGroup() as group:
            for number in range(self._accounts):
                if stop.is_set() and number > _CAST:
                    break
                author = await self._sign_up(number)
                group.create_task(self._keep_writing(author, stop))
                if number == _CAST:
                    group.create_task(self._happenings(stop))
            await stop.wait()

    async def close(self) -> None:
        """Release all connections."""
        for author in self.authors:
            await author.close()

    async def _sign_up(self, number: int) -> Author:
        random = Random(self._seed * 1_000 + number)
        author = await Author.sign_up(self._endpoints, f"{self._people}{number}.test", random)
        self.authors.append(author)
        self.done["accounts"] += 1
        return author

    async def _keep_writing(self, author: Author, stop: asyncio.Event) -> None:
        while not await _stopped(stop, self._random.expovariate(1 / self._pause)):
            try:
                ops = await author.write(self._subject())
            except XrpcFailed as failure:
                self.refused[failure.error] += 1
                continue
            self.done["ops"] += ops
            self.done["commits"] += 1 if ops else 0
            self._subjects = [*self._subjects, *author.written[-1:]][-_SUBJECTS:]

    def _subject(self) -> Written | None:
        return self._random.choice(self._subjects) if self._subjects else None

    async def _happenings(self, stop: asyncio.Event) -> None:
        began = asyncio.get_running_loop().time()
        for share, what, number, happening in self._script():
            due = began + share * self._span - asyncio.get_running_loop().time()
            await _stopped(stop, max(0.0, due))  # told to stop, it happens at once
            await happening(self.authors[number])
            self.done["happenings"] += 1
            self.news.append(f"{what} ({self.authors[number].handle})")

    def _script(self) -> tuple[tuple[float, str, int, Happening], ...]:
        return (
            (0.15, "a new handle", 0, lambda author: author.change_handle(self._renamed)),
            (0.25, "a deactivation", 1, Author.deactivate),
            (0.50, "its reactivation", 1, Author.activate),
            (0.60, "an account deletion", 2, self._delete_account),
            (0.75, "a deactivation that lasts", 3, Author.deactivate),
        )

    @property
    def _renamed(self) -> str:
        return f"{self._people}-renamed.test"

    async def _delete_account(self, author: Author) -> None:
        endpoints = self._endpoints
        async with Xrpc.administrator(endpoints.pds, endpoints.admin_password) as administrator:
            await author.delete_account(administrator)


async def _stopped(stop: asyncio.Event, seconds: float) -> bool:
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await stop.wait()
    return stop.is_set()
