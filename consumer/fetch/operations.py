"""The operation pool: operations are claimed, attempted, and left to the worker or given back.

Each type of operation has slots of its own, so that a refresh of one record does not wait behind
downloads.  What a person requested is claimed first, and one slot of each type is kept for it;
operations at a busy host are passed over and take no slot.  What was requested with many others
takes more than half of the slots only where nothing else is due.  Leases are extended while
attempts run.  An operation that is cancelled, or whose lease has expired, has its attempt
cancelled.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import structlog

from consumer import metrics
from consumer.backfill import Cause
from consumer.fetch.attempts import Attempts
from consumer.fetch.failed import FetchFailed, NotAttempted
from consumer.fetch.hosts import Hosts
from consumer.fetch.leasing import LeaseRules, NextLook
from consumer.fetch.refusals import ACCOUNT_FAILURES
from consumer.state.accounts import AccountRules
from consumer.store import lookups
from consumer.store.database import Database
from consumer.store.operations import claims
from consumer.store.operations.claims import Claim
from procedures.failures import Failure
from procedures.operations import Operation, Phase, Type
from procedures.retries import RetryPolicy

RULES = LeaseRules(claims.CHANNEL, poll=10.0, drain=3.0, return_failed=False)

_log = structlog.get_logger()


@dataclass(eq=False, slots=True)
class Attempt:
    """A running attempt; ``progress`` is what the next heartbeat writes to Postgres.

    Progress: the phase, percent done, the number of records if known.
    """

    claim: Claim
    progress: tuple[Phase, int, int | None] | None = None
    phase: Phase = Phase.RESOLVING
    since: float = field(default_factory=time.monotonic)

    def report(self, phase: Phase, percent: int, records: int | None) -> None:
        """Keep the progress for the next heartbeat."""
        self.progress = (phase, percent, records)
        if phase is not self.phase:
            self.measure()
            self.phase, self.since = phase, time.monotonic()

    def measure(self) -> None:
        """Observe the duration of the phase that ends now."""
        seconds = time.monotonic() - self.since
        metrics.PHASE_SECONDS.labels(self.claim.operation.type, self.phase).observe(seconds)


class OperationPool:
    """Attempts at operations, up to ``slots`` of each type at a time.

    Each is leased for ``lease`` seconds, and again while it is under way.
    """

    def __init__(
        self,
        attempts: Attempts,
        database: Database,
        hosts: Hosts,
        slots: Mapping[Type, int],
        retries: RetryPolicy,
        accounts: AccountRules,
        lease: float,
    ) -> None:
        self._attempts = attempts
        self._database = database
        self._hosts = hosts
        self._slots = slots
        self._retries = retries
        self._accounts = accounts
        self._lease_seconds = lease

    async def lease(
        self, running: Collection[Attempt], start: Callable[[Attempt], None]
    ) -> NextLook:
        """Claim what fits into the free slots of each type."""
        for kind, slots in self._slots.items():
            while _taken(running, kind) < slots:
                claim = await self._claim(running, kind, slots)
                if claim is None:
                    break
                start(Attempt(claim))
        async with self._database.transaction() as connection:
            due = await claims.next_due(connection)
        return NextLook(due, after_each=True)  # a host may be less busy, too

    async def _claim(self, running: Collection[Attempt], kind: Type, slots: int) -> Claim | None:
        """Claim what is next in order for a free slot of ``kind``, if it may have that one."""
        place = _taken(running, kind, _is_later) < max(1, slots - 1)
        share = _taken(running, kind, _is_behind) < max(1, slots // 2)
        busy = [] if kind is Type.FORGET else self._hosts.busy()  # it asks no host
        claim = partial(claims.claim, busy=busy, automatic=place)
        async with self._database.transaction() as connection:
            found = await claim(connection, kind, self._lease_seconds, behind=place and share)
            if found is None and place and not share:  # nobody else has use for it
                found = await claim(connection, kind, self._lease_seconds, behind=True)
        return found

    async def handle(self, attempt: Attempt) -> bool:
        """Attempt the operation; its result is in Postgres then."""
        kind = attempt.claim.operation.type
        try:
            with metrics.ATTEMPTS_RUNNING.labels(kind).track_inprogress():
                await self._attempt(attempt)
        finally:
            attempt.measure()
        return False

    async def extend(self, running: Sequence[Attempt]) -> Collection[Attempt]:
        """Extend the leases and write the progress; return the attempts that still hold theirs."""
        async with self._database.transaction() as connection:
            leases = [attempt.claim.lease for attempt in running]
            held = await claims.extend(connection, leases, self._lease_seconds)
            ours = [attempt for attempt in running if attempt.claim.lease in held]
            for attempt in ours:
                if attempt.progress is not None:
                    progress, attempt.progress = attempt.progress, None
                    await claims.note(connection, attempt.claim.lease, *progress)
        return ours

    async def give_back(self, unfinished: Sequence[Attempt]) -> None:
        """Queue the operations again."""
        async with self._database.transaction() as connection:
            await claims.give_back(connection, [attempt.claim.lease for attempt in unfinished])

    async def _attempt(self, attempt: Attempt) -> None:
        claim, kind = attempt.claim, attempt.claim.operation.type
        try:
            offset = await self._attempts.carry_out(claim, attempt.report)
        except FetchFailed as failed:
            await self._end_failed(claim, failed)
            return
        outcome = metrics.IN_STEP if offset is None else metrics.INJECTED
        metrics.ATTEMPTS.labels(kind, outcome).inc()
        async with self._database.transaction() as connection:
            if offset is None:
                await claims.in_step(connection, claim.lease)
            else:
                await claims.injected(connection, claim.lease, offset)

    async def _end_failed(self, claim: Claim, failed: FetchFailed) -> None:
        operation, failure, detail = claim.operation, failed.failure, failed.detail
        async with self._database.transaction() as connection:
            if isinstance(failed, NotAttempted):
                seconds = self._retries.deferred(failed.seconds, random.random())  # noqa: S311
                put_off = claims.put_off
                if failed.away:
                    put_off = partial(claims.wait_for_host, policy=self._retries)
                await put_off(connection, claim.lease, failure, detail, seconds, failed.host)
                return
            ended = await claims.failed(
                connection, claim.lease, failure, detail, failed.retry_after, self._retries
            )
            if ended is not None and failure in ACCOUNT_FAILURES and operation.did:
                unattended = operation.automatic or operation.check_first
                cause = cause_of(failure, automatic=unattended)
                await lookups.ask(connection, [operation.did], cause, self._accounts)
        metrics.ATTEMPTS.labels(operation.type, failure).inc()
        _log.info(
            "attempt_failed",
            operation=operation.id,
            did=operation.did,
            attempt=operation.attempts,
            failure=failure.value,
            detail=detail,
        )


def cause_of(failure: Failure, *, automatic: bool) -> Cause:
    """Return why an attempt that failed so makes the account's status a question."""
    if not automatic:
        return Cause.PERSON
    return Cause.DIRECTORY if failure is Failure.DID_NOT_FOUND else Cause.REFUSAL


def _taken(
    running: Collection[Attempt], kind: Type, which: Callable[[Operation], bool] = lambda _: True
) -> int:
    """Return how many slots of ``kind`` are taken by such operations."""
    operations = [attempt.claim.operation for attempt in running]
    return sum(each.type is kind and which(each) for each in operations)


def _is_later(operation: Operation) -> bool:
    return operation.automatic or operation.behind


def _is_behind(operation: Operation) -> bool:
    return operation.behind
