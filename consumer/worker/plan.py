"""The plan of one batch: what its transaction will do.  Pure.

A plan takes frames and messages in their order.  For each frame it gets from the cache what is
known of the account, then the verdict (``verdicts``), and notes what follows from that; it keeps
the cache in step.  It reads nothing else and waits for nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace

from consumer.backfill import Cause, Forget, IdentityAnswer, LookupKind
from consumer.dead_letters import DeadLetter, InputTopic
from consumer.errors import Reason, Refused
from consumer.events.envelope import Origin
from consumer.state.effects import Lookup, Rejection
from consumer.state.inputs import Input, Lost, Quarantined
from consumer.state.progress import LaneReport, Place, Reached, Received, reached
from consumer.store.rows import Identity, Lane, LookupRequest, ParkedFrame
from consumer.worker import messages
from consumer.worker.cache import KnownAccount, LaneCache
from consumer.worker.incoming import (
    EpochNotice,
    IncomingFrame,
    MalformedRecord,
    Record,
    dead_frame,
    dead_record,
    origin_of,
    place_of,
    to_parked,
)
from consumer.worker.verdicts import (
    SIGNED,
    Accept,
    Drop,
    Park,
    ReadFrame,
    Rules,
    is_account,
    is_quarantined,
    judge,
    judge_next,
)

_STALE = 24 * 3600.0  # seconds after which an identity in use is looked up again
_REFRESH = 3600.0  # seconds between two such lookups of one DID


@dataclass(frozen=True, slots=True)
class Planned:
    """One input of the batch, and the frame or the record of the backfill topic it came in."""

    input: Input
    source: IncomingFrame | Record

    def dead_letter(self, rejection: Rejection, lane: int) -> DeadLetter:
        """Return the dead letter for an input of ``lane`` that was not applied."""
        reason, detail = rejection.reason, rejection.detail
        if isinstance(self.source, IncomingFrame):
            return dead_frame(self.source, lane, reason, detail)
        return dead_record(InputTopic.BACKFILL, self.source, lane, reason, detail)


class Plan:
    """What one transaction will do.

    ``start`` is the lane before the batch, ``now`` the time in Unix seconds.

    ``inputs``      what is applied to the repos, in order
    ``dead``        dead letters of what is no input
    ``refused``     how much was refused, by reason, before it became an input
    ``parks``       frames to be parked
    ``decided``     parked frames that were decided: the offset of the last one by DID
    ``touched``     DIDs whose parked frames changed, or are to be tried or not tried again
    ``identities``  newly learnt ones by DID
    ``lookups``     requests to the fetchers by DID and kind
    ``position``    the lane after the batch; its offsets, epoch and seq move with every input
    ``size``        how much was taken: live frames, parked frames, records
    ``unparked``    how many of the parked frames are decided
    ``report``      what the lane says of itself behind the events of the batch
    """

    def __init__(self, start: Lane, cache: LaneCache, rules: Rules, now: float) -> None:
        self.lane = start.lane
        self.cache = cache
        self.rules = rules
        self.now = now
        self.inputs: list[Planned] = []
        self.dead: list[DeadLetter] = []
        self.refused: Counter[Reason] = Counter()
        self.parks: list[ParkedFrame] = []
        self.decided: dict[str, int] = {}
        self.touched: set[str] = set()
        self.identities: dict[str, Identity] = {}
        self.lookups: dict[tuple[str, str], LookupRequest] = {}
        self.size = 0
        self.unparked = 0
        self.backfill_offset = start.backfill_offset
        self.crash_count = start.stalls
        self.report: LaneReport | None = None
        self._start = start
        self._firehose_offset = start.firehose_offset
        self._epoch = start.epoch
        self._last_seq = start.last_seq
        self._newest: ReadFrame | None = None
        self._blocked: set[str] = set()
        self._forgetting: set[str] = set()

    @property
    def position(self) -> Lane:
        """The lane after the batch."""
        return replace(
            self._start,
            firehose_offset=self._firehose_offset,
            backfill_offset=self.backfill_offset,
            epoch=self._epoch,
            last_seq=self._last_seq,
            stalls=self.crash_count,
        )

    def reached(self, received: Received | None) -> Reached | None:
        """Return up to where every frame of the lane is decided after the batch.

        ``received`` is a cursor of the tailer.  None: that is not known.
        """
        newest = None
        if self._newest is not None:
            time = getattr(self._newest.content, "time", None)
            newest = place_of(self._newest.incoming, time)
        decided = Place(self._epoch, self._last_seq)
        return reached(self.lane, decided, newest, received, self.cache.oldest_parked())

    # -- frames ------------------------------------------------------------------------

    def frame(self, frame: ReadFrame) -> None:
        """Decide on a live frame."""
        incoming = frame.incoming
        self.size += 1
        self._firehose_offset = incoming.offset + 1
        self._epoch = incoming.epoch
        self._last_seq = incoming.seq
        self._newest = frame
        account = self.cache.account(incoming.key)
        verdict = judge(frame, account, self.rules, self.now)
        if isinstance(verdict, Accept):
            self._accept(frame, account, verdict.input)
        elif isinstance(verdict, Drop):
            self._drop(incoming, verdict)
        else:
            self._park(incoming, verdict)
            return
        if is_quarantined(frame):
            self._leave_question(incoming.key, origin_of(incoming, None), incoming)
        if account.queue is not None and not account.tracked:
            # Taken before those that are parked, and lost if only these lead to a repo.
            account.queue.doubted = True
            self.touched.add(incoming.key)

    def parked_frame(self, frame: ReadFrame) -> bool:
        """Try a parked frame again, the oldest of its account first; tell whether it is decided.

        Behind one that is not, the others of its account wait; so do those of an account that is
        to be forgotten, if this batch does not forget it after all.
        """
        incoming = frame.incoming
        did = incoming.key
        if did in self._blocked or did in self._forgetting:
            return False
        self.size += 1
        self.touched.add(did)
        account = self.cache.account(did)
        verdict = judge_next(frame, account, self.rules, self.now)
        if isinstance(verdict, Park):
            self._leave_parked(did)
            return False
        doubted = self._unpark(incoming)
        if isinstance(verdict, Accept):
            self._accept(frame, account, verdict.input)
        else:
            self._drop(incoming, verdict)
        if is_quarantined(frame):
            self._leave_question(did, origin_of(incoming, None), incoming)
        if doubted:
            self.inputs.append(Planned(Lost(did, origin_of(incoming, None)), incoming))
        return True

    def notice(self, notice: EpochNotice) -> None:
        """Move behind the notice of an epoch that the lane is in."""
        self.size += 1
        self._firehose_offset = notice.offset + 1

    def malformed_record(self, malformed: MalformedRecord) -> None:
        """Bring a record of the firehose that no tailer wrote to the dead letters."""
        self.size += 1
        self._firehose_offset = malformed.record.offset + 1
        self._refuse_record(InputTopic.FIREHOSE, malformed.record, malformed.refused)

    def _accept(self, frame: ReadFrame, account: KnownAccount, found: Input) -> None:
        self.inputs.append(Planned(found, frame.incoming))
        if isinstance(frame.content, SIGNED) and (frame.wanted or account.tracked):
            self.cache.track(frame.incoming.key)
            self._refresh(account.identity)

    def _refresh(self, identity: Identity | None) -> None:
        """Look an identity up again that is old, and yet good enough to go on with."""
        if identity is None or self.now - identity.fetched_at <= _STALE:
            return
        if self.cache.refresh_due(identity.did, self.now, _REFRESH):
            self.look_up(Lookup(identity.did, LookupKind.IDENTITY, 0, 0))

    def _drop(self, incoming: IncomingFrame, verdict: Drop) -> None:
        self.refused[verdict.reason] += 1
        if verdict.kept:
            self.dead.append(dead_frame(incoming, self.lane, verdict.reason, verdict.detail))

    def _park(self, incoming: IncomingFrame, verdict: Park) -> None:
        did = incoming.key
        self.parks.append(to_parked(incoming))
        self.cache.park(did, len(incoming.frame), place_of(incoming))
        self.touched.add(did)
        if verdict.look_up:
            self._look_up_identity(did)

    def _leave_parked(self, did: str) -> None:
        self._blocked.add(did)
        self.cache.queues[did].ready = False
        self._look_up_identity(did)

    def _unpark(self, incoming: IncomingFrame) -> bool:
        """Note that a parked frame is decided; tell whether frames may be missing behind it."""
        self.decided[incoming.key] = incoming.offset
        self.unparked += 1
        return self.cache.unpark(incoming.key, len(incoming.frame), place_of(incoming))

    # -- messages of the fetchers ------------------------------------------------------

    def message(self, record: Record, refused: Refused | None = None) -> None:
        """Take a record of the backfill topic, or refuse it unread for the reason given."""
        self.size += 1
        self.backfill_offset = record.offset + 1
        message = messages.read(record) if refused is None else refused
        if isinstance(message, Refused):
            self._refuse_record(InputTopic.BACKFILL, record, message)
            if refused is not None:
                self._miss_message(record)
            return
        if isinstance(message, IdentityAnswer):
            self._learn(messages.identity_of(message))
        elif isinstance(message, Forget):
            self._forgetting.add(message.did)
        self.inputs.append(Planned(messages.input_of(message, record, self._last_seq), record))

    def _miss_message(self, record: Record) -> None:
        """Ask again what a message that is quarantined may have answered.

        The operation of a chunk or proof is found by the controller's sweep.
        """
        did = (record.key or b"").decode(errors="replace")
        if did in self.cache.queues:
            self._look_up_identity(did)
        self._leave_question(did, messages.origin_of(record, self._last_seq), record)

    def _leave_question(self, did: str, origin: Origin, source: IncomingFrame | Record) -> None:
        """Leave the question behind what an input said that is quarantined."""
        if is_account(did):
            frame = isinstance(source, IncomingFrame)
            self.inputs.append(Planned(Quarantined(did, frame, origin), source))

    def _learn(self, identity: Identity) -> None:
        """Keep a resolved identity, and try the parked frames of its account again."""
        did = identity.did
        self.cache.learn(identity)
        known = self.identities.get(did)
        if known is None or known.fetched_at <= identity.fetched_at:
            self.identities[did] = identity
        queue = self.cache.queues.get(did)
        if queue is not None:
            queue.ready = True
            self.touched.add(did)

    def _refuse_record(self, topic: InputTopic, record: Record, why: Refused) -> None:
        self.refused[why.reason] += 1
        self.dead.append(dead_record(topic, record, self.lane, why.reason, why.detail))

    # -- lookups -----------------------------------------------------------------------

    def look_up(self, wanted: Lookup) -> None:
        """Let the fetchers look a DID up.

        If the batch asks more than once, its newest frame counts with its cause, and its shortest
        delay.
        """
        key, every = (wanted.did, wanted.kind), 0.0
        if wanted.kind is LookupKind.ACCOUNT:
            every = self.rules.policy.accounts.pause(wanted.cause)
        epoch, seq, cause, delay = wanted.epoch, wanted.seq, wanted.cause, wanted.delay
        known = self.lookups.get(key)
        if known is not None:
            newer = (known.epoch, known.seq) > (epoch, seq)
            same = (known.epoch, known.seq) == (epoch, seq)
            if newer or (same and known.cause == Cause.FRAME):
                epoch, seq, cause = known.epoch, known.seq, Cause(known.cause)
            delay, every = min(delay, known.delay), min(every, known.every)
        self.lookups[key] = LookupRequest(
            wanted.did, wanted.kind, self.lane, epoch, seq, delay, cause, every
        )

    def look_up_wanted(self, wanted: Iterable[Lookup]) -> None:
        """Request the lookups that applying the inputs asks for."""
        for one in wanted:
            identity = one.kind is LookupKind.IDENTITY
            self.look_up(replace(one, delay=self._identity_delay(one.did)) if identity else one)

    def pds_of(self, did: str) -> str | None:
        """Return the host of ``did``, if it is known."""
        identity = self.cache.identities.get(did)
        return identity.pds if identity else None

    def _look_up_identity(self, did: str) -> None:
        delay = self._identity_delay(did)
        self.look_up(Lookup(did, LookupKind.IDENTITY, 0, 0, delay=delay))

    def _identity_delay(self, did: str) -> float:
        """Return the seconds until the identity of ``did`` may be fetched again."""
        identity = self.cache.identities.get(did)
        if identity is None:
            return 0.0
        return max(0.0, identity.fetched_at + self.rules.refresh_interval - self.now)
