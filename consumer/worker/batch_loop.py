"""The batch loop of one lane: from what Postgres holds, until told to stop or something breaks.

The loop takes a batch, reads its frames, loads what must be known of their accounts, plans, and
writes the plan in one transaction.  Nothing is decoded or verified inside of that transaction.

Three things interrupt the loop:

- a loss window: every repo of the lane is marked for resync before the frame behind it is taken;
- other wanted collections than when the lane last moved: the repos read with them are marked;
- an input that crashed its worker (``poison``): inputs are taken one at a time.
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
from consumer.metrics.labels import BatchStep
from consumer.state.effects import Lookup
from consumer.store import identities, repos
from consumer.store.database import Database
from consumer.store.rows import Lane
from consumer.worker import report, verdicts
from consumer.worker.batch_reader import Batch, BatchReader
from consumer.worker.cache import LaneCache
from consumer.worker.decision import Together
from consumer.worker.incoming import EpochNotice, IncomingFrame, MalformedRecord, follows, origin_of
from consumer.worker.plan import Plan
from consumer.worker.poison import PoisonGuard
from consumer.worker.progress import Reporter
from consumer.worker.report import Stopwatch
from consumer.worker.transaction import BatchTransactions
from consumer.worker.turns import Turns
from consumer.worker.verdicts import ReadFrame, Rules, Unknown, unknown
from procedures import times

_IDLE = 30.0  # seconds without anything to do
_PORTION = 16  # frames read or verified at a stretch; then other tasks run
_QUARANTINED = Refused(Reason.STALLED, "every worker that tried it alone crashed")

_log = structlog.get_logger()


@dataclass(slots=True)
class BatchLoop:
    """The batches of one lane, one after the other."""

    transactions: BatchTransactions
    reader: BatchReader
    cache: LaneCache
    rules: Rules
    database: Database
    guard: PoisonGuard
    turns: Turns
    together: Together
    reporter: Reporter

    async def run(self, stop: asyncio.Event) -> None:
        """Work until told to stop, or until the position was moved past what retention deleted.

        Raises ``LaneLost``, ``Transient`` or ``Fatal``; the loop cannot be run again then.
        """
        await self._match_scope()
        await self._repeat_lookups(self.transactions.lane.backfill_offset)
        stopped = asyncio.ensure_future(stop.wait())
        stopped.add_done_callback(lambda _: self.reader.wake())
        try:
            while not stop.is_set():
                await self._next_batch()
        except OffsetExpired as expired:
            await self._skip(expired)
        finally:
            stopped.cancel()

    async def _next_batch(self) -> None:
        watch = Stopwatch()
        batch = await self._up_to_loss(await self._take())
        if batch.empty:
            if not (self.reporter.due and await self._report()):
                await self._idle()
            return
        async with self.turns.alone() if self.guard.alone else self.turns.together():
            await self._write_crash_count(batch)
            watch.lap(BatchStep.READ)
            plan = self._new_plan()
            with self.together.planning():
                await self._fill(plan, batch)
                if self.reporter.due:
                    await self.reporter.look(plan)
            watch.lap(BatchStep.VERIFY)
            await self.transactions.delete_in_batches(planned.input for planned in plan.inputs)
            outcome = await self.transactions.commit(plan, batch.size)
            watch.stop()
        self._said(plan)
        report.planned(plan, batch)
        report.decided(plan, outcome.batch_state, outcome.rejections)
        report.lag(plan.lane, None if self.reader.drained else batch)

    async def _take(self) -> Batch:
        guard = self.guard
        if guard.quarantined is not None or guard.alone:
            return await self.reader.take_one(guard.quarantined or guard.suspect)
        return await self.reader.take()

    async def _idle(self) -> None:
        report.lag(self.transactions.lane.lane, None)
        await self.reader.wait(min(_IDLE, self.reporter.rest))

    async def _report(self) -> bool:
        """Say how far the lane is while nothing comes; tell whether anything was to be said."""
        async with self.turns.alone() if self.guard.alone else self.turns.together():
            plan = self._new_plan()
            with self.together.planning():
                await self.reporter.look(plan)
            if plan.report is None:
                return False
            await self.transactions.commit(plan)
        self._said(plan)
        return True

    def _said(self, plan: Plan) -> None:
        if plan.report is not None:
            self.reporter.decided(plan.report)

    async def _write_crash_count(self, batch: Batch) -> None:
        """Write before the batch is tried what a successor must know if this worker crashes."""
        count = self.guard.before(batch.source)
        if count is not None:
            metrics.STALLS.inc()
            _log.warning("crash_counted", lane=self.transactions.lane.lane, crash_count=count)
            await self.transactions.write_crash_count(count)

    # -- from a batch to its plan ------------------------------------------------------

    def _new_plan(self) -> Plan:
        lane = replace(self.transactions.lane, scope=self.rules.policy.digest)
        return Plan(lane, self.cache, self.rules, time.time())

    async def _fill(self, plan: Plan, batch: Batch) -> None:
        """Read the frames, load what must be known of their accounts, and decide one by one."""
        refused = _QUARANTINED if self.guard.quarantined is not None else None
        live = await self._read((f for f in batch.live if isinstance(f, IncomingFrame)), refused)
        parked = await self._read(batch.parked, refused)
        await self._load(unknown([*live, *parked], self.cache))
        in_order = iter(live)
        for number, frame in enumerate(batch.live):
            if isinstance(frame, MalformedRecord):
                plan.malformed_record(frame)
            elif isinstance(frame, EpochNotice):
                plan.notice(frame)
            else:
                plan.frame(next(in_order))
            await _breathe(number)
        for record in batch.messages:
            plan.message(record, refused)
        for number, parked_frame in enumerate(parked):
            plan.parked_frame(parked_frame)
            await _breathe(number)
        plan.crash_count = self.guard.after()

    async def _read(
        self, frames: Iterable[IncomingFrame], refused: Refused | None
    ) -> list[ReadFrame]:
        found: list[ReadFrame] = []
        for number, frame in enumerate(frames):
            if refused is None:
                found.append(verdicts.read(frame, self.rules))
            else:
                found.append(verdicts.unread(frame, refused))
            await _breathe(number)
        return found

    async def _load(self, missing: Unknown) -> None:
        if not (missing.repos or missing.identities):
            return
        cache, repos_of = self.cache, missing.repos
        async with self.database.transaction() as connection:
            if repos_of:
                for did in await repos.known(connection, list(repos_of)):
                    cache.track(did)
            # What stays without a repo is dropped: its key is not needed.
            dids = [d for d in missing.identities if d not in repos_of or cache.account(d).counts]
            if dids:
                for identity in await identities.read(connection, dids):
                    cache.learn(identity)

    # -- what interrupts the batches ---------------------------------------------------

    async def _up_to_loss(self, batch: Batch) -> Batch:
        """Return ``batch`` up to the first loss window.

        If it begins behind one, the repos of the lane are marked for resync first.
        """
        lane = self.transactions.lane
        epoch, last_seq = lane.epoch, lane.last_seq
        for number, frame in enumerate(batch.live):
            if isinstance(frame, MalformedRecord):
                continue
            unbroken = (
                frame.epoch == epoch
                if isinstance(frame, EpochNotice)
                else follows(frame, epoch, last_seq)
            )
            if not unbroken:
                if number == 0:
                    await self._take_up_loss(frame)
                    return await self._up_to_loss(batch)
                self.reader.put_back(batch.live[number:])
                return replace(batch, live=batch.live[:number])
            if isinstance(frame, IncomingFrame):
                epoch, last_seq = frame.epoch, frame.seq
        return batch

    async def _take_up_loss(self, frame: IncomingFrame | EpochNotice) -> None:
        """Mark the repos of the lane for resync, and go on at ``frame``, behind a loss window."""
        lane = self.transactions.lane
        if isinstance(frame, EpochNotice):
            moment = times.to_text(frame.log_time / 1000)
            origin = Origin(Source.FIREHOSE, lane.last_seq, moment, frame.relay)
            seq, then = None, replace(lane, epoch=frame.epoch, last_seq=0)
        else:
            origin = origin_of(frame, None)
            seq, then = frame.seq, replace(lane, epoch=frame.epoch, last_seq=frame.prev_seq or 0)
        count = await self._mark_lost(origin, then)
        _log.warning(
            "loss_window_found",
            lane=lane.lane,
            epoch=frame.epoch,
            epoch_before=lane.epoch,
            seq=seq,
            expected_after=lane.last_seq,
            repos=count,
        )

    async def _skip(self, expired: OffsetExpired) -> None:
        """Go on at the oldest record that retention has left."""
        lane = self.transactions.lane
        _log.warning("offset_expired", lane=lane.lane, error=str(expired))
        if expired.partition == self.reader.backfill:
            await self._repeat_lookups(expired.earliest)
            return
        origin = Origin(Source.FIREHOSE, lane.last_seq, times.to_text(time.time()), None)
        then = replace(lane, firehose_offset=expired.earliest, last_seq=0)
        await self._mark_lost(origin, then)

    async def _mark_lost(self, origin: Origin, then: Lane) -> int:
        count = await self.transactions.mark_lost(origin, then)
        self.cache.doubt_parked()
        return count

    async def _repeat_lookups(self, backfill_offset: int) -> None:
        """Look all accounts up whose frames wait: an answer may have been lost.

        The backfill topic is read from ``backfill_offset`` on.
        """
        plan = self._new_plan()
        for did, queue in self.cache.queues.items():
            if not queue.ready:
                plan.look_up(Lookup(did, LookupKind.IDENTITY, 0, 0))
        if plan.lookups or backfill_offset != plan.backfill_offset:
            plan.backfill_offset = backfill_offset
            await self.transactions.commit(plan)

    async def _match_scope(self) -> None:
        """Mark the repos for which other collections were wanted before."""
        lane = self.transactions.lane
        if not self.rules.policy.is_other(lane.scope):
            return
        origin = Origin(Source.BACKFILL, lane.last_seq, times.to_text(time.time()), None)
        count = await self.transactions.match_scope(origin)
        if count:
            _log.warning("scope_changed", lane=lane.lane, repos=count)


async def _breathe(number: int) -> None:
    """Let other tasks run after every portion of frames."""
    if number % _PORTION == _PORTION - 1:
        await asyncio.sleep(0)
