"""Reads the pages of searches, of several sources at a time."""

from __future__ import annotations

import asyncio
import random
import time
from uuid import uuid4

import structlog

from consumer import metrics
from consumer.config.settings import DiscoverySettings
from consumer.fetch.discovery.findings import Findings
from consumer.fetch.discovery.planner import Planner
from consumer.fetch.discovery.search_log import SearchLog
from consumer.fetch.listings import Listings, Page
from consumer.fetch.pace import Pace
from consumer.runtime.tasks import any_ended, cancel, wait_for_stop
from consumer.state.discovery import (
    REGISTERED,
    Answer,
    AnswerKind,
    Search,
    SearchRules,
    after,
    postponed,
    read_by_relay,
)
from consumer.store import found, searches
from consumer.store.database import Database

_POLL_SECONDS = 5.0
_LEASE_SECONDS = 120.0  # longer than a page may take
_AT_ONCE = 8  # searches, each at a source of its own
_SHORT_WAIT = 2.0  # the longest wait for the next page during which a search keeps its lease
_FULL_SECONDS = 60.0  # until a source with too many unconfirmed DIDs is asked again

_log = structlog.get_logger()


class Reader:
    """Reads what the planner opens, up to eight searches at a time."""

    def __init__(
        self,
        settings: DiscoverySettings,
        planner: Planner,
        pages: Listings,
        findings: Findings,
        relay: str,
        database: Database,
        rules: SearchRules,
    ) -> None:
        self._settings = settings
        self._planner = planner
        self._pages = pages
        self._findings = findings
        self._relay = relay
        self._database = database
        self._rules = rules
        self._owner = f"discovery-{uuid4()}"
        self._pace = Pace(1.0 / settings.pace)
        self._search_log = SearchLog()

    async def run(self, stop: asyncio.Event) -> None:
        """Search until ``stop`` is set.  Raises ``Transient`` when Postgres is away."""
        await self._planner.begin(stop)
        running: set[asyncio.Task[None]] = set()
        try:
            while not stop.is_set():
                await self._planner.plan()
                while len(running) < _AT_ONCE and (search := await self._lease()) is not None:
                    running.add(asyncio.create_task(self._read(search, stop)))
                for task in await any_ended(running, stop, _POLL_SECONDS):
                    running.discard(task)
                    task.result()
            if running:
                await asyncio.wait(running)
        finally:
            await cancel(running)

    async def _lease(self) -> Search | None:
        async with self._database.transaction() as connection:
            return await searches.lease(connection, self._owner, _LEASE_SECONDS, self._pace.held())

    async def _read(self, search: Search, stop: asyncio.Event) -> None:
        """Read page after page while they come."""
        if search.named_by == REGISTERED and not search.pages:
            if await wait_for_stop(stop, self._pace.turn(self._relay)):
                await self._keep(search, None)
                return
            if await self._pages.is_read_by(self._relay, search.source):
                await self._keep(read_by_relay(search, time.time(), self._rules), None)
                return
        while not stop.is_set():
            now = time.time()
            if (full := await self._full(search, now)) is not None:
                await self._keep(full, None)
                return
            if await wait_for_stop(stop, self._pace.turn(search.source)):
                break
            answer, page = await self._pages.ask(
                search.source, search.listing, search.cursor, search.limit
            )
            metrics.LISTING_PAGES.labels(answer.kind).inc()
            self._pace.hold(search.source, answer.retry_after)
            chance = random.random()  # noqa: S311 - jitter
            then = after(search, answer, time.time(), chance, self._rules)
            goes_on = not then.ended and then.due - time.time() < _SHORT_WAIT
            if not await self._keep(then, page, goes_on=goes_on, named=answer.named):
                return  # cancelled, or leased by another process
            self._search_log.tell(then, answer)
            if not goes_on:
                return
            if await wait_for_stop(stop, max(0.0, then.due - time.time())):
                search = then
                break
            search = then
        await self._keep(search, None)

    async def _full(self, search: Search, now: float) -> Search | None:
        """Return the search as postponed if its source has too many unconfirmed DIDs.

        As long as some of them were not tried, it only waits; if all were in vain it fails, so
        that the next source is asked.
        """
        most = self._settings.unconfirmed
        async with self._database.transaction() as connection:
            if not await found.unconfirmed(connection, search.source, most, tried=False):
                return None
            vain = await found.unconfirmed(connection, search.source, most, tried=True)
        detail = f"{most:,} listed DIDs are not confirmed by their documents"
        if vain:
            answer = Answer(AnswerKind.AWAY, detail, retry_after=_FULL_SECONDS)
            return after(search, answer, now, 0.0, self._rules)
        return postponed(search, detail, _FULL_SECONDS, now)

    async def _keep(
        self, search: Search, page: Page | None, *, goes_on: bool = False, named: int = 0
    ) -> bool:
        """Store the search and what its page names; return False if the lease was lost."""
        seconds = _LEASE_SECONDS if goes_on else None
        new = 0
        async with self._database.transaction() as connection:
            if not await searches.save(connection, self._owner, search, seconds, named):
                return False
            if page is not None and page.hosts:
                await searches.open_hosts(connection, search, page.hosts)
            if page is not None and page.repos:
                new = await self._findings.note(connection, search, page)
        metrics.LISTED.inc(named)
        if new:
            metrics.DISCOVERED.inc(new)
            _log.info(
                "repos_discovered",
                listing=search.listing,
                source=search.source,
                seen=search.found,
                new=new,
            )
        return True
