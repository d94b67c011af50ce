"""Carrying out operations: claimed, attempted, and left to the worker or given back.

A few syncs and a few refreshes at once, each kind with places of its own, so that nobody who
asks for one record waits behind downloads.  What somebody asked for is claimed first, and one
place is kept for it; what goes to a host that is busy waits without taking a place.  Leases are
extended while attempts are under way; an operation that is not ours any more, because it was
cancelled or its lease had expired, has its attempt cancelled.
Kafka or Postgres away end all attempts; ``run`` begins again, and expired leases come back.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import structlog

from consumer import metrics
from consumer.config.settings import Settings
from consumer.errors import Transient
from consumer.fetch.attempts import Attempts, Note
from consumer.fetch.failed import FetchFailed, NotAttempted
from consumer.fetch.hosts import Hosts
from consumer.fetch.http import HttpClient
from consumer.fetch.identity import Directory
from consumer.fetch.inject import Injector
from consumer.fetch.repos import RepoSource
from consumer.kafka.client import Client
from consumer.kafka.topics import Topics
from consumer.kafka.writer import Writer
from consumer.scope import Scope
from consumer.store.database import Database, Listener
from consumer.store.operations import claims
from consumer.store.operations.claims import Claim
from procedures.operations import Phase, Type

_LEASE_SECONDS = 60.0
_BEAT_SECONDS = 1.0  # a cancel takes so long to stop a download
_LOOK_SECONDS = 10.0  # at Postgres, though nobody rang
_SHORTEST_LOOK = 0.05
_DRAIN_SECONDS = 3.0

_log = structlog.get_logger()


@dataclass(slots=True)
class _Running:
    """An attempt; ``news`` is what was not written yet of how far it is."""

    claim: Claim
    task: asyncio.Task[None]
    news: tuple[Phase, int, int | None] | None = None
    phase: Phase = Phase.RESOLVING
    since: float = field(default_factory=time.monotonic)

    def note(self, phase: Phase, progress: int, total: int | None) -> None:
        """Take down how far the attempt is."""
        self.news = (phase, progress, total)
        if phase is not self.phase:
            self.measure()
            self.phase, self.since = phase, time.monotonic()

    def measure(self) -> None:
        """Count the time of the phase that is over."""
        seconds = time.monotonic() - self.since
        metrics.PHASE_SECONDS.labels(self.claim.operation.type, self.phase).observe(seconds)


class Work:
    """The operations of this process."""

    def __init__(
        self,
        settings: Settings,
        client: Client,
        topics: Topics,
        database: Database,
        scope: Scope,
        http: HttpClient,
        hosts: Hosts,
        directory: Directory,
    ) -> None:
        self._client = client
        self._topics = topics
        self._database = database
        self._scope = scope
        self._hosts = hosts
        self._directory = directory
        self._source = RepoSource(http, hosts, settings.limits, settings.fetch)
        self._cap = settings.fetch.injected_bytes
        self._retries = settings.retries.policy()
        self._places = {
            Type.RECORD_REFRESH: settings.fetch.refreshes,
            Type.DID_SYNC: settings.fetch.syncs,
        }
        self._running: dict[str, _Running] = {}
        self._bell = asyncio.Event()
        self._failure: BaseException | None = None

    async def serve(self, stop: asyncio.Event) -> None:
        """Carry out operations until told to stop.  Raises ``Transient``."""
        self._failure = None
        async with (
            await Writer.open(self._client) as writer,
            self._database.listening(claims.CHANNEL) as listener,
        ):
            injector = Injector(writer, self._topics, self._database, self._cap)
            attempts = Attempts(
                self._directory, self._source, injector, self._database, self._scope
            )
            helpers = [
                asyncio.create_task(self._listen(listener)),
                asyncio.create_task(self._beat()),
            ]
            try:
                while not stop.is_set():
                    seconds = await self._take(attempts)
                    await self._until_rung(seconds, helpers, stop)
            finally:
                await self._close(helpers)

    async def _listen(self, listener: Listener) -> None:
        while True:
            if await listener.wait(_LOOK_SECONDS):
                self._bell.set()

    async def _beat(self) -> None:
        """Write how far the attempts are, extend their leases, cancel those that are lost."""
        while True:
            await asyncio.sleep(_BEAT_SECONDS)
            if not self._running:
                continue
            async with self._database.transaction() as connection:
                leases = list(self._running)
                ours = await claims.extend(connection, leases, _LEASE_SECONDS)
                for lease, running in list(self._running.items()):
                    if running.news is not None and lease in ours:
                        news, running.news = running.news, None
                        await claims.note(connection, lease, *news)
            for lease in leases:
                if lease not in ours and lease in self._running:
                    self._running[lease].task.cancel()

    async def _take(self, attempts: Attempts) -> float:
        """Claim what fits and begin on it; return when to look again."""
        self._bell.clear()
        for kind, places in self._places.items():
            attempt = attempts.sync if kind is Type.DID_SYNC else attempts.refresh
            while self._taken(kind) < places:
                async with self._database.transaction() as connection:
                    claim = await claims.claim(
                        connection,
                        kind,
                        _LEASE_SECONDS,
                        busy=self._hosts.busy(),
                        automatic=self._taken(kind, automatic=True) < max(1, places - 1),
                    )
                if claim is None:
                    break
                self._begin(claim, attempt)
        async with self._database.transaction() as connection:
            due = await claims.next_due(connection)
        return _LOOK_SECONDS if due is None else min(max(due, _SHORTEST_LOOK), _LOOK_SECONDS)

    def _taken(self, kind: Type, *, automatic: bool = False) -> int:
        """Return how many attempts are under way, or how many that nobody has asked for."""
        running = [each.claim.operation for each in self._running.values()]
        return sum(one.type is kind and (one.automatic or not automatic) for one in running)

    def _begin(self, claim: Claim, attempt: Callable[[Claim, Note], Awaitable[int]]) -> None:
        name = f"operation-{claim.operation.id}"
        task = asyncio.create_task(self._attempt(claim, attempt), name=name)
        self._running[claim.lease] = _Running(claim, task)
        metrics.ATTEMPTS_RUNNING.labels(claim.operation.type).inc()
        task.add_done_callback(lambda done: self._ended(claim.lease, done))

    def _ended(self, lease: str, task: asyncio.Task[None]) -> None:
        running = self._running.pop(lease)
        running.measure()
        metrics.ATTEMPTS_RUNNING.labels(running.claim.operation.type).dec()
        if not task.cancelled() and task.exception() is not None:
            self._failure = task.exception()
        self._bell.set()

    async def _attempt(
        self, claim: Claim, attempt: Callable[[Claim, Note], Awaitable[int]]
    ) -> None:
        try:
            offset = await attempt(claim, self._running[claim.lease].note)
        except FetchFailed as failed:
            await self._give_up(claim, failed)
        else:
            metrics.ATTEMPTS.labels(claim.operation.type, metrics.INJECTED).inc()
            async with self._database.transaction() as connection:
                await claims.injected(connection, claim.lease, offset)

    async def _give_up(self, claim: Claim, failed: FetchFailed) -> None:
        operation, failure, detail = claim.operation, failed.failure, failed.detail
        async with self._database.transaction() as connection:
            if isinstance(failed, NotAttempted):
                seconds = self._retries.deferred(failed.seconds, random.random())  # noqa: S311
                await claims.put_off(connection, claim.lease, failure, detail, seconds, failed.host)
                return
            await claims.failed(
                connection, claim.lease, failure, detail, failed.retry_after, self._retries
            )
        metrics.ATTEMPTS.labels(operation.type, failure).inc()
        _log.info(
            "attempt_failed",
            operation=operation.id,
            did=operation.did,
            attempt=operation.attempts,
            failure=failure,
            detail=detail,
        )

    async def _until_rung(
        self, seconds: float, helpers: list[asyncio.Task[None]], stop: asyncio.Event
    ) -> None:
        waits = {asyncio.create_task(event.wait()) for event in (self._bell, stop)}
        try:
            await asyncio.wait(
                {*waits, *helpers}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            for wait in waits:
                wait.cancel()
        for helper in helpers:
            if helper.done():
                helper.result()  # they end by failing only
        if self._failure is not None:
            raise self._failure

    async def _close(self, helpers: list[asyncio.Task[None]]) -> None:
        """Let what is nearly done finish; give the rest back at once."""
        tasks = {lease: running.task for lease, running in self._running.items()}
        if tasks:
            await asyncio.wait(tasks.values(), timeout=_DRAIN_SECONDS)
        unfinished = [lease for lease, task in tasks.items() if not task.done()]
        for task in [*tasks.values(), *helpers]:
            task.cancel()
        await asyncio.gather(*tasks.values(), *helpers, return_exceptions=True)
        if unfinished and self._failure is None:
            with contextlib.suppress(Transient):  # else the leases expire
                async with self._database.transaction() as connection:
                    await claims.give_back(connection, unfinished)
