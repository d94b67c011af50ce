"""The lookup pool: answers the workers' lookups, so that no lane waits for the network.

A lookup is a row of ``lookups``.  It is leased, so that another fetcher gets it if this one
dies; answered outside of any transaction; the answer goes to ``chive.backfill``; only then is
the row deleted, unless the lookup was requested again meanwhile.  So an answer may be repeated,
and is never lost.

A host that is unavailable defers the lookup, which costs it no attempt.  An inconclusive answer
counts as an attempt and postpones it.  The waits are rules of ``procedures.retries``.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Collection, Sequence

import structlog

from consumer import backfill, metrics
from consumer.backfill import AccountAnswer, Cause, IdentityAnswer, LookupKind
from consumer.fetch.answers import Answers, LookupAnswer
from consumer.fetch.documents import is_plc
from consumer.fetch.failed import printable
from consumer.fetch.hosts import HostUnavailable
from consumer.fetch.http import HostError
from consumer.fetch.identity import Inconclusive
from consumer.fetch.leasing import LeaseRules, NextLook
from consumer.kafka.topics import Topic, Topics
from consumer.kafka.transaction import OutRecord
from consumer.kafka.writer import Writer
from consumer.metrics.labels import LookupOutcome, Service
from consumer.runtime.logs import Outage
from consumer.store import answers, lookups
from consumer.store.database import Database
from consumer.store.rows import LeasedLookup
from procedures.retries import RetryPolicy

RULES = LeaseRules(lookups.CHANNEL, poll=15.0, drain=4.0, return_failed=True)

# The hosts of accounts may be slow: they leave slots for the directory.
_SLOTS, _HOST_SLOTS = 64, 48

_log = structlog.get_logger()


class LookupPool:
    """Up to ``_SLOTS`` lookups at a time, ``_HOST_SLOTS`` of them at hosts of accounts.

    ``directory_outage`` reports when the PLC directory is away and when it is back.  Each is leased
    for ``lease`` seconds, and again while it is answered.
    """

    def __init__(
        self,
        writer: Writer,
        topics: Topics,
        database: Database,
        answers: Answers,
        directory_outage: Outage,
        retries: RetryPolicy,
        lease: float,
    ) -> None:
        self._writer = writer
        self._topics = topics
        self._database = database
        self._answers = answers
        self._directory_outage = directory_outage
        self._retries = retries
        self._lease_seconds = lease

    async def lease(
        self, running: Collection[LeasedLookup], start: Callable[[LeasedLookup], None]
    ) -> NextLook:
        """Lease what fits into the free slots."""
        free = _SLOTS - len(running)
        at_hosts = sum(not lookup.at_directory for lookup in running)
        for_hosts = min(free, _HOST_SLOTS - at_hosts)
        async with self._database.transaction() as connection:
            seconds = self._lease_seconds
            others = await lookups.lease(connection, for_hosts, seconds, directory=False)
            left = free - len(others)
            plain = await lookups.lease(connection, left, seconds, directory=True)
            due = await lookups.next_due(connection)
        for lookup in (*others, *plain):
            start(lookup)
        full = len(others) == for_hosts or len(plain) == left
        return NextLook(None if full else due, after_each=full)

    async def handle(self, lookup: LeasedLookup) -> bool:
        """Answer one lookup; tell whether it is open again."""
        began = time.monotonic()
        with metrics.LOOKUPS_RUNNING.track_inprogress():
            outcome, reopened = await self._attempt(lookup)
        metrics.LOOKUPS.labels(lookup.kind, outcome).inc()
        metrics.LOOKUP_SECONDS.labels(lookup.kind).observe(time.monotonic() - began)
        return reopened

    async def extend(self, running: Sequence[LeasedLookup]) -> Collection[LeasedLookup]:
        """Extend the leases; all of them go on, since an answer that comes twice does no harm."""
        async with self._database.transaction() as connection:
            await lookups.extend(connection, running, self._lease_seconds)
        return running

    async def give_back(self, unfinished: Sequence[LeasedLookup]) -> None:
        """Make lookups due at once; the cancelled attempts do not count."""
        async with self._database.transaction() as connection:
            for lookup in unfinished:
                await lookups.defer(connection, lookup, 0.0, "the fetcher stopped")

    async def write_ended(self) -> None:
        """Do nothing: an answer is written when it is known."""

    async def _attempt(self, lookup: LeasedLookup) -> tuple[LookupOutcome, bool]:
        try:
            answer = await self._answers.to(lookup)
        except HostUnavailable as unavailable:
            self._count_outage(lookup, unavailable)
            await self._defer(lookup, unavailable)
            return LookupOutcome.RETRIED, True
        except Inconclusive as inconclusive:
            await self._postpone(lookup, inconclusive)
            return LookupOutcome.RETRIED, True
        closed = await self._deliver(lookup, answer)
        if is_plc(lookup.did):
            self._directory_outage.over()
        failed = isinstance(answer, IdentityAnswer) and answer.error is not None
        return LookupOutcome.FAILED if failed else LookupOutcome.ANSWERED, not closed

    async def _deliver(self, lookup: LeasedLookup, answer: LookupAnswer) -> bool:
        """Write the answer to Kafka, then close the lookup; False: it was requested again."""
        did = lookup.did
        topic, partition = self._topics.name(Topic.BACKFILL), self._topics.partition_of(did)
        await self._writer.write(OutRecord(topic, partition, did.encode(), backfill.encode(answer)))
        async with self._database.transaction() as connection:
            if isinstance(answer, AccountAnswer):
                await answers.note(connection, answer)
            return await lookups.close(connection, lookup)

    async def _defer(self, lookup: LeasedLookup, unavailable: HostUnavailable) -> None:
        """Make the lookup due when the host may be available; some later than others."""
        delay = self._retries.deferred(unavailable.seconds, random.random())  # noqa: S311
        async with self._database.transaction() as connection:
            await lookups.defer(connection, lookup, delay, printable(unavailable))

    async def _postpone(self, lookup: LeasedLookup, inconclusive: Inconclusive) -> None:
        backoff = self._retries.lookup
        if lookup.kind == LookupKind.ACCOUNT and lookup.cause != Cause.FRAME:
            backoff = self._retries.renewal  # a sign is not urgent, and its host may never answer
        delay = backoff.wait(lookup.attempts + 1, random.random())  # noqa: S311
        _log.info(
            "lookup_postponed",
            did=lookup.did,
            kind=lookup.kind,
            seconds=round(delay, 1),
            error=str(inconclusive),
        )
        async with self._database.transaction() as connection:
            await lookups.postpone(connection, lookup, delay, printable(inconclusive))

    def _count_outage(self, lookup: LeasedLookup, unavailable: HostUnavailable) -> None:
        if not isinstance(unavailable.__cause__, HostError):
            return  # nothing was sent
        metrics.WAITS.labels(Service.PLC if lookup.at_directory else Service.PDS).inc()
        if lookup.at_directory:
            self._directory_outage.again(unavailable)
