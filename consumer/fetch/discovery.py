"""Discovery: finds repositories that already hold wanted records, and those that are behind.

On the first start, and when a collection is added, the relay's listings are read page by page,
with a durable cursor: each unknown repository gets an automatic sync.  With ``history = full``
all repositories are swept regularly: if the relay lists a newer rev, the last commit was lost on
its way here, which nothing else would show.

Operations that a person requested go first, and a page waits while many syncs are queued.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence
from uuid import uuid4

import structlog

from consumer.config.settings import DiscoverySettings, Settings
from consumer.errors import Refused
from consumer.fetch.failed import printable
from consumer.fetch.hosts import Hosts, HostUnavailable
from consumer.fetch.http import HttpClient
from consumer.fetch.identity import Inconclusive
from consumer.fetch.listing import Listings, NotSupported, Page
from consumer.kafka.topics import Topics
from consumer.known_collections import expanded
from consumer.runtime.logs import Outage
from consumer.runtime.tasks import wait_for_stop
from consumer.scope import EVERYTHING, History, Repos, Scope
from consumer.store import discoveries
from consumer.store.database import Connection, Database
from consumer.store.discoveries import SWEEP, Found, Search
from procedures.failures import Failure
from procedures.retries import RetryPolicy
from procedures.syntax import tid_time

_POLL_SECONDS = 5.0
_PAGE_SECONDS = 30.0
_LEASE_SECONDS = 120.0  # longer than a page may take
_SETTLED = 600.0  # seconds after which a rev should have arrived by the firehose
_QUEUED = "discovered"
_BEHIND = "listed_newer"

_log = structlog.get_logger()


def listings(scope: Scope, known: Sequence[str]) -> tuple[str, ...]:
    """Return the listings that name the repositories of ``scope``.

    A listing is of one collection: a wildcard stands for the built-in and ``known`` ones it covers.
    """
    if scope.repos is Repos.ALL or EVERYTHING in scope.collections:
        return (EVERYTHING,)
    if scope.repos is Repos.LISTED:
        return ()
    return expanded(scope, known)


async def discover(
    settings: Settings, scope: Scope, topics: Topics, database: Database, stop: asyncio.Event
) -> None:
    """Search until ``stop`` is set.  Raises ``Transient`` when Postgres is away."""
    if scope.history is not History.FULL:
        await stop.wait()
        return
    hosts = Hosts.of(settings)
    async with HttpClient(allow_loopback=settings.network.allow_loopback) as http:
        pages = Listings(settings.relay.url, http, hosts, seconds=_PAGE_SECONDS)
        retries = settings.retries.policy()
        await Discovery(settings.discovery, scope, pages, topics, database, retries).run(stop)


class Discovery:
    """Reads listings, one at a time; any number of processes may run it."""

    def __init__(
        self,
        settings: DiscoverySettings,
        scope: Scope,
        pages: Listings,
        topics: Topics,
        database: Database,
        retries: RetryPolicy,
    ) -> None:
        self._settings = settings
        self._scope = scope
        self._pages = pages
        self._topics = topics
        self._database = database
        self._retries = retries
        self._owner = f"discovery-{uuid4()}"
        self._warned = False
        self._outage = Outage(_log, "listings")

    async def run(self, stop: asyncio.Event) -> None:
        """Search until ``stop`` is set.  Raises ``Transient`` when Postgres is away."""
        while not stop.is_set():
            search = await self._next()
            if search is None:
                await wait_for_stop(stop, _POLL_SECONDS)
            else:
                await self._search(search, stop)

    async def _next(self) -> Search | None:
        wanted = listings(self._scope, self._settings.known_collections)
        if self._settings.sweep_every:
            wanted = (*wanted, SWEEP)
        async with self._database.transaction() as connection:
            if self._scope.repos is Repos.LISTED:
                found = self._found([(did, None) for did in sorted(self._scope.dids)])
                await discoveries.queue_unknown(
                    connection, found, _QUEUED, self._retries.listed_again
                )
            await discoveries.open_wanted(connection, self._topics.partitions, wanted)
            return await discoveries.lease(connection, self._owner, _LEASE_SECONDS)

    async def _search(self, search: Search, stop: asyncio.Event) -> None:
        _log.debug("listing_resumed", listing=search.listing, operation=search.operation)
        try:
            await self._through(search, stop)
        except NotSupported as absent:
            self._outage.over(relay=self._pages.origin)
            if not self._warned:  # a relay lists every collection or none
                self._warned = True
                _log.warning(
                    "discovery_unsupported",
                    listing=search.listing,
                    relay=self._pages.origin,
                    error=str(absent),
                    meaning="repositories that write nothing new are not found",
                )
            again, detail = self._retries.unsupported_listing, printable(absent)
            async with self._database.transaction() as connection:
                await discoveries.fail(
                    connection, self._owner, search, Failure.HOST_ERROR, detail, again
                )
        except (HostUnavailable, Inconclusive, Refused) as error:
            self._outage.again(error, relay=self._pages.origin, listing=search.listing)
            chance = random.random()  # noqa: S311 - jitter
            if isinstance(error, HostUnavailable):
                delay = self._retries.deferred(error.seconds, chance)
            else:
                delay = self._retries.listing.wait(search.attempts, chance)
            await self._give_back(search, delay, printable(error))

    async def _through(self, search: Search, stop: asyncio.Event) -> None:
        """Read page after page; return at the end, or when ``stop`` is set."""
        collection = EVERYTHING if search.listing == SWEEP else search.listing
        cursor, seen = search.cursor, search.seen
        while True:
            while await self._queue_full():
                if await wait_for_stop(stop, _POLL_SECONDS):
                    break
                await self._keep(search, cursor, seen)
            if stop.is_set():
                await self._give_back(search, 0.0, "the fetcher stopped")
                return
            page = await self._pages.page(collection, cursor)
            self._outage.over(relay=self._pages.origin)
            seen += page.named
            if page.cursor is not None and page.cursor == cursor:
                raise Inconclusive(f"the listing repeats the cursor {cursor[:100]!r}")
            async with self._database.transaction() as connection:
                queued = await self._queue(connection, search, page)
                if page.cursor is None:
                    await discoveries.complete(
                        connection, self._owner, search, self._settings.sweep_every
                    )
                elif not await discoveries.move(
                    connection, self._owner, search, page.cursor, seen, _LEASE_SECONDS
                ):
                    return  # cancelled, or leased by another process
            cursor = page.cursor
            if queued or cursor is None:
                _log.info("repos_discovered", listing=search.listing, seen=seen, queued=queued)
            if cursor is None:
                return

    async def _queue(self, connection: Connection, search: Search, page: Page) -> int:
        if search.listing != SWEEP:
            found = self._found([(repo.did, None) for repo in page.repos])
            return await discoveries.queue_unknown(
                connection, found, _QUEUED, self._retries.listed_again
            )
        settled = time.time() - _SETTLED
        behind = [
            (repo.did, repo.rev)
            for repo in page.repos
            if repo.rev is not None and tid_time(repo.rev) < settled
        ]
        return await discoveries.queue_behind(connection, self._found(behind), _BEHIND)

    def _found(self, named: Sequence[tuple[str, str | None]]) -> list[Found]:
        lane_of = self._topics.partition_of
        return [Found(did, lane_of(did), rev) for did, rev in dict(named).items()]

    async def _queue_full(self) -> bool:
        most = self._settings.queued
        async with self._database.transaction() as connection:
            return await discoveries.waiting(connection, most) >= most

    async def _keep(self, search: Search, cursor: str | None, seen: int) -> None:
        """Extend the lease while the page waits."""
        if cursor is not None:
            async with self._database.transaction() as connection:
                await discoveries.move(
                    connection, self._owner, search, cursor, seen, _LEASE_SECONDS
                )

    async def _give_back(self, search: Search, delay: float, why: str) -> None:
        async with self._database.transaction() as connection:
            await discoveries.postpone(connection, self._owner, search, delay, why)
