"""The state of one batch: inputs go in, in order; rows, events, requests come out.  Pure.

The worker loads what :func:`consumer.state.inputs.needs` names, applies every input, and
writes the result in one transaction.  Nothing here reads a clock or a database, and the
same inputs always give the same outputs: ``dirty_repos()`` and ``dirty_rows()`` are what the
store upserts or deletes, ``BatchOutcome`` has what comes out besides.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import assert_never

from consumer.backfill import Cause, Chunk, LookupKind, Proof
from consumer.errors import Reason
from consumer.events.envelope import Origin
from consumer.state import accounts, event_building, facts, repo_state
from consumer.state.accounts import Judgement, Question, Verdict
from consumer.state.batch_outcome import BatchOutcome
from consumer.state.effects import (
    Cleared,
    Lookup,
    OperationEffect,
    Rejection,
    SyncReason,
    applied,
)
from consumer.state.facts import Row, Statement
from consumer.state.inputs import (
    AccountLearnt,
    AccountSeen,
    ChunkSeen,
    CommitSeen,
    CommitUnverifiable,
    ForgetSeen,
    IdentityLearnt,
    IdentitySeen,
    Input,
    Lost,
    ProofSeen,
    Quarantined,
    ScopeChanged,
    SyncSeen,
    SyncUnverifiable,
)
from consumer.state.policy import Policy
from consumer.state.reconcile import reconcile
from consumer.state.repo_state import Repo, Transition

Rows = dict[str, dict[str, Row]]

_UNTRACKED = Rejection(Reason.UNTRACKED, kept=False)
_REPLAY = Rejection(Reason.REPLAY, kept=False)


def _no_host(_did: str) -> str | None:
    return None


def _reason(why: AccountLearnt | ForgetSeen) -> SyncReason:
    return SyncReason.FORGOTTEN if isinstance(why, ForgetSeen) else SyncReason.ACCOUNT_DELETED


class BatchState(BatchOutcome):
    """Repos by DID and rows by DID and path, as they change while a batch is applied.

    It owns ``repos`` and ``rows``.  ``pds_of`` gives the host of a DID that has no repo yet.
    ``whole``: the DIDs all of whose rows are loaded (None: every one); only their accounts can be
    deleted.  What only one of ``held_hosts`` says of a deletion has to wait.  ``incarnations`` are
    those of accounts that were forgotten.  Messages of the operations ``void`` forget nothing, and
    bring no repo in.
    """

    def __init__(
        self,
        repos: dict[str, Repo],
        rows: Rows,
        policy: Policy,
        pds_of: Callable[[str], str | None] = _no_host,
        *,
        whole: Collection[str] | None = None,
        held_hosts: Collection[str] = (),
        incarnations: Mapping[str, int] | None = None,
        void: Collection[str] = (),
    ) -> None:
        super().__init__(policy)
        self.repos = repos
        self.rows = rows
        self._pds_of = pds_of
        self._whole = whole
        self._held_hosts = held_hosts
        self._incarnations = incarnations or {}
        self._void = void
        self._dirty_repos: set[str] = set()
        self._dirty_rows: set[tuple[str, str]] = set()

    def dirty_repos(self) -> list[Repo]:
        """Return the repos to be upserted."""
        return [self.repos[did] for did in self._dirty_repos]

    def dirty_rows(self) -> list[tuple[str, str, Row | None]]:
        """Return (did, path, row) to be upserted, or deleted where the row is None."""
        return [(did, path, self.rows[did].get(path)) for did, path in self._dirty_rows]

    def apply(self, one: Input) -> Rejection | None:  # noqa: C901, PLR0911, PLR0912 -- an arm each
        """Apply one input; return why it was not, or not fully, applied."""
        match one:
            case CommitSeen():
                return self._commit(one)
            case CommitUnverifiable():
                return self._unverifiable(one, one.paths)
            case SyncSeen():
                return self._sync(one)
            case SyncUnverifiable():
                return self._unverifiable(one, ())
            case AccountSeen():
                return self._account(one)
            case AccountLearnt():
                return self._account_learnt(one)
            case IdentitySeen():
                return self._identity(one)
            case IdentityLearnt():
                return self._identity_learnt(one)
            case ChunkSeen():
                return self._chunk(one)
            case ProofSeen():
                return self._proof(one)
            case ForgetSeen():
                return self._forget(one)
            case Lost() | ScopeChanged():
                return self._mark_for_resync(one)
            case Quarantined():
                return self._quarantined(one)
        assert_never(one)

    # -- frames ------------------------------------------------------------------------

    def _commit(self, seen: CommitSeen) -> Rejection | None:
        commit = seen.verified
        repo = self.repos.get(commit.did) or self._new_if_tracked(
            commit.did, (*(o.path for o in commit.ops), *commit.unknown)
        )
        if repo is None:
            return _UNTRACKED
        transition = repo_state.on_commit(repo, commit)
        if transition.applies:
            said = facts.of_commit(commit, self.policy.scope.wants)
            self._reconcile(transition.repo, said, seen.origin)
            if commit.unknown or commit.left_out:
                transition = repo_state.set_aside(transition, commit, self.policy.scope.wants)
        if repo.gone_at is not None and transition.applies:
            transition = replace(transition, repo=accounts.present(transition.repo))
        elif not repo.account_active:
            transition = self._doubt_status(transition, commit.rev, seen.origin)
        return self._accept(transition, seen.origin)

    def _doubt_status(self, ignored: Transition, rev: str, origin: Origin) -> Transition:
        """Ask about an account that is not active and has a newer signed commit at ``rev``."""
        repo = ignored.repo
        if not accounts.is_sign(repo, rev):
            return ignored
        self._ask(repo, Question(Cause.COMMIT))
        return replace(ignored, repo=accounts.with_sign(repo, rev, origin.relay))

    def _unverifiable(
        self, seen: CommitUnverifiable | SyncUnverifiable, paths: Sequence[str]
    ) -> Rejection | None:
        repo = self.repos.get(seen.did) or self._new_if_tracked(seen.did, paths)
        if repo is None:
            return _UNTRACKED
        why = Rejection(seen.reason, seen.detail)
        transition = repo_state.on_unverifiable(repo, seen.rev, signed=seen.signed, why=why)
        if seen.signed and seen.rev is not None and not repo.account_active:
            transition = self._doubt_status(transition, seen.rev, seen.origin)
        return self._accept(transition, seen.origin)

    def _sync(self, seen: SyncSeen) -> Rejection | None:
        repo = self._known_or_announced(seen.did)
        if repo is None:
            return _UNTRACKED
        transition = repo_state.on_sync(repo, seen.verified)
        if not repo.account_active:
            transition = self._doubt_status(transition, seen.verified.rev, seen.origin)
        return self._accept(transition, seen.origin)

    def _account(self, seen: AccountSeen) -> Rejection | None:
        repo, seq = self._known_or_announced(seen.did), seen.origin.seq
        if repo is None:
            return _UNTRACKED
        if not accounts.is_news(repo, seen.epoch, seq):
            return _REPLAY
        status = accounts.stated_status(active=seen.active, status=seen.status)
        if accounts.of_other_relay(repo, seen.origin.relay):
            if status != repo.status:
                self._ask(repo, Question(Cause.RELAY))
            return None
        noted = accounts.ratcheted(repo, seen.epoch, seq, status, seen.origin.relay)
        if status == accounts.DELETED:
            if repo.status != accounts.DELETED:
                self._ask(noted, Question(Cause.FRAME))
            return self._accept(Transition(noted), seen.origin)
        if accounts.contradicts_epoch(repo, seen.epoch, status):
            self._ask(noted, Question(Cause.RELAY))
        transition = accounts.with_frame(repo, noted, status)
        return self._set_status(transition, seen.epoch, seen.origin)

    def _identity(self, seen: IdentitySeen) -> Rejection | None:
        repo = self._known_or_announced(seen.did)
        if repo is None:
            return _UNTRACKED
        self.lookups.append(Lookup(seen.did, LookupKind.IDENTITY, seen.epoch, seen.origin.seq))
        self.events.append(
            event_building.identity_event(seen.origin, repo, seen.handle, seen.epoch)
        )
        return self._accept(Transition(repo), seen.origin)

    def _mark_for_resync(self, one: Lost | ScopeChanged) -> Rejection | None:
        repo = self.repos.get(one.did)
        if repo is None:
            return _UNTRACKED
        if isinstance(one, Lost):
            if not repo.account_active:
                self._ask(repo, Question(Cause.LOSS))
            return self._accept(repo_state.on_lost(repo), one.origin)
        return self._accept(repo_state.on_scope(repo, self.policy.digest), one.origin)

    def _quarantined(self, one: Quarantined) -> Rejection | None:
        repo = self.repos.get(one.did) or self._new_if_tracked(one.did, ())
        if repo is None:
            return _UNTRACKED
        self._ask(repo, Question(Cause.LOSS))
        lost = repo_state.on_lost(repo, SyncReason.UNVERIFIABLE)
        return self._accept(lost if one.frame else Transition(repo), one.origin)

    # -- answers of the fetcher --------------------------------------------------------

    def _identity_learnt(self, learnt: IdentityLearnt) -> Rejection | None:
        repo, answer = self.repos.get(learnt.did), learnt.answer
        if repo is None:
            return None
        if answer.error is None:
            if answer.pds != repo.pds:
                self._accept(Transition(replace(repo, pds=answer.pds)), learnt.origin)
        elif answer.error.startswith(Reason.DID_NOT_FOUND) and repo.status != accounts.DELETED:
            self._ask(repo, Question(Cause.DIRECTORY))
        return None

    def _account_learnt(self, learnt: AccountLearnt) -> Rejection | None:
        repo = self.repos.get(learnt.did)
        if repo is None:
            return _UNTRACKED
        judgement = self._judge(repo, learnt)
        self.judgements.append((learnt, judgement))
        answer = learnt.answer
        if judgement.question is not None:
            self._ask(judgement.repo, judgement.question)
        match judgement.verdict:
            case Verdict.OVERTAKEN:
                return _REPLAY
            case Verdict.STATUS:
                transition = accounts.with_status(judgement.repo, answer.status)
                return self._set_status(transition, answer.epoch, learnt.origin)
            case Verdict.DELETE:
                self._delete_account(judgement.repo, answer.epoch, learnt)
            case _:
                self._accept(Transition(judgement.repo), learnt.origin)
        return None

    def _judge(self, repo: Repo, learnt: AccountLearnt) -> Judgement:
        answer = learnt.answer
        held = answer.host is not None and answer.host in self._held_hosts
        found = accounts.judge(repo, answer, self.policy.accounts, held=held)
        if found.verdict is Verdict.DELETE and not self._is_whole(repo.did):
            # Something in this batch has changed the verdict after the rows were loaded.
            again = Question(Cause.FRAME if accounts.agreed(repo, answer) else Cause.CONFIRM)
            return Judgement(Verdict.UNCONFIRMED, repo, again)
        return found

    def _is_whole(self, did: str) -> bool:
        return self._whole is None or did in self._whole

    def deletes(self, learnt: AccountLearnt) -> bool:
        """Tell whether ``learnt`` deletes the account if nothing comes before it."""
        repo = self.repos.get(learnt.did)
        return repo is not None and self._judge(repo, learnt).verdict is Verdict.DELETE

    def delete_batch(self, one: AccountLearnt | ForgetSeen) -> bool:
        """Delete the loaded records of an account, if ``one`` says that it is deleted or forgotten.

        Returns whether it says so.  For accounts with more records than one batch can take; the
        status changes with the last batch.  If the account returns before that, only a snapshot
        from then on can restore the records.
        """
        repo = self.repos.get(one.did)
        if repo is None or not (isinstance(one, ForgetSeen) or self.deletes(one)):
            return False
        emptied = accounts.emptied(repo, _reason(one))
        emptied = replace(emptied, resync_generation=repo.resync_generation + 1)
        self._delete_records(replace(repo, rev=emptied.rev), one.origin)
        if isinstance(one, ForgetSeen):
            so_far = applied(one.forget, None, self.events)
            self.applied.append(replace(so_far, effect=OperationEffect.ADVANCED))
        self._accept(Transition(emptied), one.origin)
        return True

    # -- commands of operators ---------------------------------------------------------

    def _forget(self, seen: ForgetSeen) -> Rejection | None:
        """Delete the account and its repo, whatever its host says; the DID is unknown then."""
        did, begin = seen.did, len(self.events)
        if seen.forget.operation in self._void:
            return _REPLAY
        repo, incarnation = self.repos.get(did), self._incarnation(did)
        if repo is not None:
            self._delete_account(repo, repo.status_epoch, seen)
            incarnation = self.repos.pop(did).incarnation
            self._dirty_repos.discard(did)
            self._syncs.pop(did, None)
        self.forgotten[did] = incarnation
        self.applied.append(applied(seen.forget, None, self.events[begin:]))
        return None

    def _brings_nothing_in(self, message: Chunk | Proof) -> bool:
        """Tell whether the repo is not known, and ``message`` is no reason to know it."""
        did = message.did
        return did not in self.repos and (did in self.forgotten or message.operation in self._void)

    def _chunk(self, seen: ChunkSeen) -> Rejection | None:
        chunk, begin = seen.chunk, len(self.events)
        if self._brings_nothing_in(chunk):
            self.applied.append(applied(chunk, _UNTRACKED, ()))
            return _UNTRACKED
        repo = self.repos.get(chunk.did) or self._new_repo(chunk.did)
        transition = repo_state.on_chunk(repo, chunk, self.policy.digest)
        if transition.applies:
            said = facts.of_chunk(chunk, self._known_paths(chunk))
            attempt = f"{chunk.operation}/{chunk.attempt}" if chunk.emit_all else None
            self._reconcile(transition.repo, said, seen.origin, attempt)
            self._refresh(chunk)
            if chunk.last:
                present = accounts.present(transition.repo)
                last = repo_state.on_last_chunk(present, chunk)
                # If it is refused, its operation fetches again, unless that was cancelled.
                transition = replace(last, trigger=transition.trigger if last.rejection else None)
        changes = self.events[begin:]
        self._accept(transition, seen.origin)
        if chunk.last and transition.rejection is None:
            self._clear_tombstones(chunk.did, chunk.rev)
        missed = not repo_state.reaches(chunk.rev, repo.hint_rev)
        self.applied.append(applied(chunk, transition.rejection, changes, hint_missed=missed))
        return transition.rejection

    def _proof(self, seen: ProofSeen) -> Rejection | None:
        proof, begin = seen.proof, len(self.events)
        if not self.policy.scope.wants(proof.path) or self._brings_nothing_in(proof):
            self.applied.append(applied(proof, _UNTRACKED, ()))
            return _UNTRACKED
        known = self.repos.get(proof.did)
        if known is None and proof.entry is None:  # nothing here, nothing there
            self.applied.append(applied(proof, None, ()))
            return None
        repo = known or self._new_repo(proof.did)
        transition = repo_state.on_proof(repo, proof, self._row(proof))
        if transition.applies:
            self._reconcile(transition.repo, (facts.of_proof(proof),), seen.origin)
        changes = self.events[begin:]
        self._accept(transition, seen.origin)
        row = self._row(proof) if transition.applies else None
        new_cid = None if row is None else row.cid
        self.applied.append(applied(proof, transition.rejection, changes, new_cid=new_cid))
        return transition.rejection

    def _row(self, proof: Proof) -> Row | None:
        return self.rows.get(proof.did, {}).get(proof.path)

    # -- shared by all -----------------------------------------------------------------

    def _new_repo(self, did: str) -> Repo:
        return self.policy.new_repo(did, self._pds_of(did), self._incarnation(did))

    def _incarnation(self, did: str) -> int:
        """Return the incarnation of a repo that is not known: more than 0 if it was forgotten."""
        return self.forgotten.get(did, self._incarnations.get(did, 0))

    def _new_if_tracked(self, did: str, paths: Iterable[str]) -> Repo | None:
        return self._new_repo(did) if self.policy.tracks(did, paths) else None

    def _known_or_announced(self, did: str) -> Repo | None:
        known = self.repos.get(did)
        return self._new_repo(did) if known is None and self.policy.tracks_all else known

    def _reconcile(
        self, repo: Repo, said: Iterable[Statement], origin: Origin, attempt: str | None = None
    ) -> None:
        """Apply statements; with ``attempt``, also republish the records that did not change.

        A record that is newer than its statement and differs from it is not republished: the
        statement does not have its bytes.
        """
        rows = self.rows.setdefault(repo.did, {})
        for one in said:
            row = rows.get(one.path)
            after, change = reconcile(row, one, complete=repo.complete)
            if after is not None and after is not row:
                rows[one.path] = after
                self._dirty_rows.add((repo.did, one.path))
            if change is not None:
                self.events.append(event_building.record_event(origin, repo, one, change))
            elif attempt is not None and row is not None and row.cid == one.cid is not None:
                rev = max(row.rev, one.rev)
                self.events.append(event_building.republish_event(origin, repo, one, rev, attempt))

    def _accept(self, transition: Transition, origin: Origin) -> Rejection | None:
        """Keep the repo of ``transition``, announce its sync state, queue the sync it asks for."""
        repo, before = transition.repo, self.repos.get(transition.repo.did)
        if repo is not before:
            self.repos[repo.did] = repo
            self._dirty_repos.add(repo.did)
            if before is None and repo.incarnation:  # consumers were told that it is deleted
                self._tell_status(repo, repo.status_epoch, origin)
            if before is None or before.sync_state != repo.sync_state:
                self._announce(repo, origin)
        new_and_behind = before is None and not repo.active
        trigger = transition.trigger or (SyncReason.FIRST_SIGHTING if new_and_behind else None)
        if trigger is not None:
            self._queue_sync(repo, trigger)
        return transition.rejection

    def _announce(self, repo: Repo, origin: Origin) -> None:
        self.events.append(event_building.sync_event(origin, repo))
        if repo.active:
            self._syncs.pop(repo.did, None)
            self.settled.add(repo.did)

    def _set_status(self, transition: Transition, epoch: int, origin: Origin) -> Rejection | None:
        """Accept any status but ``deleted``; the first status of a repo makes an event as well."""
        repo = transition.repo
        before = self.repos.get(repo.did)
        # The first status after an operator's deletion is told by ``_accept``.
        first = before is None and not repo.incarnation
        if first or (before is not None and before.status != repo.status):
            self._tell_status(repo, epoch, origin)
        return self._accept(transition, origin)

    def _tell_status(self, repo: Repo, epoch: int, origin: Origin) -> None:
        self.events.append(
            event_building.account_event(
                origin, repo, repo.status, active=repo.account_active, epoch=epoch
            )
        )

    def _delete_account(self, repo: Repo, epoch: int, why: AccountLearnt | ForgetSeen) -> None:
        gone, origin = accounts.deleted(repo, _reason(why)), why.origin
        last = replace(repo, rev=gone.rev)
        self.events.append(
            event_building.account_event(origin, last, gone.status, active=False, epoch=epoch)
        )
        self._delete_records(last, origin)
        self._accept(Transition(gone), origin)

    def _delete_records(self, repo: Repo, origin: Origin) -> None:
        rows = self.rows.setdefault(repo.did, {})
        for path, row in sorted(rows.items()):
            if row.cid is not None:
                self.events.append(event_building.gone_with_account(origin, repo, path, row.cid))
        self._drop(repo.did, list(rows))

    def _known_paths(self, chunk: Chunk) -> list[str]:
        rows = self.rows.get(chunk.did, {})
        return [p for p in rows if any(p in interval for interval in chunk.intervals)]

    def _clear_tombstones(self, did: str, through: str) -> None:
        rows = self.rows.get(did, {})
        self._drop(did, [p for p, r in rows.items() if r.cid is None and r.rev <= through])
        self.cleared.append(Cleared(did, through))

    def _drop(self, did: str, paths: Iterable[str]) -> None:
        for path in paths:
            del self.rows[did][path]
            self._dirty_rows.add((did, path))
