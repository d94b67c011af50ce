"""One batch before its transaction: what came, and what is to become of it.  Pure.

A ``Plan`` takes frames and messages in order and keeps ``LaneCache`` in step.  It holds the inputs
for the batch state with where each came from, frames to park, parked frames that are decided,
lookups, identities, and dead letters.  The lane's ``position`` moves with every input.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from consumer import backfill
from consumer.backfill import AccountAnswer, Chunk, IdentityAnswer, LookupKind, Message, Proof
from consumer.dead_letters import DeadLetter, InputRecord, InputTopic
from consumer.errors import Reason, Refused
from consumer.events.envelope import Origin, Source
from consumer.state.effects import Lookup, Rejection
from consumer.state.inputs import AccountLearnt, ChunkSeen, IdentityLearnt, Input, ProofSeen
from consumer.store.rows import Identity, Lane, LookupRequest, ParkedFrame
from consumer.verify.frames import CommitFrame, SyncFrame
from consumer.worker import intake
from consumer.worker.cache import LaneCache
from consumer.worker.incoming import IncomingFrame, Record, to_parked
from consumer.worker.intake import NOBODY, Accept, AccountFrames, Drop, Known, Park, Queue, Rules
from procedures import times

_LOOK_UP_AGAIN = 3600.0  # seconds between background lookups about one DID
_MAX_TEXT = 2_048  # of what a DID document says


@dataclass(frozen=True, slots=True)
class Planned:
    """One input of the batch state, and where it came from."""

    input: Input
    arrival: IncomingFrame | None
    record: Record | None = None

    def dead_letter(self, rejection: Rejection, lane: int) -> DeadLetter:
        """Return the dead letter for an input of ``lane`` that was not applied."""
        reason, detail = rejection.reason, rejection.detail
        if self.arrival is not None:
            return dead_frame(self.arrival, lane, reason, detail)
        if self.record is None:
            raise ValueError("the input came neither from a frame nor from a record")
        return dead_record(InputTopic.BACKFILL, self.record, lane, reason, detail)


@dataclass(slots=True)
class Plan:
    """What one transaction will do; see the module."""

    position: Lane
    cache: LaneCache
    rules: Rules
    now: float
    inputs: list[Planned] = field(default_factory=list)
    parks: list[ParkedFrame] = field(default_factory=list)
    decided: dict[str, int] = field(default_factory=dict)  # parked frames: DID -> offset
    touched: set[str] = field(default_factory=set)  # DIDs whose parking changed
    lookups: dict[tuple[str, str], LookupRequest] = field(default_factory=dict)
    identities: dict[str, Identity] = field(default_factory=dict)
    dead: list[DeadLetter] = field(default_factory=list)
    refused: Counter[Reason] = field(default_factory=Counter)
    size: int = 0  # messages taken from topics and from the parked frames
    unparked: int = 0

    # -- frames ------------------------------------------------------------------------

    def frame(self, arrival: IncomingFrame, frame: AccountFrames | Refused) -> None:
        """Take a frame of the firehose, decoded, or why it could not be."""
        self._move_to(arrival)
        queue = self._queue(arrival.key)
        if not isinstance(frame, Refused):
            verdict = self._verdict(arrival, frame, queue)
        elif queue and intake.may_wait(frame, queue, self.rules):
            verdict = Park(look_up=False)
        else:
            verdict = self._unreadable(arrival, frame)
        if isinstance(verdict, Park):
            self._park(arrival, verdict)
        else:
            self._settle(arrival, verdict)

    def parked_frame(self, arrival: IncomingFrame, frame: AccountFrames | Refused) -> bool:
        """Try a parked frame again; False if it, and those behind it, must wait on."""
        self.size += 1
        did = arrival.key
        self.touched.add(did)
        if isinstance(frame, Refused):
            verdict: intake.Verdict = self._unreadable(arrival, frame)
        else:
            verdict = self._verdict(arrival, frame, NOBODY)
        if isinstance(verdict, Park):
            self.cache.queues[did].ready = False
            self.look_up(did, LookupKind.IDENTITY, delay=self.patience(did))
            return False
        self._unpark(arrival)
        self._settle(arrival, verdict)
        return True

    def malformed(self, record: Record, refused: Refused) -> None:
        """Take a record of the firehose that no tailer wrote."""
        self.size += 1
        self.position = replace(self.position, firehose_offset=record.offset + 1)
        self._refuse_record(InputTopic.FIREHOSE, record, refused)

    # -- messages of the fetcher -------------------------------------------------------

    def message(self, record: Record, refused: Refused | None = None) -> None:
        """Take a record of the backfill topic, or refuse it for the reason given."""
        self.size += 1
        self.position = replace(self.position, backfill_offset=record.offset + 1)
        try:
            if refused is not None:
                raise refused
            self._answer(record, _message_of(record))
        except Refused as why:
            self._refuse_record(InputTopic.BACKFILL, record, why)

    def _answer(self, record: Record, message: Message) -> None:
        match message:
            case IdentityAnswer():
                self._identity(message)
                learnt = IdentityLearnt(message, self._origin(record, Source.BACKFILL))
                self.inputs.append(Planned(learnt, None, record))
            case AccountAnswer():
                heard = AccountLearnt(message, self._origin(record, Source.ACCOUNT))
                self.inputs.append(Planned(heard, None, record))
            case Chunk():
                origin = self._origin(record, Source.BACKFILL, message.operation)
                self.inputs.append(Planned(ChunkSeen(message, origin), None, record))
            case Proof():
                origin = self._origin(record, Source.REFRESH, message.operation)
                self.inputs.append(Planned(ProofSeen(message, origin), None, record))

    def _identity(self, answer: IdentityAnswer) -> None:
        identity = Identity(
            answer.did,
            _clean(answer.signing_key),
            _clean(answer.pds),
            _clean(answer.handle),
            _clean(answer.error),
            answer.fetched_at,
        )
        self.cache.learn(identity)
        known = self.identities.get(answer.did)
        if known is None or known.fetched_at <= identity.fetched_at:
            self.identities[answer.did] = identity
        waiting = self.cache.queues.get(answer.did)
        if waiting is not None:
            waiting.ready = True
            self.touched.add(answer.did)

    def _origin(self, record: Record, source: Source, operation: str | None = None) -> Origin:
        time = times.to_text(record.timestamp / 1000)
        return Origin(source, self.position.last_seq, time, None, operation)

    # -- lookups ---------------------------------------------------------------------

    def look_up(
        self, did: str, kind: LookupKind, *, epoch: int = 0, seq: int = 0, delay: float = 0.0
    ) -> None:
        """Ask the fetchers about ``did``; the earliest wish of the batch counts."""
        known = self.lookups.get((did, kind))
        if known is not None:
            epoch, seq = max((epoch, seq), (known.epoch, known.seq))
            delay = min(delay, known.delay)
        lookup = LookupRequest(did, kind, self.position.lane, epoch, seq, delay)
        self.lookups[did, kind] = lookup

    def look_up_wanted(self, wanted: Iterable[Lookup]) -> None:
        """Ask what applying the inputs has raised."""
        for one in wanted:
            delay = self.patience(one.did) if one.kind is LookupKind.IDENTITY else 0.0
            self.look_up(one.did, one.kind, epoch=one.epoch, seq=one.seq, delay=delay)

    def pds_of(self, did: str) -> str | None:
        """Return the host of ``did``, if it is known."""
        identity = self.cache.identities.get(did)
        return identity.pds if identity else None

    def patience(self, did: str) -> float:
        """Return the seconds to wait before the identity of ``did`` may be fetched again."""
        identity = self.cache.identities.get(did)
        if identity is None:
            return 0.0
        return max(0.0, identity.fetched_at + self.rules.refresh_interval - self.now)

    # -- inside ------------------------------------------------------------------------

    def _move_to(self, arrival: IncomingFrame) -> None:
        self.size += 1
        self.position = replace(
            self.position,
            firehose_offset=arrival.offset + 1,
            epoch=arrival.epoch,
            last_seq=arrival.seq,
        )

    def _queue(self, did: str) -> Queue:
        waiting = self.cache.queues.get(did)
        return Queue(waiting.frames, waiting.size) if waiting else NOBODY

    def _verdict(
        self, arrival: IncomingFrame, frame: AccountFrames, queue: Queue
    ) -> intake.Verdict:
        did, cache = frame.did, self.cache
        identity = cache.identities.get(did)
        tracked = did in cache.tracked or did in cache.queues
        known = Known(identity, tracked, queue)
        verdict = intake.step(arrival, frame, known, self.rules, self.now)
        if isinstance(verdict, Accept) and isinstance(frame, CommitFrame | SyncFrame):
            cache.track(did)
            self._refresh(did, identity)
        return verdict

    def _refresh(self, did: str, identity: Identity | None) -> None:
        """Ask about an identity that is old, and yet good enough to go on with."""
        if identity is None or not intake.is_stale(identity, self.now):
            return
        if self.cache.refresh_due(did, self.now, _LOOK_UP_AGAIN):
            self.look_up(did, LookupKind.IDENTITY)

    def _unreadable(self, arrival: IncomingFrame, refused: Refused) -> Accept | Drop:
        tracked = arrival.key in self.cache.tracked
        return intake.unreadable(arrival, refused, self.rules.policy, tracked=tracked)

    def _park(self, arrival: IncomingFrame, verdict: Park) -> None:
        did = arrival.key
        self.parks.append(to_parked(did, arrival))
        self.cache.park(did, len(arrival.frame))
        self.touched.add(did)
        if verdict.look_up:
            self.look_up(did, LookupKind.IDENTITY, delay=self.patience(did))

    def _unpark(self, arrival: IncomingFrame) -> None:
        did = arrival.key
        self.decided[did] = arrival.offset
        self.unparked += 1
        self.cache.unpark(did, len(arrival.frame))

    def _settle(self, arrival: IncomingFrame, verdict: Accept | Drop) -> None:
        if isinstance(verdict, Accept):
            self.inputs.append(Planned(verdict.input, arrival))
            return
        self.refused[verdict.reason] += 1
        if verdict.kept:
            lane = self.position.lane
            self.dead.append(dead_frame(arrival, lane, verdict.reason, verdict.detail))

    def _refuse_record(self, topic: InputTopic, record: Record, why: Refused) -> None:
        self.refused[why.reason] += 1
        lane = self.position.lane
        self.dead.append(dead_record(topic, record, lane, why.reason, why.detail))


def dead_frame(arrival: IncomingFrame, lane: int, reason: Reason, detail: str) -> DeadLetter:
    """Return the dead letter for a frame of ``lane``."""
    return DeadLetter(
        reason=reason,
        detail=detail,
        source=InputRecord(InputTopic.FIREHOSE, lane, arrival.offset),
        key=arrival.key.encode(),
        value=arrival.frame,
        seq=arrival.seq,
        relay=arrival.relay,
        epoch=arrival.epoch,
    )


def dead_record(
    topic: InputTopic, record: Record, lane: int, reason: Reason, detail: str
) -> DeadLetter:
    """Return the dead letter for a record of ``topic`` that holds nothing readable."""
    return DeadLetter(
        reason=reason,
        detail=detail,
        source=InputRecord(topic, lane, record.offset),
        key=record.key,
        value=record.value,
        own_headers=record.headers,
    )


def _message_of(record: Record) -> Message:
    message = backfill.decode(record.value or b"")
    if record.key != message.did.encode():  # the key's lane may be another than the DID's
        raise Refused(Reason.BACKFILL_MALFORMED, f"about {message.did}, but not its key")
    return message


def _clean(text: str | None) -> str | None:
    """Return ``text`` as the tables can hold it."""
    return None if text is None else text.replace("\0", "")[:_MAX_TEXT]
