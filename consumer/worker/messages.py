"""From one record of ``chive.backfill`` to an input of the batch.  Pure."""

from __future__ import annotations

from typing import assert_never

from consumer import backfill
from consumer.backfill import AccountAnswer, Chunk, Forget, IdentityAnswer, Message, Proof
from consumer.errors import Reason, Refused
from consumer.events.envelope import Origin, Source
from consumer.state.inputs import (
    AccountLearnt,
    ChunkSeen,
    ForgetSeen,
    IdentityLearnt,
    Input,
    ProofSeen,
)
from consumer.store.rows import Identity
from consumer.worker.incoming import Record
from procedures import times

_MAX_TEXT = 2_048  # characters of what a DID document says


def read(record: Record) -> Message | Refused:
    """Return the message in ``record``, or why there is none."""
    try:
        message = backfill.decode(record.value or b"")
    except Refused as refused:
        return refused
    if record.key != message.did.encode():  # the key's lane may be another than the DID's
        return Refused(Reason.BACKFILL_MALFORMED, f"about {message.did}, but not its key")
    return message


def input_of(message: Message, record: Record, last_seq: int) -> Input:
    """Return what ``message`` tells the batch.

    ``last_seq`` is the seq of the lane's newest frame, 0 if there was none.
    """
    match message:
        case IdentityAnswer():
            return IdentityLearnt(message, _origin(record, Source.BACKFILL, last_seq))
        case AccountAnswer():
            return AccountLearnt(message, _origin(record, Source.ACCOUNT, last_seq))
        case Chunk():
            origin = _origin(record, Source.BACKFILL, last_seq, message.operation)
            return ChunkSeen(message, origin)
        case Proof():
            origin = _origin(record, Source.REFRESH, last_seq, message.operation)
            return ProofSeen(message, origin)
        case Forget():
            origin = _origin(record, Source.OPERATOR, last_seq, message.operation)
            return ForgetSeen(message, origin)
        case _:
            assert_never(message)


def identity_of(answer: IdentityAnswer) -> Identity:
    """Return the row for a resolved DID, its texts as the tables can hold them."""
    return Identity(
        answer.did,
        _clean(answer.signing_key),
        _clean(answer.pds),
        _clean(answer.handle),
        _clean(answer.error),
        answer.fetched_at,
    )


def origin_of(record: Record, last_seq: int) -> Origin:
    """Return the origin of what follows from a message that is not read."""
    return _origin(record, Source.BACKFILL, last_seq)


def _origin(record: Record, source: Source, last_seq: int, operation: str | None = None) -> Origin:
    time = times.to_text(record.timestamp / 1000)
    return Origin(source, last_seq, time, None, operation)


def _clean(text: str | None) -> str | None:
    return None if text is None else text.replace("\0", "")[:_MAX_TEXT]
