"""What applying inputs asks for, besides events and changed rows.  Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from consumer.backfill import Cause, Chunk, Forget, LookupKind, Proof
from consumer.errors import Reason
from consumer.events.envelope import Event, RecordEvent
from consumer.verify.verified import Action


class SyncReason(StrEnum):
    """Why a repo is desynchronized: a closed set, kept in ``repos.reason``."""

    FIRST_SIGHTING = "first_sighting"
    BROKEN_CHAIN = "broken_chain"
    UNVERIFIABLE = "unverifiable"
    SYNC_FRAME = "sync_frame"
    SNAPSHOT = "snapshot"  # a snapshot newer than the chain is being applied
    REACTIVATED = "reactivated"
    SCOPE_CHANGED = "scope_changed"
    LOSS_WINDOW = "loss_window"
    ACCOUNT_DELETED = "account_deleted"
    FORGOTTEN = "forgotten"


class OperationEffect(StrEnum):
    """What a chunk or proof did for its operation."""

    ADVANCED = "advanced"  # applied; more chunks to come
    COMPLETED = "completed"
    AGAIN = "again"  # its last message is applied or refused, and it must be fetched again
    FAILED = "failed"  # fetching again would not help


@dataclass(frozen=True, slots=True)
class SyncRequest:
    """An automatic ``didSync`` to be queued; one that is queued for the DID already serves."""

    did: str
    reason: SyncReason
    resync_generation: int


@dataclass(frozen=True, slots=True)
class RefreshRequest:
    """An automatic ``recordRefresh`` of a record whose bytes a snapshot lacked."""

    did: str
    path: str


@dataclass(frozen=True, slots=True)
class Lookup:
    """A lookup for the fetcher; ``epoch`` and ``seq`` are those of the newest frame.

    ``cause``: why an account is asked about; ``delay``: seconds until it may be asked.
    """

    did: str
    kind: LookupKind
    epoch: int
    seq: int
    cause: Cause = Cause.FRAME
    delay: float = 0.0


@dataclass(frozen=True, slots=True)
class AppliedOperation:
    """What one message did for ``operation``, with the changes that it made.

    ``reason`` says why it was refused or must be fetched ``AGAIN``; ``hint_missed`` that the
    snapshot is below an unverified hint of something newer; ``new_cid`` what the index holds
    at the path of a proof, ``via`` what the proof was read from.  ``warnings`` counts what was left
    out of a snapshot, by reason.  Republished records do not count as changes.
    """

    operation: str
    did: str
    attempt: int
    effect: OperationEffect
    reason: Reason | None = None
    created: int = 0
    updated: int = 0
    deleted: int = 0
    entries: int = 0
    hint_missed: bool = False
    new_cid: bytes | None = None
    warnings: tuple[tuple[str, int], ...] = ()
    via: str | None = None


@dataclass(frozen=True, slots=True)
class Cleared:
    """Tombstones of ``did`` with rev ≤ ``through`` have no purpose any more: delete them."""

    did: str
    through: str


@dataclass(frozen=True, slots=True)
class Rejection:
    """Why an input was not applied; ``kept``: it goes to the dead-letter topic."""

    reason: Reason
    detail: str = ""
    kept: bool = True


def applied(
    message: Chunk | Proof | Forget,
    rejection: Rejection | None,
    changes: Iterable[Event],
    *,
    hint_missed: bool = False,
    new_cid: bytes | None = None,
) -> AppliedOperation:
    """Return what ``message`` did for its operation by making ``changes``."""
    made = Counter(
        c.action for c in changes if isinstance(c, RecordEvent) and c.republished_by is None
    )
    return AppliedOperation(
        operation=message.operation,
        did=message.did,
        attempt=message.attempt,
        effect=_effect(message, rejection),
        reason=rejection.reason if rejection else None,
        created=made[Action.CREATE],
        updated=made[Action.UPDATE],
        deleted=made[Action.DELETE],
        entries=_entries(message, made),
        hint_missed=hint_missed,
        new_cid=new_cid,
        warnings=message.warnings if isinstance(message, Chunk) else (),
        via=message.via if isinstance(message, Proof) else None,
    )


def _entries(message: Chunk | Proof | Forget, made: Counter[Action]) -> int:
    match message:
        case Chunk():
            return len(message.entries)
        case Proof():
            return 1
        case Forget():
            return made[Action.DELETE]


def _effect(message: Chunk | Proof | Forget, rejection: Rejection | None) -> OperationEffect:
    if isinstance(message, Chunk) and not message.last:
        return OperationEffect.ADVANCED
    if rejection is None:
        return OperationEffect.COMPLETED
    hopeless = rejection.reason in {Reason.ACCOUNT_INACTIVE, Reason.UNTRACKED}
    return OperationEffect.FAILED if hopeless else OperationEffect.AGAIN
