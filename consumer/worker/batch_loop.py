"""Working on a lane from what Postgres holds, until told to stop or something breaks.

Each round is read, decoded and verified outside of any transaction, and then posted in one.
What interrupts the rounds: a break in the continuity of the firehose (every repo of the lane is
doubted before the frame behind the break is taken), other wanted collections than last time,
and inputs that killed their worker (``stalls``).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace

import structlog

from consumer import metrics
from consumer.backfill import LookupKind
from consumer.errors import Reason, Refused
from consumer.events.envelope import Origin, Source
from consumer.kafka.reader import OffsetExpired
from consumer.metrics import BatchStep
from consumer.state.inputs import Lost, ScopeChanged
from consumer.store import identities, repos
from consumer.store.database import Database
from consumer.verify.frames import CommitFrame, SyncFrame
from consumer.worker import intake, report
from consumer.worker.batch_reader import Batch, BatchReader, MalformedRecord
from consumer.worker.cache import LaneCache
from consumer.worker.incoming import IncomingFrame, follows, origin_of
from consumer.worker.intake import AccountFrames, Rules
from consumer.worker.plan import Plan
from consumer.worker.poison import PoisonGuard
from consumer.worker.report import Stopwatch
from consumer.worker.transaction import BatchTransactions
from procedures import times

_IDLE = 0.5  # seconds between looks at the stop event
_PORTION = 16  # frames read or verified at a stretch; then other tasks run
_STALLED = Refused(Reason.STALLED, "every worker that tried it died")

_log = structlog.get_logger()

Read = tuple[IncomingFrame, AccountFrames | Refused]


@dataclass(slots=True)
class BatchLoop:
    """The rounds of one lane."""

    transactions: BatchTransactions
    reader: BatchReader
    cache: LaneCache
    rules: Rules
    database: Database
    guard: PoisonGuard

    async def run(self, stop: asyncio.Event) -> None:
        """Work until told to stop, or until the position was moved by hand.

        Raises ``LaneLost``, ``Transient`` or ``Fatal``; the session is over then.
        """
        await self._match_scope()
        await self._ask_again(self.transactions.lane.backfill_offset)
        try:
            while not stop.is_set():
                await self._round()
        except OffsetExpired as lost:
            await self._skip(lost)

    async def _round(self) -> None:
        watch = Stopwatch()
        took = await self._unbroken(await self._take())
        if not took:
            metrics.WORKER_LAG.settled(self.transactions.lane.lane)
            await self.reader.wait(_IDLE)
            return
        await self._note_crashes(took)
        watch.lap(BatchStep.READ)
        plan = self._plan()
        await self._fill(plan, took)
        watch.lap(BatchStep.VERIFY)
        await self.transactions.delete_in_batches(planned.input for planned in plan.inputs)
        outcome = await self.transactions.commit(plan, watch)
        watch.stop()
        report.planned(plan, took)
        report.decided(plan, outcome.batch_state, outcome.rejections)
        self._report_lag(took)

    async def _take(self) -> Batch:
        if self.guard.quarantined is not None or self.guard.alone:
            return await self.reader.take_one(self.guard.quarantined)
        return await self.reader.take()

    def _plan(self) -> Plan:
        lane = replace(self.transactions.lane, scope=self.rules.policy.digest)
        return Plan(lane, self.cache, self.rules, time.time())

    async def _note_crashes(self, took: Batch) -> None:
        count = self.guard.before(took.source)
        if count is not None:
            metrics.STALLS.inc()
            _log.warning("after_a_crash", lane=self.transactions.lane.lane, stalls=count)
            await self.transactions.note_stalls(count)

    def _report_lag(self, took: Batch) -> None:
        lane, newest = self.transactions.lane.lane, took.live[-1] if took.live else None
        if self.reader.drained or not isinstance(newest, IncomingFrame):
            metrics.WORKER_LAG.settled(lane)
        else:
            metrics.WORKER_LAG.since(newest.log_time / 1000, lane)

    # -- from a round to a plan --------------------------------------------------------

    async def _fill(self, plan: Plan, took: Batch) -> None:
        """Decode, learn what is known of the accounts, and decide input by input."""
        quarantined = self.guard.quarantined is not None
        live = [a for a in took.live if isinstance(a, IncomingFrame)]
        frames = await self._read([*live, *took.parked], quarantined=quarantined)
        await self._learn(frames.values())
        for number, arrival in enumerate(took.live):
            if isinstance(arrival, MalformedRecord):
                plan.malformed(arrival.record, arrival.refused)
            else:
                plan.frame(*frames[arrival.offset])
            await _breathe(number)
        for record in took.messages:
            plan.message(record, _STALLED if quarantined else None)
        await self._unpark(plan, [frames[arrival.offset] for arrival in took.parked])
        plan.position = replace(plan.position, stalls=self.guard.after())

    async def _unpark(self, plan: Plan, frames: Iterable[Read]) -> None:
        blocked: set[str] = set()
        for number, (arrival, frame) in enumerate(frames):
            if arrival.key not in blocked and not plan.parked_frame(arrival, frame):
                blocked.add(arrival.key)
            await _breathe(number)

    async def _read(
        self, arrivals: Iterable[IncomingFrame], *, quarantined: bool
    ) -> dict[int, Read]:
        """Return the decoded frames by offset."""
        frames: dict[int, Read] = {}
        for number, arrival in enumerate(arrivals):
            frames[arrival.offset] = arrival, _STALLED if quarantined else self._decode(arrival)
            await _breathe(number)
        return frames

    def _decode(self, arrival: IncomingFrame) -> AccountFrames | Refused:
        try:
            return intake.read(arrival, self.rules.frame)
        except Refused as refused:
            return refused

    async def _learn(self, frames: Iterable[Read]) -> None:
        """Load into memory what the frames' accounts need and memory does not have."""
        policy, cache = self.rules.policy, self.cache
        uncertain: set[str] = set()
        signed: set[str] = set()
        for arrival, frame in frames:
            did = arrival.key
            if isinstance(frame, Refused):
                if intake.is_account(did):
                    uncertain.add(did)
            elif isinstance(frame, CommitFrame | SyncFrame):
                if intake.must_be_known(frame, policy):
                    uncertain.add(did)
                if cache.identities.get(did) is None:
                    signed.add(did)
        await self._load({did for did in uncertain if did not in cache.tracked}, signed)

    async def _load(self, uncertain: set[str], signed: set[str]) -> None:
        if not (uncertain or signed):
            return
        async with self.database.transaction() as connection:
            tracked, queues = self.cache.tracked, self.cache.queues
            if uncertain:
                for did in await repos.known(connection, list(uncertain)):
                    self.cache.track(did)
            wanted = [d for d in signed if d not in uncertain or d in tracked or d in queues]
            if wanted:
                for identity in await identities.read(connection, wanted):
                    self.cache.learn(identity)

    # -- what interrupts the rounds ----------------------------------------------------

    async def _unbroken(self, took: Batch) -> Batch:
        """Return ``took`` up to the first break; mark the lane for resync if that comes first."""
        lane = self.transactions.lane
        epoch, last_seq = lane.epoch, lane.last_seq
        for number, arrival in enumerate(took.live):
            if isinstance(arrival, MalformedRecord):
                continue
            if not follows(arrival, epoch, last_seq):
                if number == 0:
                    await self._lost_before(arrival)
                    return await self._unbroken(took)
                self.reader.put_back(took.live[number:])
                return replace(took, live=took.live[:number])
            epoch, last_seq = arrival.epoch, arrival.seq
        return took

    async def _lost_before(self, arrival: IncomingFrame) -> None:
        lane, origin = self.transactions.lane, origin_of(arrival, None)
        then = replace(lane, epoch=arrival.epoch, last_seq=arrival.prev_seq or 0)
        count = await self.transactions.mark_for_resync(lambda did: Lost(did, origin), then)
        _log.warning(
            "loss_window",
            lane=lane.lane,
            epoch=arrival.epoch,
            epoch_before=lane.epoch,
            seq=arrival.seq,
            expected_after=lane.last_seq,
            repos=count,
        )

    async def _skip(self, lost: OffsetExpired) -> None:
        """Go on at the oldest record that is still there."""
        lane = self.transactions.lane
        _log.warning("retention_has_passed_us", lane=lane.lane, error=str(lost))
        if lost.partition == self.reader.buffer.backfill:
            await self._ask_again(lost.earliest)
            return
        origin = Origin(Source.FIREHOSE, lane.last_seq, times.to_text(time.time()), None)
        then = replace(lane, firehose_offset=lost.earliest, last_seq=0)
        await self.transactions.mark_for_resync(lambda did: Lost(did, origin), then)

    async def _ask_again(self, backfill_offset: int) -> None:
        """Ask about all accounts whose frames wait: an answer may have been lost."""
        plan = self._plan()
        for did, queue in self.cache.queues.items():
            if not queue.ready:
                plan.look_up(did, LookupKind.IDENTITY)
        if plan.lookups or backfill_offset != plan.position.backfill_offset:
            plan.position = replace(plan.position, backfill_offset=backfill_offset)
            await self.transactions.commit(plan, Stopwatch())

    async def _match_scope(self) -> None:
        """Mark every repo for resync if other collections were wanted when the lane last moved."""
        lane, digest = self.transactions.lane, self.rules.policy.digest
        if lane.scope is None or lane.scope == digest:
            return
        origin = Origin(Source.BACKFILL, lane.last_seq, times.to_text(time.time()), None)
        then = replace(lane, scope=digest)
        count = await self.transactions.mark_for_resync(lambda did: ScopeChanged(did, origin), then)
        _log.warning("scope_changed", lane=lane.lane, repos=count)


async def _breathe(number: int) -> None:
    """Let other tasks run now and then."""
    if number % _PORTION == _PORTION - 1:
        await asyncio.sleep(0)
