"""The state of one repository, and how verified input moves it.  Pure.

``sync_state`` is ``active`` (the rows are exactly the repo at ``rev``; ``reason`` is None) or
``desynchronized`` with a reason.  Verified commits flow in both.  Each function takes a
:class:`Repo` and one piece of evidence and returns a :class:`Transition`: the repo afterwards,
whether a sync must be queued, or why nothing happened.

Revisions kept, all of them signed but the hint:

``rev``        the newest commit of the chain; everything at or below it is a replay
``gap_rev``    something at or below it was missed: only a snapshot from there on repairs it
``floor_rev``  snapshots below it are refused; tombstones at or below it may be gone
``proof_rev``  the newest record proof: rows may be newer than ``rev``, up to here
``hint_rev``   what unverified input claims to exist; three attempts of a sync try to reach it

``floor_rev`` ≤ ``rev`` always.  Triggers without a signed rev raise ``resync_generation``
instead, and a snapshot whose download began before that does not complete the repo.

A repo of an active account is active, or a sync of it is open: what desynchronizes the repo
asks for a sync (``trigger``), and a sync that is refused is queued again by its own operation.

A first commit whose proven ``prev_data`` is the empty tree states the whole repository in its
ops, whatever its ``since``.  If nothing else is known of the repo, it becomes active and
complete at once, with the floor at its rev.  Such a commit has ``since`` null (genesis), or
follows commits that the tailer did not forward.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import StrEnum

from consumer.backfill import Chunk, Proof
from consumer.errors import Reason
from consumer.state.effects import Rejection, SyncReason
from consumer.state.facts import Row
from consumer.verify.verified import EMPTY_TREE, Counts, VerifiedCommit, VerifiedSync

ACTIVE_ACCOUNT = "active"
HINT_ATTEMPTS = 3  # of one operation, to reach what is only claimed to exist


class SyncState(StrEnum):
    ACTIVE = "active"
    DESYNCHRONIZED = "desynchronized"


@dataclass(frozen=True, slots=True)
class Repo:
    """One row of table ``repos``.

    ``frame_status`` is what the newest ``#account`` frame states, ``status_relay`` its relay,
    ``inactive_rev`` a signed rev newer than all that was known, seen while the account was not
    active.  Since ``gone_at`` (Unix seconds) ``gone_host`` alone says that it is deleted.

    ``warnings`` counts what the last snapshot and the commits since left out, by reason.
    """

    did: str
    lane: int
    status: str = ACTIVE_ACCOUNT
    status_epoch: int = 0
    status_seq: int = 0
    sync_state: str = SyncState.DESYNCHRONIZED
    reason: str | None = SyncReason.FIRST_SIGHTING
    rev: str | None = None
    data: bytes | None = None
    gap_rev: str | None = None
    hint_rev: str | None = None
    floor_rev: str | None = None
    proof_rev: str | None = None
    resync_generation: int = 0
    incarnation: int = 0
    complete: bool = False
    scope: bytes | None = None
    pds: str | None = None
    snapshot_operation: str | None = None
    snapshot_attempt: int | None = None
    snapshot_rev: str | None = None
    snapshot_through: str | None = None
    frame_status: str | None = None
    status_relay: str | None = None
    inactive_rev: str | None = None
    gone_at: float | None = None
    gone_host: str | None = None
    warnings: dict[str, int] | None = None

    @property
    def account_active(self) -> bool:
        return self.status == ACTIVE_ACCOUNT

    @property
    def active(self) -> bool:
        return self.sync_state == SyncState.ACTIVE


@dataclass(frozen=True, slots=True)
class Transition:
    """What one piece of evidence does to a repo.

    ``applies``: reconcile its facts.  ``trigger``: queue a sync for this reason.  ``rejection``:
    why the evidence was not, or not fully, applied.
    """

    repo: Repo
    applies: bool = False
    trigger: SyncReason | None = None
    rejection: Rejection | None = None


def newest(*revs: str | None) -> str | None:
    """Return the newest of ``revs``, None if all are None."""
    return max((rev for rev in revs if rev is not None), default=None)


def reaches(rev: str, bound: str | None) -> bool:
    """Tell whether ``rev`` is at or above ``bound``; without a bound every rev is."""
    return bound is None or rev >= bound


def moved_to(repo: Repo, rev: str, data: bytes) -> Repo:
    """Return ``repo`` at another commit.

    Equal to ``replace``, which takes more than twice the time; every commit comes through here.
    """
    return Repo(
        did=repo.did,
        lane=repo.lane,
        status=repo.status,
        status_epoch=repo.status_epoch,
        status_seq=repo.status_seq,
        sync_state=repo.sync_state,
        reason=repo.reason,
        rev=rev,
        data=data,
        gap_rev=repo.gap_rev,
        hint_rev=repo.hint_rev,
        floor_rev=repo.floor_rev,
        proof_rev=repo.proof_rev,
        resync_generation=repo.resync_generation,
        incarnation=repo.incarnation,
        complete=repo.complete,
        scope=repo.scope,
        pds=repo.pds,
        snapshot_operation=repo.snapshot_operation,
        snapshot_attempt=repo.snapshot_attempt,
        snapshot_rev=repo.snapshot_rev,
        snapshot_through=repo.snapshot_through,
        frame_status=repo.frame_status,
        status_relay=repo.status_relay,
        inactive_rev=repo.inactive_rev,
        gone_at=repo.gone_at,
        gone_host=repo.gone_host,
        warnings=repo.warnings,
    )


def on_commit(repo: Repo, commit: VerifiedCommit) -> Transition:
    """Move the chain by one verified commit."""
    if not repo.account_active:
        return _ignored(repo, Reason.ACCOUNT_INACTIVE)
    if repo.rev is None:
        return _first_commit(repo, commit)
    if commit.rev <= repo.rev:
        return _not_newer(repo, commit.rev, commit.data)
    moved = moved_to(repo, commit.rev, commit.data)
    if commit.prev_data == repo.data and commit.since == repo.rev:
        return Transition(moved, applies=True)
    return _gap(moved, commit.rev, SyncReason.BROKEN_CHAIN, applies=True)


def without_some(transition: Transition, rev: str, why: Rejection) -> Transition:
    """Desynchronize for a commit at ``rev`` that applies but for the records it has no bytes of."""
    return replace(_gap(transition.repo, rev, SyncReason.UNVERIFIABLE, applies=True), rejection=why)


def set_aside(
    transition: Transition, commit: VerifiedCommit, wants: Callable[[str], bool]
) -> Transition:
    """Note the ops of a commit that applies but for them."""
    if commit.left_out:
        why = Rejection(commit.left_out[0][0], kept=False)
        transition = replace(
            transition,
            repo=warned(transition.repo, commit.left_out),
            rejection=transition.rejection or why,
        )
    missing = [path for path in commit.unknown if wants(path)]
    if missing:
        why = Rejection(Reason.BLOCK_MISSING, f"no block for the record {missing[0]}")
        transition = without_some(transition, commit.rev, why)
    return transition


def warned(repo: Repo, left_out: Counts) -> Repo:
    """Return ``repo`` with what one more commit left out."""
    counts = Counter(repo.warnings or {})
    for reason, count in left_out:
        counts[reason.value] += count
    return replace(repo, warnings=dict(sorted(counts.items())))


def on_sync(repo: Repo, sync: VerifiedSync) -> Transition:
    """Compare the chain with a verified ``#sync``."""
    if not repo.account_active:
        return _ignored(repo, Reason.ACCOUNT_INACTIVE)
    if repo.rev is not None and sync.rev <= repo.rev:
        return _not_newer(repo, sync.rev, sync.data)
    moved = replace(repo, rev=sync.rev, data=sync.data)
    # A tree can return to an earlier root.  The same root means that the rows are right at the
    # new rev only if no row is newer than our rev.  What was created and deleted in between was
    # not seen, so the floor rises: snapshots and proofs from there are refused.
    if repo.rev is not None and sync.data == repo.data and reaches(repo.rev, repo.proof_rev):
        return Transition(replace(moved, floor_rev=sync.rev))
    return _gap(moved, sync.rev, SyncReason.SYNC_FRAME)


def on_unverifiable(repo: Repo, rev: str | None, *, signed: bool, why: Rejection) -> Transition:
    """Desynchronize for a change that cannot be followed; ``why`` says what is wrong with it.

    ``signed``: the signature over ``rev`` is good.  If not, ``rev`` is only claimed.
    """
    if not repo.account_active:
        return _ignored(repo, Reason.ACCOUNT_INACTIVE)
    if rev is not None and repo.rev is not None and rev <= repo.rev:
        return _ignored(repo, Reason.REPLAY)
    if signed and rev is not None:
        return replace(_gap(repo, rev, SyncReason.UNVERIFIABLE), rejection=why)
    hinted = replace(repo, hint_rev=newest(repo.hint_rev, rev))
    return replace(mark_for_resync(hinted, SyncReason.UNVERIFIABLE), rejection=why)


def mark_for_resync(repo: Repo, reason: SyncReason) -> Transition:
    """Desynchronize for a reason that carries no signed rev."""
    return Transition(
        _desynchronized(replace(repo, resync_generation=repo.resync_generation + 1), reason),
        trigger=reason,
    )


def on_lost(repo: Repo, reason: SyncReason = SyncReason.LOSS_WINDOW) -> Transition:
    """Desynchronize because any frame of this repo may be missing, as in a loss window."""
    if not repo.account_active:
        return Transition(repo)
    return mark_for_resync(repo, reason)


def on_scope(repo: Repo, scope: bytes) -> Transition:
    """Compare the wanted collections with those of the last look at the repo.

    Collections that are newly wanted never had a complete snapshot, so the repo has none.  All
    commits up to ``rev`` were read with the old scope, so only a snapshot from there on repairs
    it.  ``scope`` is the digest of the wanted collections.
    """
    if repo.scope == scope:
        return Transition(repo)
    gap_rev = newest(repo.gap_rev, repo.rev)
    other = replace(repo, scope=scope, complete=False, gap_rev=gap_rev)
    return mark_for_resync(other, SyncReason.SCOPE_CHANGED)


def on_chunk(repo: Repo, chunk: Chunk, scope: bytes) -> Transition:
    """Accept or refuse a chunk; the first chunk of an attempt may move the chain."""
    refusal = _chunk_refusal(repo, chunk, scope)
    if refusal is not None:
        return _ignored(repo, refusal)
    if chunk.after is None:
        return _first_chunk(repo, chunk)
    return Transition(replace(repo, snapshot_through=chunk.through), applies=True)


def on_last_chunk(repo: Repo, chunk: Chunk) -> Transition:
    """Activate the repo if its snapshot, now applied without a hole, is recent enough.

    Up to ``HINT_ATTEMPTS`` attempts must reach ``hint_rev``, which is only claimed to exist.
    """
    closed = replace(
        repo,
        snapshot_operation=None,
        snapshot_attempt=None,
        snapshot_rev=None,
        snapshot_through=None,
        warnings=dict(chunk.warnings) or None,
    )
    if not reaches(chunk.rev, repo.gap_rev):
        return _ignored(closed, Reason.SNAPSHOT_STALE)
    if chunk.resync_generation != repo.resync_generation:
        return _ignored(closed, Reason.SNAPSHOT_OUTDATED)
    if not reaches(chunk.rev, repo.hint_rev) and chunk.attempt < HINT_ATTEMPTS:
        return _ignored(closed, Reason.SNAPSHOT_STALE)
    return Transition(_activated(closed))


def on_proof(repo: Repo, proof: Proof, row: Row | None) -> Transition:
    """Accept or refuse a record proof; ``row`` is what is known of the record."""
    if not repo.account_active:
        return _ignored(repo, Reason.ACCOUNT_INACTIVE)
    cid = None if proof.entry is None else proof.entry.cid
    outdated = row is not None and row.rev > proof.rev and row.cid != cid
    if outdated or not reaches(proof.rev, newest(repo.floor_rev, repo.gap_rev)):
        return _ignored(repo, Reason.SNAPSHOT_STALE)
    return Transition(replace(repo, proof_rev=newest(repo.proof_rev, proof.rev)), applies=True)


def _first_commit(repo: Repo, commit: VerifiedCommit) -> Transition:
    moved = replace(repo, rev=commit.rev, data=commit.data)
    if _states_everything(repo, commit):
        return Transition(_activated(replace(moved, floor_rev=commit.rev)), applies=True)
    return _gap(moved, commit.rev, SyncReason.FIRST_SIGHTING, applies=True)


def _states_everything(repo: Repo, commit: VerifiedCommit) -> bool:
    known_nothing = repo.resync_generation == 0 and repo.proof_rev is None
    return known_nothing and commit.prev_data == EMPTY_TREE and reaches(commit.rev, repo.gap_rev)


def _first_chunk(repo: Repo, chunk: Chunk) -> Transition:
    begun = replace(
        repo,
        floor_rev=chunk.rev,
        snapshot_operation=chunk.operation,
        snapshot_attempt=chunk.attempt,
        snapshot_rev=chunk.rev,
        snapshot_through=chunk.through,
    )
    if chunk.rev == repo.rev:  # the root is the same, or unknown since a deletion
        return Transition(replace(begun, data=chunk.data), applies=True)
    if repo.rev is not None and chunk.rev < repo.rev:
        return Transition(begun, applies=True)
    gap_rev = newest(repo.gap_rev, chunk.rev)
    moved = replace(begun, rev=chunk.rev, data=chunk.data, gap_rev=gap_rev)
    if not repo.active:
        return Transition(moved, applies=True)
    # Until the last chunk the rows are a mixture.  The sync is for the case that it never comes.
    mixed = _desynchronized(moved, SyncReason.SNAPSHOT)
    return Transition(mixed, applies=True, trigger=SyncReason.SNAPSHOT)


def _chunk_refusal(repo: Repo, chunk: Chunk, scope: bytes) -> Reason | None:
    if not repo.account_active:
        return Reason.ACCOUNT_INACTIVE
    if chunk.scope != scope or repo.scope != scope:
        return Reason.SNAPSHOT_SCOPE
    if not reaches(chunk.rev, repo.floor_rev):
        return Reason.SNAPSHOT_STALE
    if chunk.rev == repo.rev and repo.data is not None and chunk.data != repo.data:
        return Reason.EQUIVOCATION
    return None if chunk.after is None or _continues(repo, chunk) else Reason.SNAPSHOT_HOLE


def _continues(repo: Repo, chunk: Chunk) -> bool:
    return (
        repo.snapshot_operation == chunk.operation
        and repo.snapshot_attempt == chunk.attempt
        and repo.snapshot_rev == chunk.rev
        and repo.snapshot_through == chunk.after
    )


def _not_newer(repo: Repo, rev: str, data: bytes) -> Transition:
    if rev == repo.rev and repo.data is not None and data != repo.data:
        return Transition(
            repo, rejection=Rejection(Reason.EQUIVOCATION, f"another root at rev {rev}")
        )
    return _ignored(repo, Reason.REPLAY)


def _ignored(repo: Repo, reason: Reason) -> Transition:
    return Transition(repo, rejection=Rejection(reason, kept=False))


def _gap(repo: Repo, rev: str, reason: SyncReason, *, applies: bool = False) -> Transition:
    gapped = replace(repo, gap_rev=newest(repo.gap_rev, rev))
    return Transition(_desynchronized(gapped, reason), applies=applies, trigger=reason)


def _desynchronized(repo: Repo, reason: SyncReason) -> Repo:
    return replace(repo, sync_state=SyncState.DESYNCHRONIZED, reason=reason)


def _activated(repo: Repo) -> Repo:
    return replace(
        repo,
        sync_state=SyncState.ACTIVE,
        reason=None,
        complete=True,
        hint_rev=None,
    )
