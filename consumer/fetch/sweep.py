"""The sweep as a task: compares every tracked repository with its host, spread over a period.

``consumer.state.sweep`` decides when a page of repositories is due and what an answer means;
``consumer.store.sweep`` leases the pages, so that any number of processes may sweep.  A repository
that is behind gets a sync, a refusal by name becomes a question about the account, and a host that
is down changes nothing.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

import structlog

from consumer import metrics
from consumer.backfill import Cause, LookupKind
from consumer.config.settings import DiscoverySettings
from consumer.errors import Transient
from consumer.fetch.checks import Checker
from consumer.runtime.tasks import any_ended, cancel
from consumer.state import sweep as rules
from consumer.state.accounts import AccountRules
from consumer.state.sweep import Finding, Round, Told, Tracked, Way
from consumer.store import lookups, sweep
from consumer.store.database import Connection, Database
from consumer.store.operations import queue
from consumer.store.rows import LookupRequest
from consumer.store.sweep import Later, Page, Postponed
from procedures.failures import Failure
from procedures.retries import RetryPolicy

_LOOK_SECONDS = 15.0
_SHORTEST_LOOK, _END_LOOK = 0.05, 1.0  # the latter for pages of other processes to end
_AT_ONCE = 4  # pages, or portions of checks that go on
_LEASE_SECONDS = 240.0
_PAGE_SECONDS = 180.0  # for all questions of a page: what waits longer for its turn is asked later
_SHOWN = 5

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class _Checked:
    """The check of one repository; ``told`` is None if nothing was asked."""

    known: Tracked
    finding: Finding
    told: Told | None = None
    tries: int = 0


class Sweeper:
    """Takes pages while they are due, and checks that go on, up to four at a time."""

    def __init__(
        self,
        settings: DiscoverySettings,
        relay: str,
        checker: Checker,
        database: Database,
        accounts: AccountRules,
        retries: RetryPolicy,
    ) -> None:
        self._settings = settings
        self._relay = relay
        self._checker = checker
        self._database = database
        self._accounts = accounts
        self._retries = retries

    async def run(self, stop: asyncio.Event) -> None:
        """Sweep until ``stop`` is set.  Raises ``Transient`` when Postgres is away."""
        if not self._settings.sweep_every:
            await stop.wait()
            return
        running: dict[asyncio.Task[None], Page | None] = {}
        try:
            while not stop.is_set():
                wait = await self._start(running)
                for task in await any_ended(running, stop, wait):
                    running.pop(task)
                    task.result()
        finally:
            await cancel(running)
            if pages := [page for page in running.values() if page is not None]:
                with suppress(Transient):  # else the leases expire
                    async with self._database.transaction() as connection:
                        await sweep.give_back(connection, pages)

    async def _start(self, running: dict[asyncio.Task[None], Page | None]) -> float:
        """Start what is due; return the seconds until the next look."""
        while len(running) < _AT_ONCE:
            page, wait = None, 0.0
            async with self._database.transaction() as connection:
                later = await sweep.due(connection, rules.MAX_PAGE, _LEASE_SECONDS)
                if not later:
                    page, wait = await self._take(connection)
            if later:
                running[asyncio.create_task(self._go_on(later))] = None
                continue
            if page is None:
                return min(max(wait, _SHORTEST_LOOK), _LOOK_SECONDS)
            running[asyncio.create_task(self._check(page))] = page
        return _LOOK_SECONDS

    async def _take(self, connection: Connection) -> tuple[Page | None, float]:
        """Lease the next page, or None and the seconds until one may be due."""
        await sweep.one_by_one(connection)
        if (page := await sweep.abandoned(connection, _LEASE_SECONDS)) is not None:
            return page, 0.0
        now, period = time.time(), self._settings.sweep_every
        walk = await sweep.current(connection)
        if walk is None or walk.ended:
            due = rules.next_round(walk, period, now)
            refused = walk is not None and await self._is_refused(connection, walk)
            if due > now and not refused:
                return None, due - now
            walk = await self._begin(connection, now if refused else due)
        self._show(walk)
        if walk.ended:
            return None, period
        due = rules.page_due(walk, period)
        if due > now:
            return None, due - now
        page = await sweep.take(connection, rules.page_size(walk, period, now), _LEASE_SECONDS)
        if page is None and await sweep.end(connection):
            _log.info("sweep_ended", repos=walk.taken, seconds=round(now - walk.began_at, 1))
        return page, _END_LOOK if page is None else 0.0

    async def _is_refused(self, connection: Connection, walk: Round) -> bool:
        """Tell whether this round was to read a listing that turned out to be refused."""
        if walk.way is Way.HOSTS:
            return False
        listed, served = await sweep.listing(connection, self._relay)
        way = rules.way(self._settings.sweep, walk.total, listed, served=served)
        return way is Way.HOSTS and not served

    async def _begin(self, connection: Connection, began_at: float) -> Round:
        total = await sweep.tracked(connection)
        listed, served = await sweep.listing(connection, self._relay)
        way = rules.way(self._settings.sweep, total, listed, served=served)
        # A listing is read as a search of its own.
        walk = Round(way, began_at, ended=way is Way.LISTING, total=total, taken=0)
        await sweep.begin(connection, walk)
        _log.info("sweep_began", way=way, repos=total)
        return walk

    def _show(self, walk: Round) -> None:
        metrics.SWEEP_TRACKED.set(walk.total)
        metrics.SWEEP_TAKEN.set(walk.taken)

    async def _check(self, page: Page) -> None:
        """Check the repositories of a page."""
        async with self._database.transaction() as connection:
            tracked, waiting = await sweep.read_page(connection, page)
        checked = await self._ask([(one, 0) for one in tracked])
        async with self._database.transaction() as connection:
            await self._keep(connection, checked, waiting)
            await sweep.end_page(connection, page)

    async def _go_on(self, later: Sequence[Postponed]) -> None:
        """Settle newer revisions, and ask again what could not be asked."""
        over = [one.did for one in later if one.known is None]
        again = [(one.known, one.tries) for one in later if one.known and one.rev is None]
        checked = await self._ask(again)
        async with self._database.transaction() as connection:
            firehose_at = await sweep.firehose_at(connection)
            for one in later:
                if one.known is not None and one.rev is not None:
                    found = rules.confirmed(
                        one.known,
                        one.rev,
                        one.asked_at,
                        firehose_at=firehose_at,
                        confirm_after=self._settings.sweep_confirm_after,
                        now=time.time(),
                    )
                    checked.append(_Checked(one.known, found, Told(rev=one.rev), one.tries))
            await self._keep(connection, checked)
            await sweep.settle(connection, over)

    async def _ask(self, wanted: Sequence[tuple[Tracked, int]]) -> list[_Checked]:
        """Ask the hosts of ``wanted``, each with the number of tries before."""
        deadline = asyncio.get_running_loop().time() + _PAGE_SECONDS

        async def one(known: Tracked, tries: int) -> _Checked:
            if (found := rules.before_asking(known)) is not None:
                return _Checked(known, found, tries=tries)
            try:
                async with asyncio.timeout_at(deadline):
                    told = await self._checker.ask(known.did, known.pds, anew=tries > 0)
            except TimeoutError:
                told = Told(failure=Failure.HOST_TIMEOUT, detail="no turn at its host in time")
            return _Checked(known, rules.finding(known, told), told, tries)

        return list(await asyncio.gather(*(one(*each) for each in wanted)))

    async def _keep(
        self, connection: Connection, checked: Sequence[_Checked], waiting: int = 0
    ) -> None:
        """Do what the findings ask for, and count them; ``waiting``: checks that are not over."""
        by_finding: dict[Finding, list[_Checked]] = {}
        for each in checked:
            by_finding.setdefault(each.finding, []).append(each)
        inactive = [each.known.did for each in by_finding.get(Finding.INACTIVE, [])]
        await lookups.ask(connection, inactive, Cause.SWEEP, self._accounts)
        for cause in (Cause.REFUSAL, Cause.DIRECTORY):
            refused = [
                each.known.did
                for each in by_finding.get(Finding.REFUSED, [])
                if each.told is not None and each.told.by_directory is (cause is Cause.DIRECTORY)
            ]
            await lookups.ask(connection, refused, cause, self._accounts)
        moved = [
            LookupRequest(each.known.did, LookupKind.IDENTITY, each.known.lane)
            for each in checked
            if each.told is not None and each.told.moved
        ]
        await lookups.request(connection, moved)
        await self._sync(connection, by_finding.get(Finding.BEHIND, []))
        goes_on = {Finding.NEWER, Finding.UNASKED}
        later = [self._later(each) for found in goes_on for each in by_finding.get(found, [])]
        if later:
            await sweep.postpone(connection, later)
        over = [each.known.did for each in checked if each.tries and each.finding not in goes_on]
        if over:
            await sweep.settle(connection, over)
        counts = Counter({finding: len(found) for finding, found in by_finding.items()})
        if waiting:
            counts[Finding.LATER] = waiting
        await sweep.count(connection, counts)
        for finding, number in counts.items():
            metrics.SWEEP_FINDINGS.labels(finding).inc(number)

    async def _sync(self, connection: Connection, behind: Sequence[_Checked]) -> None:
        """Queue the syncs of repositories that are behind."""
        wanted = [
            (each.known.did, each.known.lane, each.told.rev)
            for each in behind
            if each.told is not None and each.told.rev is not None
        ]
        if wanted and await queue.add_behind(connection, wanted):
            dids = [did for did, _, _ in wanted]
            _log.info("repos_behind", repos=len(dids), dids=dids[:_SHOWN])

    def _later(self, each: _Checked) -> Later:
        """Return how the check of a repository goes on."""
        told, did = each.told, each.known.did
        assert told is not None  # noqa: S101 - only what was asked goes on
        if told.rev is not None:
            return Later(did, self._settings.sweep_confirm_after, rev=told.rev)
        chance = random.random()  # noqa: S311 - jitter
        wait = max(
            self._retries.renewal.wait(each.tries + 1, chance),
            self._retries.deferred(told.wait, chance),
        )
        return Later(did, wait, failure=told.failure)
