"""What a worker's batch is made of, and what must be loaded before it is applied.  Pure.

Every input names one DID and carries the ``origin`` of its events.  Frames
arrive here after verification: the verified value, or the fact that there is none.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from consumer.backfill import AccountAnswer, Chunk, Forget, IdentityAnswer, Proof
from consumer.errors import Reason
from consumer.events.envelope import Origin
from consumer.scope import Interval, Scope
from consumer.verify.verified import VerifiedCommit, VerifiedSync


@dataclass(frozen=True, slots=True)
class CommitSeen:
    """A commit of the firehose that passed every check but the chain."""

    verified: VerifiedCommit
    origin: Origin

    @property
    def did(self) -> str:
        return self.verified.did


@dataclass(frozen=True, slots=True)
class CommitUnverifiable:
    """A commit that was refused, or a run of parked frames given up (``rev`` None).

    ``signed`` tells whether the signature over ``rev`` is good; if not, ``rev`` is what the
    frame claims (well formed and not in the future) or None.  ``paths`` are the paths that
    the frame names: an unknown repo is tracked if one of them is wanted.
    """

    did: str
    rev: str | None
    signed: bool
    paths: tuple[str, ...]
    reason: Reason
    detail: str
    origin: Origin


@dataclass(frozen=True, slots=True)
class SyncSeen:
    """A verified ``#sync``."""

    verified: VerifiedSync
    origin: Origin

    @property
    def did(self) -> str:
        return self.verified.did


@dataclass(frozen=True, slots=True)
class SyncUnverifiable:
    """A ``#sync`` that was refused; fields as in :class:`CommitUnverifiable`."""

    did: str
    rev: str | None
    signed: bool
    reason: Reason
    detail: str
    origin: Origin


@dataclass(frozen=True, slots=True)
class AccountSeen:
    """An ``#account`` frame: ``origin.seq`` and ``epoch`` order it among its kind."""

    did: str
    active: bool
    status: str | None
    epoch: int
    origin: Origin


@dataclass(frozen=True, slots=True)
class IdentitySeen:
    """An ``#identity`` frame; ``handle`` is unverified."""

    did: str
    handle: str | None
    epoch: int
    origin: Origin


@dataclass(frozen=True, slots=True)
class IdentityLearnt:
    """The fetcher resolved a DID."""

    answer: IdentityAnswer
    origin: Origin

    @property
    def did(self) -> str:
        return self.answer.did


@dataclass(frozen=True, slots=True)
class AccountLearnt:
    """The fetcher asked the account's own host; ``origin.source`` is ``ACCOUNT``."""

    answer: AccountAnswer
    origin: Origin

    @property
    def did(self) -> str:
        return self.answer.did


@dataclass(frozen=True, slots=True)
class ChunkSeen:
    """Part of a verified snapshot; ``origin.source`` is ``BACKFILL``."""

    chunk: Chunk
    origin: Origin

    @property
    def did(self) -> str:
        return self.chunk.did


@dataclass(frozen=True, slots=True)
class ProofSeen:
    """A verified record proof; ``origin.source`` is ``REFRESH``."""

    proof: Proof
    origin: Origin

    @property
    def did(self) -> str:
        return self.proof.did


@dataclass(frozen=True, slots=True)
class ForgetSeen:
    """An operator's command to forget an account; ``origin.source`` is ``OPERATOR``."""

    forget: Forget
    origin: Origin

    @property
    def did(self) -> str:
        return self.forget.did


@dataclass(frozen=True, slots=True)
class Lost:
    """Frames of this DID's lane may have been lost: a new epoch, or a seq was skipped."""

    did: str
    origin: Origin


@dataclass(frozen=True, slots=True)
class Quarantined:
    """An input about this DID is not read, because it kills who does; ``frame``: it is a frame."""

    did: str
    frame: bool
    origin: Origin


@dataclass(frozen=True, slots=True)
class ScopeChanged:
    """The wanted collections may differ from those this repo was last seen with."""

    did: str
    origin: Origin


Input = (
    CommitSeen
    | CommitUnverifiable
    | SyncSeen
    | SyncUnverifiable
    | AccountSeen
    | IdentitySeen
    | IdentityLearnt
    | AccountLearnt
    | ChunkSeen
    | ProofSeen
    | ForgetSeen
    | Lost
    | Quarantined
    | ScopeChanged
)


@dataclass(slots=True)
class Needs:
    """What a batch touches: repos by DID, rows by path, by interval, or all of a DID."""

    dids: set[str] = field(default_factory=set)
    paths: set[tuple[str, str]] = field(default_factory=set)
    intervals: list[tuple[str, Interval]] = field(default_factory=list)
    whole_repos: set[str] = field(default_factory=set)


def needs(inputs: Iterable[Input], scope: Scope) -> Needs:
    """Return what must be loaded into a batch state before ``inputs`` are applied to it."""
    found = Needs()
    for one in inputs:
        found.dids.add(one.did)
        match one:
            case CommitSeen(verified=commit):
                found.paths.update((commit.did, o.path) for o in commit.ops if scope.wants(o.path))
            case ChunkSeen(chunk=chunk):
                found.intervals.extend((chunk.did, interval) for interval in chunk.intervals)
            case ProofSeen(proof=proof):
                found.paths.add((proof.did, proof.path))
            case AccountLearnt(answer=answer) if answer.status == "deleted":
                found.whole_repos.add(answer.did)
            case ForgetSeen(forget=forget):
                found.whole_repos.add(forget.did)
            case _:
                pass
    return found
