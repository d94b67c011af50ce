"""The fetcher: answers the workers' questions, so that no lane ever waits for the network.

A question is a row of ``lookups``.  It is leased, so that a fetcher which dies gives it back in
time; answered outside of any transaction; the answer goes to ``chive.backfill``; only then is
the row deleted, unless the question was asked again meanwhile.  So an answer may be repeated,
and is never lost.

A host in error defers the question without counting against it.  An answer that settles
nothing counts: the question backs off from 1 s to 1 h.  Kafka or Postgres away end the attempt;
``run`` begins another.
"""

from __future__ import annotations

import asyncio
import random
import time

import structlog

from consumer import backfill, metrics
from consumer.backfill import IdentityAnswer
from consumer.config.settings import Settings
from consumer.fetch.account import Accounts
from consumer.fetch.answers import Answers, LookupAnswer
from consumer.fetch.documents import is_plc
from consumer.fetch.failed import printable
from consumer.fetch.hosts import DIRECTORY_POLICY, HostPolicy, Hosts, HostUnavailable, backoff
from consumer.fetch.http import HostError, HttpClient, host_of
from consumer.fetch.identity import Directory, Inconclusive
from consumer.fetch.operations import Work
from consumer.kafka.client import Client
from consumer.kafka.topics import Topic, Topics
from consumer.kafka.transaction import OutRecord
from consumer.kafka.writer import Writer
from consumer.metrics import LookupOutcome, Service
from consumer.runtime.lifecycle import persistently
from consumer.runtime.logs import Outage
from consumer.scope import Scope
from consumer.store import lookups
from consumer.store.database import Database, Listener
from consumer.store.rows import LeasedLookup

_AT_ONCE, _AT_HOSTS = 64, 48
_LEASE_SECONDS = 90.0  # for answering, Kafka and Postgres together
_LOOK_SECONDS = 15.0  # at Postgres, though nobody rang
_SHORTEST_LOOK = 0.05
_DRAIN_SECONDS = 4.0
_LONGEST_PAUSE = 3600.0

_log = structlog.get_logger()


class Fetcher:
    """The role; any number of them may run."""

    def __init__(
        self,
        settings: Settings,
        client: Client,
        topics: Topics,
        database: Database,
        scope: Scope,
    ) -> None:
        self._scope = scope
        self._settings = settings
        self._client = client
        self._topics = topics
        self._database = database

    async def run(self, stop: asyncio.Event) -> None:
        """Answer questions and carry out operations until told to stop.

        Services that are away are waited for.
        """
        settings = self._settings
        loopback = settings.network.allow_loopback
        directory_host = host_of(settings.identity.plc_url)
        policy = HostPolicy(settings.network.requests_per_host)
        hosts = Hosts(policy, {directory_host: DIRECTORY_POLICY})
        async with HttpClient(allow_loopback=loopback) as http:
            directory = Directory(settings.identity, http, hosts, allow_loopback=loopback)
            accounts = Accounts(directory, http, hosts, seconds=settings.identity.timeout)
            desk = Desk(self._client, self._topics, self._database, Answers(directory, accounts))
            work = Work(
                settings,
                self._client,
                self._topics,
                self._database,
                self._scope,
                http,
                hosts,
                directory,
            )
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(persistently("lookups", desk.serve, stop))
                    group.create_task(persistently("operations", work.serve, stop))
            except BaseExceptionGroup as failures:
                raise failures.exceptions[0] from None


class Desk:
    """Where questions are taken and answers handed out, up to ``_AT_ONCE`` at a time.

    Hosts of anybody's, which may be slow, get ``_AT_HOSTS`` places of them at most.
    """

    def __init__(
        self, client: Client, topics: Topics, database: Database, answers: Answers
    ) -> None:
        self._client = client
        self._topics = topics
        self._database = database
        self._answers = answers
        self._directory_outage = Outage(_log, "plc_directory")
        self._bell = asyncio.Event()  # rings when it is worth looking at Postgres again
        self._open: dict[asyncio.Task[None], LeasedLookup] = {}
        self._failure: BaseException | None = None
        self._saturated = False

    async def serve(self, stop: asyncio.Event) -> None:
        """Answer until told to stop.  Raises ``Transient`` when Kafka or Postgres is away."""
        self._failure = None
        async with (
            await Writer.open(self._client) as writer,
            self._database.listening(lookups.CHANNEL) as listener,
        ):
            listening = asyncio.create_task(self._listen(listener))
            try:
                while not stop.is_set():
                    seconds = await self._take(writer)
                    await self._until_rung(seconds, listening, stop)
            finally:
                listening.cancel()
                await self._close()

    async def _listen(self, listener: Listener) -> None:
        while True:
            if await listener.wait(_LOOK_SECONDS):
                self._bell.set()

    async def _take(self, writer: Writer) -> float:
        """Lease the questions that fit and begin on them; return when to look again."""
        self._bell.clear()
        room = _AT_ONCE - len(self._open)
        at_hosts = sum(not question.at_directory for question in self._open.values())
        for_hosts = min(room, _AT_HOSTS - at_hosts)
        async with self._database.transaction() as connection:
            others = await lookups.lease(connection, for_hosts, _LEASE_SECONDS, directory=False)
            left = room - len(others)
            plain = await lookups.lease(connection, left, _LEASE_SECONDS, directory=True)
            due = await lookups.next_due(connection)
        taken = [*others, *plain]
        self._saturated = len(others) == for_hosts or len(plain) == left
        for question in taken:
            task = asyncio.create_task(self._handle(question, writer))
            self._open[task] = question
            task.add_done_callback(self._ended)
        metrics.LOOKUPS_RUNNING.set(len(self._open))
        idle = due is None or self._saturated
        return _LOOK_SECONDS if idle else min(max(due or 0.0, _SHORTEST_LOOK), _LOOK_SECONDS)

    def _ended(self, task: asyncio.Task[None]) -> None:
        del self._open[task]
        if not task.cancelled() and task.exception() is not None:
            self._failure = task.exception()
        if self._saturated or self._failure:
            self._bell.set()

    async def _until_rung(
        self, seconds: float, listening: asyncio.Task[None], stop: asyncio.Event
    ) -> None:
        waits = {asyncio.create_task(event.wait()) for event in (self._bell, stop)}
        try:
            await asyncio.wait(
                {*waits, listening}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            for wait in waits:
                wait.cancel()
        if listening.done():
            listening.result()  # it ends by failing only
        if self._failure is not None:
            raise self._failure

    async def _close(self) -> None:
        """Let what is under way finish, for a moment; give the rest back."""
        if self._open:
            await asyncio.wait(self._open, timeout=_DRAIN_SECONDS)
        unfinished = dict(self._open)
        for task in unfinished:
            task.cancel()
        await asyncio.gather(*unfinished, return_exceptions=True)
        metrics.LOOKUPS_RUNNING.set(0)
        if unfinished:
            async with self._database.transaction() as connection:
                for question in unfinished.values():
                    await lookups.defer(connection, question, 0.0, "the fetcher stopped")

    # -- one question ------------------------------------------------------------------

    async def _handle(self, question: LeasedLookup, writer: Writer) -> None:
        began = time.monotonic()
        try:
            answer = await self._answers.to(question)
        except HostUnavailable as unavailable:
            outcome = LookupOutcome.RETRIED
            self._note_error(question, unavailable)
            await self._defer(question, unavailable)
            self._bell.set()  # it may be due before the next look
        except Inconclusive as inconclusive:
            outcome = LookupOutcome.RETRIED
            await self._postpone(question, inconclusive)
            self._bell.set()
        else:
            await self._deliver(question, answer, writer)
            failed = isinstance(answer, IdentityAnswer) and answer.error is not None
            outcome = LookupOutcome.FAILED if failed else LookupOutcome.ANSWERED
            if is_plc(question.did):
                self._directory_outage.over()
        metrics.LOOKUPS.labels(question.kind, outcome).inc()
        metrics.LOOKUP_SECONDS.labels(question.kind).observe(time.monotonic() - began)

    async def _deliver(self, question: LeasedLookup, answer: LookupAnswer, writer: Writer) -> None:
        did = question.did
        topic, partition = self._topics.name(Topic.BACKFILL), self._topics.partition_of(did)
        await writer.write(OutRecord(topic, partition, did.encode(), backfill.encode(answer)))
        async with self._database.transaction() as connection:
            closed = await lookups.close(connection, question)
        if not closed:
            self._bell.set()

    async def _defer(self, question: LeasedLookup, unavailable: HostUnavailable) -> None:
        """Come back when the host may be asked again; some later than others."""
        delay = unavailable.seconds * random.uniform(1.0, 1.5)  # noqa: S311 - jitter
        async with self._database.transaction() as connection:
            await lookups.defer(connection, question, delay, printable(unavailable))

    async def _postpone(self, question: LeasedLookup, inconclusive: Inconclusive) -> None:
        delay = backoff(question.attempts + 1, _LONGEST_PAUSE)
        _log.info("lookup_unclear", did=question.did, kind=question.kind, error=str(inconclusive))
        async with self._database.transaction() as connection:
            await lookups.postpone(connection, question, delay, printable(inconclusive))

    def _note_error(self, question: LeasedLookup, unavailable: HostUnavailable) -> None:
        if not isinstance(unavailable.__cause__, HostError):
            return
        metrics.WAITS.labels(Service.PLC if question.at_directory else Service.PDS).inc()
        if question.at_directory:
            self._directory_outage.again(unavailable)
