"""The operation pool: operations are claimed, attempted, and left to the worker or given back.

Each type of operation has slots of its own, so that a refresh of one record does not wait behind
downloads; which operations get them is decided in ``consumer.fetch.slots``.  Operations at a busy
host are passed over and take no slot.  Leases are extended while attempts run.  An operation that
is cancelled, or whose lease has expired, has its attempt cancelled.
"""

from __future__ import annotations

import math
import random
import time
from collections import deque
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
from consumer.fetch.slots import MOST, FreeSlots
from consumer.state.accounts import AccountRules
from consumer.store import lookups
from consumer.store.database import Connection, Database
from consumer.store.operations import claims
from consumer.store.operations.claims import Claim
from procedures.failures import Failure
from procedures.operations import Phase, Type
from procedures.retries import RetryPolicy

RULES = LeaseRules(claims.CHANNEL, poll=10.0, drain=3.0, return_failed=False)

_WORKER_SECONDS = 0.1
_CROWDED = 4  # the part of the slots that is used while hosts turn attempts away: a quarter

_log = structlog.get_logger()


@dataclass(eq=False, slots=True)
class Attempt:
    """A running attempt; ``progress`` is what the next heartbeat writes to Postgres.

    ``host``: where it was known to go, empty without.  Progress: the phase, percent done, the
    number of records if known.
    """

    claim: Claim
    host: str = ""
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


class _Ended:
    """Attempts that have ended well, until it is written.

    The worker often ends an injected operation within moments.  So that one is written only
    after ``_WORKER_SECONDS``, and not at all if the worker was faster.
    """

    def __init__(self) -> None:
        self._in_step: list[Claim] = []
        self._injected: deque[tuple[float, Claim, int]] = deque()
        self._writing = (0, 0)

    def add(self, claim: Claim, offset: int | None) -> None:
        """Note an end: behind which offset everything is injected, None if it was in step."""
        if offset is None:
            self._in_step.append(claim)
        else:
            self._injected.append((time.monotonic() + _WORKER_SECONDS, claim, offset))

    async def write(self, connection: Connection, *, everything: bool = False) -> float | None:
        """Write what is to be written; return the seconds until there is more, None without.

        ``written`` follows when the transaction is committed.
        """
        now = math.inf if everything else time.monotonic()
        ripe = [(claim, offset) for at, claim, offset in self._injected if at <= now]
        if ripe:
            await claims.injected(connection, ripe)
        if self._in_step:
            await claims.in_step(connection, [claim.lease for claim in self._in_step])
        self._writing = len(self._in_step), len(ripe)
        left = list(self._injected)[len(ripe) :]
        return left[0][0] - now if left else None

    def written(self) -> None:
        """Forget what the last call of ``write`` has written."""
        in_step, injected = self._writing
        del self._in_step[:in_step]
        for _ in range(injected):
            self._injected.popleft()


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
        self._ended = _Ended()

    async def lease(
        self, running: Collection[Attempt], start: Callable[[Attempt], None]
    ) -> NextLook:
        """Write what has ended, and claim what fits into the free slots of each type."""
        running_now = [(attempt.claim.operation, attempt.host) for attempt in running]
        free = FreeSlots(self._slots_now(), running_now, self._hosts.room)
        async with self._database.transaction() as connection:
            waits = await self._ended.write(connection)
            claimed: list[Attempt] = []
            for spare in (False, True):
                claimed += await self._claim(connection, free, spare=spare)
            due = await claims.next_due(connection)
        self._ended.written()
        for attempt in claimed:
            start(attempt)
        times = [seconds for seconds in (due, waits) if seconds is not None]
        return NextLook(min(times, default=None), after_each=True)  # a host may be less busy, too

    def _slots_now(self) -> Mapping[Type, int]:
        """Return the slots of each type; for syncs fewer while many of them go to one host.

        Where an operation goes is often found out by its attempt alone.
        """
        if not self._hosts.crowded:
            return self._slots
        return {**self._slots, Type.DID_SYNC: max(1, self._slots[Type.DID_SYNC] // _CROWDED)}

    async def _claim(
        self, connection: Connection, free: FreeSlots, *, spare: bool
    ) -> list[Attempt]:
        attempts: list[Attempt] = []
        while wanted := free.wanted(spare=spare):
            busy = [*self._hosts.busy(), *free.full()]
            found = await claims.due(connection, wanted, most=MOST, busy=busy)
            taken = free.take(found, spare=spare)
            if not taken:
                break
            hosts = {each.id: each.host for each in taken}
            claimed = await claims.claim(connection, list(hosts), self._lease_seconds)
            attempts += [Attempt(claim, hosts[claim.operation.id]) for claim in claimed]
        return attempts

    async def write_ended(self) -> None:
        """Write what has ended."""
        async with self._database.transaction() as connection:
            await self._ended.write(connection, everything=True)
        self._ended.written()

    async def handle(self, attempt: Attempt) -> bool:
        """Attempt the operation; the next look writes its result to Postgres."""
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
        self._ended.add(claim, offset)

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
