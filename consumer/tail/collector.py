"""Messages of the firehose become the records of the next Kafka transaction.

Every message ends in exactly one of these: forwarded to ``chive.firehose`` byte for byte, left
out as irrelevant or as a replay, or refused (counted by reason, kept on ``chive.dead-letter``).
The cursor in the same transaction covers all of them.  What cannot be decoded is forwarded
nevertheless if its account can be read and is wanted: the worker refuses it, and marks the repo.
If the account is another shard's, it is left out like its other frames.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import structlog

from consumer import dead_letters, metrics
from consumer.dead_letters import DeadLetter
from consumer.errors import Refused
from consumer.kafka.topics import Topic, Topics
from consumer.kafka.transaction import OutRecord
from consumer.metrics.labels import EpochCause, FrameKind, FrameOutcome, Stage
from consumer.notices import EPOCH_NOTICE, NOTICE
from consumer.tail.cursor import NEXT, Admission, Cursor, Position
from consumer.tail.outcomes import OUTDATED_CURSOR, Denied, Garbage, RelayError, classify
from consumer.tail.relevance import Relevance
from consumer.tail.splitter import Message, Unusable
from consumer.verify.frames import ErrorFrame, InfoFrame, Kind, Peek, decode_frame, peek
from consumer.verify.glance import glance

MAX_FRAMES = 2_000
MAX_BYTES = 8 * 1024 * 1024
# Seconds until a transaction is due: with only the cursor moved, with nothing new.
_CURSOR_EVERY = 1.0
_REFRESH_EVERY = 600.0
# Seconds between two warnings about what the relay sends.
_WARN_EVERY = 1.0
# After this many refused messages in a row, the relay does not send a firehose.
_GARBAGE = 10_000
# Each frame compares with it: a global is found sooner than the member of a class.
_COMMIT = Kind.COMMIT

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Transaction:
    """Frames and the cursor that covers them."""

    records: list[OutRecord]
    frames: int
    cursor: Cursor


class Collector:
    """Collects the next transaction; its ``position`` runs ahead of the durable one.

    ``size`` is in bytes before compression, as is ``limit``, the bound on one message.  ``cause``
    is why the position begins an epoch, if it does; it is told once the relay is read.  ``linger``:
    seconds that a frame waits for others.
    """

    def __init__(
        self,
        relay: str,
        topics: Topics,
        relevance: Relevance,
        position: Position,
        limit: int,
        cause: EpochCause | None = None,
        *,
        linger: float,
    ) -> None:
        self.position = position
        self._cause = cause
        self.size = 0
        self._relay = relay.encode()
        self._topics = topics
        self._firehose = topics.name(Topic.FIREHOSE)
        self._relevance = relevance
        self._limit = limit
        self._linger = linger
        self._records: list[OutRecord] = []
        self._counts: Counter[tuple[FrameKind | Kind, FrameOutcome]] = Counter()
        self._irrelevant = 0  # commits
        self._since: float | None = None  # when the oldest record came
        self._cut_at: float | None = None
        self._cut_seq = position.seq
        self._refused_in_a_row = 0
        self._now = self._silent_until = -math.inf

    @property
    def full(self) -> bool:
        """True if the transaction must be cut before more messages are taken."""
        return len(self._records) >= MAX_FRAMES or self.size >= MAX_BYTES

    @property
    def pending(self) -> bool:
        """True if records or a move of the cursor wait for the next transaction."""
        return bool(self._records) or self.position.seq != self._cut_seq

    @property
    def lingers(self) -> bool:
        """True if records wait for the next transaction to be due."""
        return self._since is not None

    def due_in(self, now: float) -> float:
        """Return the seconds until a transaction is due (``now``: monotonic seconds)."""
        if self.full:
            return 0.0
        if self._since is not None:
            return self._since + self._linger - now
        if self._cut_at is None:
            self._cut_at = now
        return self._cut_at + (_CURSOR_EVERY if self.pending else _REFRESH_EVERY) - now

    def connected(self, now: float) -> None:
        """Announce an epoch that began before the connection; ``now`` is monotonic, in seconds.

        Without a position the first frame does it.
        """
        if self.position.seq:
            self._announce()
        if self._records and self._since is None:
            self._since = now

    def take(self, messages: Iterable[Message], now: float) -> None:
        """Collect ``messages`` in their order; ``now`` is monotonic, in seconds.

        Raises ``RelayError`` at an error frame, ``Denied`` at a frame that puts the position in
        doubt, and ``Garbage`` after too many refused messages in a row; the messages before that
        are collected.
        """
        self._now = now
        try:
            for message in messages:
                try:
                    self._take(message)
                except Refused as refused:
                    self._refuse(refused, message)
                else:
                    self._refused_in_a_row = 0
        finally:
            if self._records and self._since is None:
                self._since = now

    def cut(self, now: float) -> Transaction:
        """Return the transaction and begin the next; ``now`` is monotonic, in seconds."""
        if self.position.seq:
            self._announce()  # at the latest with the cursor that names the epoch
        records, frames = self._records, len(self._records)
        cursor = self.position.cursor()
        records.append(OutRecord(self._topics.name(Topic.CURSOR), 0, self._relay, cursor.encode()))
        self._counts[Kind.COMMIT, FrameOutcome.IRRELEVANT] += self._irrelevant
        for (kind, outcome), count in self._counts.items():
            metrics.FRAMES.labels(kind, outcome).inc(count)
        metrics.TRACKED.set(self._relevance.tracked)
        self._records, self.size = [], 0
        self._counts.clear()
        self._irrelevant = 0
        self._since, self._cut_at, self._cut_seq = None, now, cursor.seq
        return Transaction(records, frames, cursor)

    def _take(self, message: Message) -> None:
        if isinstance(message, Unusable):
            outcome = classify(message, time.time())
            if self._may_warn():
                _log.warning("message_unusable", cause=outcome.cause.value, detail=outcome.detail)
            raise Refused(message.reason, message.detail)
        look = peek(message, self._limit)
        if look.seq is None:
            self._notice(message)
            return
        admission = self.position.admit(
            look.seq, look.time, look.did or "", look.rev or look.kind.value
        )
        if admission is not NEXT and not self._goes_on(admission, look):
            return
        if self._relevance.wants(look):
            self._forward(look, look.seq, message)
        elif look.kind is _COMMIT:
            self._irrelevant += 1
        else:
            self._counts[look.kind, FrameOutcome.IRRELEVANT] += 1  # of another shard

    def _goes_on(self, admission: Admission, look: Peek) -> bool:
        """Tell whether a frame that is not simply the next one is taken.  Raises ``Denied``."""
        if admission is Admission.REPLAY:
            self._counts[look.kind, FrameOutcome.DUPLICATE] += 1
            return False
        if admission is Admission.DENIED:
            raise Denied(f"it begins at seq {look.seq}, we are at {self.position.seq}")
        if cause := admission.cause:
            report_epoch(cause, self.position.epoch)
        self._announce()
        return True

    def _forward(self, look: Peek, seq: int, frame: bytes) -> None:
        did = look.did or ""
        partition = self._topics.partition_of(did)
        last = self.position.last
        headers = (
            ("seq", b"%d" % seq),
            ("relay", self._relay),
            ("session", b"%d" % self.position.epoch),
            ("prev_seq", b"%d" % last[partition]),
        )
        last[partition] = seq
        self._add(OutRecord(self._firehose, partition, did.encode(), frame, headers))
        self._counts[look.kind, FrameOutcome.FORWARDED] += 1

    def _announce(self) -> None:
        """Tell every lane of the epoch, unless it was told: a lane may have no frame for long."""
        position = self.position
        if position.announced == position.epoch:
            return
        if self._cause is not None:
            cause, self._cause = self._cause, None
            report_epoch(cause, position.epoch)
        position.announced = position.epoch
        headers = (
            ("seq", b"0"),
            ("relay", self._relay),
            ("session", b"%d" % position.epoch),
            ("prev_seq", b"0"),
            (NOTICE, EPOCH_NOTICE),
        )
        for partition in range(self._topics.partitions):
            self._add(OutRecord(self._firehose, partition, b"", b"", headers))

    def _refuse(self, refused: Refused, message: Message) -> None:
        data = message.data if isinstance(message, Unusable) else message
        self._refused_in_a_row += 1
        look = glance(data)
        if look is None or look.seq is None:
            self._bury(refused, data, None)
        elif self._goes_on_at(look, look.seq):
            if not self._relevance.concerns(look):
                self._counts[look.kind, FrameOutcome.IRRELEVANT] += 1
            elif self._relevance.wants(look):
                metrics.REFUSED.labels(refused.reason, Stage.TAILER).inc()
                self._forward(look, look.seq, data)
            else:
                self._bury(refused, data, look)
        if self._refused_in_a_row >= _GARBAGE:
            self._refused_in_a_row = 0
            raise Garbage(f"{_GARBAGE} messages in a row were refused, the last: {refused}")

    def _goes_on_at(self, look: Peek, seq: int) -> bool:
        """Admit a frame that was refused; tell whether it is taken.  Raises ``Denied``."""
        mark = look.rev or look.kind.value
        admission = self.position.admit(seq, look.time, look.did or "", mark)
        return admission is NEXT or self._goes_on(admission, look)

    def _bury(self, refused: Refused, data: bytes, look: Peek | None) -> None:
        """Keep what was refused as a dead letter, with as much as is known of its account."""
        letter = DeadLetter(
            reason=refused.reason,
            detail=refused.detail,
            source=None,
            key=look.did.encode() if look and look.did else None,
            value=data,
            seq=look.seq if look else None,
            relay=self._relay.decode(),
        )
        topic = self._topics.name(Topic.DEAD_LETTER)
        self._add(OutRecord(topic, *dead_letters.encode(letter, self._topics.prefix)))
        self._counts[FrameKind.UNKNOWN, FrameOutcome.REFUSED] += 1
        metrics.REFUSED.labels(refused.reason, Stage.TAILER).inc()

    def _add(self, record: OutRecord) -> None:
        self._records.append(record)
        self.size += record.size

    def _notice(self, message: bytes) -> None:
        """Handle a frame about the stream itself: an error ends it, an info may break the epoch."""
        match decode_frame(message, self._limit):
            case ErrorFrame(error=name, message=text):
                self._counts[Kind.ERROR, FrameOutcome.IRRELEVANT] += 1
                raise RelayError(name, text)
            case InfoFrame(name=name, message=text):
                self._counts[Kind.INFO, FrameOutcome.IRRELEVANT] += 1
                if self._may_warn():
                    _log.warning("relay_info_received", name=name, message=text)
                if name == OUTDATED_CURSOR and self.position.outdated():
                    report_epoch(EpochCause.TOO_OLD, self.position.epoch)
                    self._announce()

    def _may_warn(self) -> bool:
        """Tell whether to warn of what the relay may send without end, once in ``_WARN_EVERY``."""
        if self._now < self._silent_until:
            return False
        self._silent_until = self._now + _WARN_EVERY
        return True


def report_epoch(cause: EpochCause, epoch: int) -> None:
    """Count and log that a new epoch begins: every repository may have missed frames."""
    metrics.EPOCHS.labels(cause).inc()
    _log.warning("epoch_began", cause=cause.value, epoch=epoch)
