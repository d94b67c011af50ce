"""Discovery: finds repositories that already hold wanted records, and those that are behind.

Sources of listings are asked in the order of the settings: ``consumer.state.discovery`` decides
what is asked next and what an answer means.  What is found is remembered (``store/found.py``) and
fed into automatic syncs, until it is synced or known to be gone.

Any number of processes may run it: a search is leased, one of a source at a time.  With
``history = full`` the revs of a listing of all repositories are compared regularly, too: a newer
one means that the last commit was lost on its way here, which nothing else would show.
"""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from urllib.parse import urlsplit
from uuid import uuid4

import structlog

from consumer import metrics
from consumer.backfill import Cause, LookupKind
from consumer.config import types
from consumer.config.settings import DEFAULT_SOURCES, DiscoverySettings, Settings
from consumer.errors import Refused
from consumer.fetch.account import DELETED, Accounts
from consumer.fetch.failed import printable
from consumer.fetch.hosts import Hosts, HostUnavailable
from consumer.fetch.http import HttpClient
from consumer.fetch.identity import Directory, Inconclusive
from consumer.fetch.listings import Listings, Page, origin_of
from consumer.kafka.topics import Topics
from consumer.runtime.tasks import wait_for_stop
from consumer.scope import EVERYTHING, History, Repos, Scope
from consumer.state import discovery as rules_of_discovery
from consumer.state.accounts import AccountRules
from consumer.state.discovery import (
    HOSTS,
    PAGE_WAITS,
    SWEEP,
    Answer,
    AnswerKind,
    Fate,
    Search,
    SearchRules,
    SearchState,
    fate_of,
    is_confirmed,
    listings,
)
from consumer.store import found, lookups, repos, searches
from consumer.store.database import Connection, Database
from consumer.store.found import EndedSync, Retry
from consumer.store.rows import LookupRequest
from procedures import transitions
from procedures.failures import Failure
from procedures.operations import Operation, Status
from procedures.retries import RetryPolicy
from procedures.syntax import tid_time

_POLL_SECONDS = 5.0
_FEED_SECONDS = 2.0
_COUNT_SECONDS = 15.0
_PAGE_SECONDS = 30.0
_LEASE_SECONDS = 120.0  # longer than a page may take
_AT_ONCE = 8  # searches, each at a source of its own
_SHORT_WAIT = 2.0  # a search keeps its lease for so long until its next page is due
_FULL_SECONDS = 60.0  # until a source with too many unconfirmed DIDs is asked again
_FIRST_EPOCH_SECONDS = 10.0  # for the tailer to connect at the first start
_ENDED = 500  # syncs in one transaction
_ASKED = 20  # hosts in one round
_WARN_EVERY = 60.0
_SETTLED = 600.0  # seconds after which a rev should have arrived by the firehose
_BEHIND = "listed_newer"

_log = structlog.get_logger()


def sources_of(settings: Settings) -> tuple[str, ...]:
    """Return the origins of the sources, in order of preference.

    Where requests may go to loopback, or the relay is there, nothing else is asked by default:
    development never reaches the public network.
    """
    relay = origin_of(settings.relay.url)
    given = settings.discovery.sources
    if given is None:
        local = settings.network.allow_loopback or types.is_loopback(urlsplit(relay).hostname or "")
        given = (types.RELAY,) if local else DEFAULT_SOURCES
    return tuple(dict.fromkeys(relay if name == types.RELAY else name for name in given))


def search_rules(settings: Settings) -> SearchRules:
    """Return the rules that the settings give."""
    retries = settings.retries
    waits = settings.retries.policy().listing
    return SearchRules(
        repeat_every=settings.discovery.repeat_every,
        sweep_every=settings.discovery.sweep_every,
        try_again_after=retries.unsupported_listing,
        waits=waits,
        page_waits=replace(waits, longest=min(waits.longest, PAGE_WAITS.longest)),
    )


async def discover(
    settings: Settings,
    scope: Scope,
    topics: Topics,
    database: Database,
    stop: asyncio.Event,
    rules: SearchRules | None = None,
) -> None:
    """Search until ``stop`` is set.  Raises ``Transient`` when Postgres is away.

    ``rules``: others than those of the settings, for tests.
    """
    if scope.history is not History.FULL:
        await stop.wait()
        return
    hosts = Hosts.of(settings)
    loopback = settings.network.allow_loopback
    async with HttpClient(allow_loopback=loopback) as http:
        pages = Listings(http, allow_loopback=loopback, seconds=_PAGE_SECONDS)
        directory = Directory(settings.identity, http, hosts, allow_loopback=loopback)
        accounts = Accounts(directory, http, hosts, seconds=settings.identity.timeout)
        retries = settings.retries.policy()
        feeder = Feeder(settings.discovery, scope, topics, database, accounts, retries)
        discovery = Discovery(
            settings.discovery,
            scope,
            sources_of(settings),
            origin_of(settings.relay.url),
            pages,
            topics,
            database,
            rules=rules or search_rules(settings),
            account_rules=settings.accounts.rules(),
        )
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(feeder.run(stop))
                group.create_task(discovery.run(stop))
        except BaseExceptionGroup as failures:
            raise failures.exceptions[0] from None


@dataclass
class _Pace:
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


class Discovery:
    """Opens and reads searches, up to eight at a time."""

    def __init__(
        self,
        settings: DiscoverySettings,
        scope: Scope,
        sources: Sequence[str],
        relay: str,
        pages: Listings,
        topics: Topics,
        database: Database,
        *,
        rules: SearchRules,
        account_rules: AccountRules,
    ) -> None:
        self._settings = settings
        self._account_rules = account_rules
        self._sources = sources
        self._relay = relay
        self._pages = pages
        self._topics = topics
        self._database = database
        self._rules = rules
        self._owner = f"discovery-{uuid4()}"
        self._pace = _Pace(1.0 / settings.pace)
        self._wanted = listings(scope, settings.known_collections)
        self._said: set[str] = set()
        self._warned: dict[str, float] = {}  # by source, monotonic seconds

    async def run(self, stop: asyncio.Event) -> None:
        """Search until ``stop`` is set.  Raises ``Transient`` when Postgres is away."""
        await self._begin(stop)
        running: set[asyncio.Task[None]] = set()
        stopping = asyncio.create_task(stop.wait())
        try:
            while not stop.is_set():
                await self._plan()
                while len(running) < _AT_ONCE and (search := await self._lease()) is not None:
                    running.add(asyncio.create_task(self._read(search, stop)))
                ended, _ = await asyncio.wait(
                    {*running, stopping},
                    timeout=_POLL_SECONDS,
                    return_when=asyncio.FIRST_COMPLETED,
                )
                for task in ended & running:
                    running.discard(task)
                    task.result()
            if running:
                await asyncio.wait(running)
        finally:
            for task in (*running, stopping):
                task.cancel()
            await asyncio.gather(*running, stopping, return_exceptions=True)

    async def _begin(self, stop: asyncio.Event) -> None:
        """Forget what is not wanted any more, and wait for the relay's first epoch for a while.

        A search that begins before the firehose has to be repeated: who writes in between is in
        neither.
        """
        all_of_them = [EVERYTHING] if HOSTS in self._wanted else []
        kept = [*self._wanted, *all_of_them, SWEEP]
        sources = list(dict.fromkeys([*self._sources, self._relay]))
        async with self._database.transaction() as connection:
            await searches.one_by_one(connection)
            await searches.forget(connection, kept, sources, hosts=HOSTS in self._wanted)
        until = time.monotonic() + _FIRST_EPOCH_SECONDS
        while time.monotonic() < until:
            async with self._database.transaction() as connection:
                if await searches.epoch(connection):
                    return
            if await wait_for_stop(stop, 0.5):
                return

    async def _plan(self) -> None:
        """Open what is due, and end the operations whose searches have all ended."""
        now = time.time()
        async with self._database.transaction() as connection:
            await searches.one_by_one(connection)
            for search in await searches.unwatched(connection):
                ended = rules_of_discovery.cancelled(search, now, self._rules)
                await searches.put(connection, ended)
            operations = await searches.operations(connection)
            await self._ask_for(connection, operations, now)
            await self._open(connection, now)
            for operation in await searches.operations(connection):
                await self._conclude(connection, operation, now)
            states = await searches.by_state(connection)
        for state in SearchState:
            metrics.SEARCHES.labels(state).set(states.get(state, 0))

    async def _ask_for(
        self, connection: Connection, operations: Sequence[Operation], now: float
    ) -> None:
        """Open the searches that commands ask for, from the first source on or at theirs."""
        asked = [one for one in operations if one.status is Status.QUEUED]
        if not asked:
            return
        known = await searches.read(connection)
        epoch = await searches.epoch(connection)
        for operation in asked:
            collection, source = rules_of_discovery.asked_for(operation.reason or "")
            wanted = [each for each in self._wanted if collection in (None, each)]
            sources = self._sources if source is None else [source]
            if not wanted or (source is not None and source not in self._sources):
                detail = "none of the wanted listings, or of discovery.sources, is this one"
                failed = transitions.fail(operation, now, Failure.OUT_OF_SCOPE, detail)
                await searches.save_operations(connection, [failed])
                continue
            await searches.save_operations(
                connection, [transitions.start(operation, max(now, operation.run_after))]
            )
            for listing in wanted:
                under_way = [
                    search
                    for each in sources
                    if (search := known.get((each, listing))) is not None and not search.ended
                ]
                if under_way:
                    for search in under_way:
                        await searches.adopt(connection, search, operation.id)
                    continue
                await searches.expire(connection, listing)
                again = rules_of_discovery.opened(sources[0], listing, epoch, now)
                await searches.put(connection, replace(again, operation=operation.id))

    async def _open(self, connection: Connection, now: float) -> None:
        epoch = await searches.epoch(connection)
        known = await searches.read(connection)
        wanted, sources, rules = self._wanted, self._sources, self._rules
        steps = [*rules_of_discovery.plan(wanted, sources, known, epoch, now, rules)]
        if self._settings.sweep_every:
            steps += rules_of_discovery.plan([SWEEP], [self._relay], known, epoch, now, rules)
        running = {
            one.id for one in await searches.operations(connection) if one.status is Status.RUNNING
        }
        for search in steps:
            operation = search.operation
            if not search.ended:
                # The search goes on at another source, or in another way, as the same operation.
                same = {search.listing, HOSTS} if search.listing == EVERYTHING else {search.listing}
                before = [
                    each.operation
                    for (_, listing), each in known.items()
                    if listing in same and each.operation in running
                ]
                operation = before[0] if before else None
                if operation is None:
                    operation = await searches.begin(
                        connection, self._topics.partitions, search.listing
                    )
            await searches.put(connection, replace(search, operation=operation))

    async def _conclude(self, connection: Connection, operation: Operation, now: float) -> None:
        """End an operation whose searches have all ended."""
        if operation.status is not Status.RUNNING:
            return
        own = await searches.of_operation(connection, operation.id)
        if any(state is SearchState.OPEN for _, _, state, _ in own):
            return
        if not own:
            ended = transitions.cancel(operation, now, "another operation searches the same")
            await searches.save_operations(connection, [ended])
            return
        read = {listing for listing, _, state, _ in own if state is SearchState.COMPLETED}
        missing = {
            listing: detail
            for listing, is_host, _, detail in own
            if listing not in read and not is_host
        }
        if HOSTS in missing and EVERYTHING in read:
            del missing[HOSTS]
        if not missing:
            ended = transitions.complete(operation, now)
        else:
            names = ", ".join(sorted(missing))
            detail = printable(f"no source serves {names}: {next(iter(missing.values()))}")
            ended = transitions.fail(operation, now, Failure.HOST_ERROR, detail)
            _log.warning(
                "listing_unserved",
                listings=sorted(missing),
                sources=list(self._sources),
                error=detail,
                meaning="repositories that write nothing new are not found",
            )
        await searches.save_operations(connection, [ended])

    async def _lease(self) -> Search | None:
        async with self._database.transaction() as connection:
            return await searches.lease(connection, self._owner, _LEASE_SECONDS, self._pace.held())

    async def _read(self, search: Search, stop: asyncio.Event) -> None:
        """Read page after page while they come."""
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
            after = rules_of_discovery.after(search, answer, time.time(), chance, self._rules)
            goes_on = not after.ended and after.due - time.time() < _SHORT_WAIT
            if not await self._keep(after, page, goes_on=goes_on, named=answer.named):
                return  # cancelled, or leased by another process
            self._tell(after, answer)
            if not goes_on:
                return
            if await wait_for_stop(stop, max(0.0, after.due - time.time())):
                search = after
                break
            search = after
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
            return rules_of_discovery.after(search, answer, now, 0.0, self._rules)
        return rules_of_discovery.postponed(search, detail, _FULL_SECONDS, now)

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
                new = await self._note(connection, search, page)
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

    async def _question(self, connection: Connection, page: Page) -> None:
        """Ask about accounts whose status the listing states otherwise than it is known.

        The listing decides nothing: the host of today does, at most once an hour per account.
        """
        active = [repo.did for repo in page.repos if repo.active is True]
        inactive = [repo.did for repo in page.repos if repo.active is False]
        wanted = [
            LookupRequest(
                did,
                LookupKind.ACCOUNT,
                lane,
                epoch,
                seq,
                cause=Cause.LISTING,
                every=self._account_rules.pause(Cause.LISTING),
            )
            for did, lane, epoch, seq in await repos.contradicted(connection, active, inactive)
        ]
        await lookups.request(connection, wanted)

    async def _note(self, connection: Connection, search: Search, page: Page) -> int:
        await self._question(connection, page)
        lane_of = self._topics.partition_of
        present = [repo for repo in page.repos if repo.active is not False]
        if search.listing == SWEEP:
            settled = time.time() - _SETTLED
            behind = {
                repo.did: (repo.did, lane_of(repo.did), repo.rev)
                for repo in present
                if repo.rev is not None and tid_time(repo.rev) < settled
            }
            return await searches.queue_behind(connection, list(behind.values()), _BEHIND)
        listed = [(repo.did, lane_of(repo.did)) for repo in present]
        host = search.source if search.named_by is not None else None
        return await found.note(connection, listed, search.source, search.listing, host)

    def _tell(self, search: Search, answer: Answer) -> None:
        """Log what an operator should know, once for each source and kind."""
        own = search.named_by is None
        if search.state is SearchState.UNSUPPORTED:
            if own and search.source not in self._said:
                self._said.add(search.source)
                _log.warning(
                    "listing_unsupported",
                    listing=search.listing,
                    source=search.source,
                    error=search.detail,
                )
        elif search.state is SearchState.INCOMPLETE:
            _log.warning(
                "listing_incomplete",
                listing=search.listing,
                source=search.source,
                cursor=search.cursor,
                pages=search.pages,
                error=search.detail,
            )
        elif search.state is SearchState.COMPLETED:
            _log.info(
                "listing_completed",
                listing=search.listing,
                source=search.source,
                pages=search.pages,
                found=search.found,
            )
        elif answer.kind is not AnswerKind.PAGE and own and self._may_warn(search.source):
            _log.warning(
                "listing_postponed",
                listing=search.listing,
                source=search.source,
                error=search.detail,
            )

    def _may_warn(self, source: str) -> bool:
        """Tell whether to warn that ``source`` fails: at once, then once in ``_WARN_EVERY``."""
        now = time.monotonic()
        if now - self._warned.get(source, -math.inf) < _WARN_EVERY:
            return False
        self._warned[source] = now
        return True


class Feeder:
    """Moves found repositories into automatic syncs, and forgets those that are known or gone."""

    def __init__(
        self,
        settings: DiscoverySettings,
        scope: Scope,
        topics: Topics,
        database: Database,
        accounts: Accounts,
        retries: RetryPolicy,
    ) -> None:
        self._settings = settings
        self._scope = scope
        self._topics = topics
        self._database = database
        self._accounts = accounts
        self._retries = retries

    async def run(self, stop: asyncio.Event) -> None:
        """Feed until ``stop`` is set.  Raises ``Transient`` when Postgres is away."""
        if self._scope.repos is Repos.LISTED:
            lane_of = self._topics.partition_of
            listed = [(did, lane_of(did)) for did in sorted(self._scope.dids)]
            async with self._database.transaction() as connection:
                await found.note(connection, listed, found.SETTINGS, found.SETTINGS, None)
        count_at = 0.0
        while not stop.is_set():
            ended = await self._settle()
            async with self._database.transaction() as connection:
                fed = await found.feed(connection, self._settings.queued)
                if time.monotonic() >= count_at:  # it reads the whole table
                    count_at = time.monotonic() + _COUNT_SECONDS
                    remembered, _, failed = await found.counts(connection)
                    metrics.FOUND_WAITING.set(remembered)
                    metrics.FOUND_FAILED.set(failed)
            if not (fed or ended):
                await wait_for_stop(stop, _FEED_SECONDS)

    async def _settle(self) -> int:
        """Decide about found repositories whose sync has ended; return how many."""
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
        return len(gone) + len(retries)

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
