"""Moves found repositories into automatic syncs."""

from __future__ import annotations

import asyncio
import random
import time

from consumer import metrics
from consumer.config.settings import DiscoverySettings
from consumer.errors import Refused
from consumer.fetch.account import DELETED, Accounts
from consumer.fetch.hosts import HostUnavailable
from consumer.fetch.identity import Inconclusive
from consumer.runtime.tasks import wait_for_stop
from consumer.state.found import Fate, fate_of, is_confirmed
from consumer.store import found
from consumer.store.database import Database
from consumer.store.found import EndedSync, Retry
from procedures.retries import RetryPolicy

_FEED_SECONDS, _GATHER_SECONDS = 5.0, 0.5
_COUNT_SECONDS, _COUNT_REST = 15.0, 100.0  # the latter: as many times as long as it took
_ENDED = 500  # syncs in one transaction
_ASKED = 20  # hosts in one round


class Feeder:
    """Moves found repositories into automatic syncs, and forgets those that are known or gone."""

    def __init__(
        self,
        settings: DiscoverySettings,
        database: Database,
        accounts: Accounts,
        retries: RetryPolicy,
    ) -> None:
        self._settings = settings
        self._database = database
        self._accounts = accounts
        self._retries = retries

    async def run(self, stop: asyncio.Event) -> None:
        """Feed until ``stop`` is set.  Raises ``Transient`` when Postgres is away."""
        count_at = 0.0
        while not stop.is_set():
            ended, more = await self._settle()
            async with self._database.transaction() as connection:
                fed = await found.feed(connection, self._settings.queued)
                began = time.monotonic()
                if began >= count_at:  # it reads the whole table
                    remembered, _, failed = await found.counts(connection)
                    took = time.monotonic() - began
                    count_at = began + max(_COUNT_SECONDS, _COUNT_REST * took)
                    metrics.FOUND_WAITING.set(remembered)
                    metrics.FOUND_FAILED.set(failed)
            if not more:  # what is under way is looked through each time
                await wait_for_stop(stop, _GATHER_SECONDS if fed or ended else _FEED_SECONDS)

    async def _settle(self) -> tuple[int, bool]:
        """Decide about those whose sync has ended; return how many, and whether there are more."""
        async with self._database.transaction() as connection:
            ended = await found.ended(connection, _ENDED)
        gone: list[str] = []
        retries: list[Retry] = []
        asked: list[EndedSync] = []
        for each in ended:
            named = each.source == found.SETTINGS
            match fate_of(each.failure, known=each.known, named=named):
                case Fate.FORGET:
                    gone.append(each.did)
                case Fate.ASK if len(asked) < _ASKED:
                    asked.append(each)
                case Fate.AGAIN:
                    retries.append(self._retry(each))
        for each, is_gone in zip(
            asked, await asyncio.gather(*map(self._is_gone, asked)), strict=True
        ):
            if is_gone:
                gone.append(each.did)
            else:
                retries.append(self._retry(each))
        if gone or retries:
            async with self._database.transaction() as connection:
                await found.forget(connection, gone)
                await found.again(connection, retries)
        return len(gone) + len(retries), len(ended) == _ENDED or len(asked) == _ASKED

    def _retry(self, ended: EndedSync) -> Retry:
        chance = random.random()  # noqa: S311 - jitter
        wait = self._retries.renewal.wait(ended.tries + 1, chance)
        return Retry(ended.did, ended.failure, is_confirmed(ended.failure), wait)

    async def _is_gone(self, ended: EndedSync) -> bool:
        """Ask the host of today whether it has no such account."""
        try:
            return (await self._accounts.ask(ended.did)).status == DELETED
        except (Refused, HostUnavailable, Inconclusive):
            return False
