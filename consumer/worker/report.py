"""What a batch adds to the metrics."""

from __future__ import annotations

import time
from collections import Counter

import structlog

from consumer import metrics
from consumer.backfill import LookupKind
from consumer.bounded import BoundedMap
from consumer.errors import Reason
from consumer.events.envelope import AccountEvent, Event, IdentityEvent, RecordEvent, SyncEvent
from consumer.metrics.labels import BatchStep, Stage
from consumer.state.accounts import Judgement, Verdict
from consumer.state.batch_state import BatchState
from consumer.state.effects import OperationEffect, Rejection, SyncReason
from consumer.state.inputs import AccountLearnt, CommitSeen
from consumer.worker.batch_reader import Batch
from consumer.worker.incoming import IncomingFrame
from consumer.worker.plan import Plan

_TYPES: dict[type[Event], str] = {
    RecordEvent: "record",
    AccountEvent: "account",
    IdentityEvent: "identity",
    SyncEvent: "sync",
}

_TELL_SECONDS = 3_600.0
_told: BoundedMap[str, float] = BoundedMap(1_000)

_log = structlog.get_logger()

metrics.closed(metrics.DESYNCHRONIZED, SyncReason)
metrics.closed(metrics.ACCOUNT_ANSWERS, Verdict)


class Stopwatch:
    """Measures the steps of one batch, one after the other."""

    def __init__(self) -> None:
        self._began = self._lapped = time.perf_counter()

    def lap(self, step: BatchStep) -> None:
        """Note that ``step`` took the time since the last call."""
        now = time.perf_counter()
        metrics.BATCH_SECONDS.labels(step).observe(now - self._lapped)
        self._lapped = now

    def stop(self) -> None:
        """Note the time of the whole batch."""
        total = time.perf_counter() - self._began
        metrics.BATCH_SECONDS.labels(BatchStep.TOTAL).observe(total)


def planned(plan: Plan, batch: Batch) -> None:
    """Count what a committed batch took in."""
    metrics.BATCH_INPUTS.observe(plan.size)
    metrics.BATCH_BYTES.observe(batch.size)
    metrics.WORKER_INPUTS.labels("firehose").inc(len(batch.live))
    metrics.WORKER_INPUTS.labels("backfill").inc(len(batch.messages))
    verified = sum(isinstance(planned.input, CommitSeen) for planned in plan.inputs)
    metrics.COMMITS_VERIFIED.inc(verified)
    if plan.touched:
        metrics.PARKED.inc(len(plan.parks))
        metrics.UNPARKED.inc(plan.unparked)
        metrics.PARKED_FRAMES.labels(plan.lane).set(plan.cache.parked_frames())


def lag(lane: int, behind: Batch | None) -> None:
    """Note the age of the newest frame of ``behind``, None if no frame waits behind it."""
    newest = behind.live[-1] if behind is not None and behind.live else None
    if isinstance(newest, IncomingFrame):
        metrics.WORKER_LAG.since(newest.log_time / 1000, lane)
    else:
        metrics.WORKER_LAG.settled(lane)


def decided(plan: Plan, batch_state: BatchState, rejections: list[Rejection]) -> None:
    """Count what a committed batch decided."""
    events = Counter((type(event), event.origin.source) for event in batch_state.events)
    for (kind, source), count in events.items():
        metrics.EVENTS.labels(_TYPES[kind], source).inc(count)
    refused: Counter[Reason] = plan.refused + Counter(one.reason for one in rejections)
    for reason, count in refused.items():
        metrics.REFUSED.labels(reason, Stage.WORKER).inc(count)
    for one in batch_state.applied:
        if one.hint_missed and one.effect is OperationEffect.COMPLETED:
            _log.warning("announced_commit_missed", did=one.did, operation=one.operation)
    for learnt, judgement in batch_state.judgements:
        _judged(learnt, judgement)
    causes = Counter(one.cause for one in batch_state.lookups if one.kind is LookupKind.ACCOUNT)
    for cause, count in causes.items():
        metrics.ACCOUNT_QUESTIONS.labels(cause).inc(count)
    for trigger, count in batch_state.triggers.items():
        metrics.DESYNCHRONIZED.labels(trigger).inc(count)


def _judged(learnt: AccountLearnt, judgement: Judgement) -> None:
    """Count what an answer about an account did, and log what it changes or contradicts."""
    answer, verdict = learnt.answer, judgement.verdict
    metrics.ACCOUNT_ANSWERS.labels(verdict).inc()
    log = _log.bind(
        did=answer.did,
        says=answer.status,
        source=answer.source,
        host=answer.host,
        name=answer.name,
        cause=answer.cause,
        verdict=verdict.value,
    )
    if judgement.overruled is not None:
        log.warning("account_disputed", relay_says=judgement.overruled)
    elif verdict not in (Verdict.NOTHING, Verdict.OVERTAKEN):
        log.info("account_answered")


def held(host: str, gone: int, tracked: int) -> None:
    """Tell the operator, once an hour, that the deletions of a host's accounts wait."""
    now = time.monotonic()
    if now < (_told.get(host) or 0.0):
        return
    _told.put(host, now + _TELL_SECONDS)
    _log.warning(
        "deletions_held",
        host=host,
        gone=gone,
        tracked=tracked,
        what_to_do="if it is true, run for each of them: consumer sync DID",
    )
