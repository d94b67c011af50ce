"""The database and the worker: every input goes through the real rules, batch by batch."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Sequence
from dataclasses import replace

from consumer.backfill import AccountAnswer, Cause, LookupKind
from consumer.errors import Reason
from consumer.events.envelope import Origin, Source
from consumer.scope import Scope
from consumer.state.batch_state import BatchState, Rows
from consumer.state.effects import AppliedOperation, Lookup, OperationEffect
from consumer.state.facts import Row
from consumer.state.inputs import (
    AccountLearnt,
    AccountSeen,
    ChunkSeen,
    CommitSeen,
    Input,
    Lost,
    ProofSeen,
    ScopeChanged,
    needs,
)
from consumer.state.policy import COMPARING, Policy
from consumer.state.repo_state import Repo
from procedures.retries import RetryPolicy
from tests.property.model.checks import Checks
from tests.property.model.fetching import Operations, Status
from tests.property.model.network import SCOPES, Heard, ModelNetwork
from tests.property.model.planning import STATUSES_PARKED, FrameInput, Planning, inputs_of
from tests.property.model.relay import EpochBreak, Frame

NO_FRAME = Origin(Source.FIREHOSE, 0, "", None)
Learnt = AccountLearnt | ChunkSeen | ProofSeen


class Machine:
    """One lane: its tables, its backfill topic, its worker."""

    def __init__(self, network: ModelNetwork, seen: Counter[str]) -> None:
        self.repos: dict[str, Repo] = {}
        self.rows: Rows = {}
        self.operations = Operations()
        self.lookups: dict[str, Lookup] = {}
        self.answers = 0
        self.backfill: deque[Learnt] = deque()
        self.scope: Scope = SCOPES[0]
        self.lane_scope = SCOPES[0].digest
        self.planning = Planning()
        # How many frames may be parked in this batch of DIDs that had some before it.
        self.waiting: dict[str, int] = {}
        self.checks = Checks(network)
        self.network = network
        self.seen = seen

    def process(self, frames: Iterable[Frame]) -> None:
        """Take a batch up to each loss window, and the rest, and check everything."""
        batch: list[FrameInput] = []
        for frame in frames:
            if isinstance(frame, EpochBreak):
                self._take(batch)
                self._lose(frame)
                batch = []
            else:
                batch.append(frame)
        self._take(batch)
        self.check()

    def learn(self, messages: Iterable[Learnt]) -> None:
        """Apply messages of the backfill topic in one transaction, and check everything."""
        self._decide(messages)
        self.check()

    def find_key(self, did: str, most: int) -> None:
        """Learn the key of ``did`` and try ``most`` of its parked frames, and check everything."""
        self._decide(inputs_of(self.planning.find_key(did, most, self.scope, self.repos)))
        self.check()

    def check(self) -> None:
        """Check everything."""
        self.checks.state(self.repos, self.rows, self.operations, self.scope)

    def _drop_status(self, did: str) -> None:
        """Note that a status was dropped: with frames parked only when too many are."""
        if did not in self.waiting:
            self.network.accounts[did].heard = Heard.NO
        elif self.waiting[did] > STATUSES_PARKED:
            self.network.accounts[did].heard = Heard.LOST

    def _take(self, frames: Sequence[FrameInput]) -> None:
        queues = self.planning.cache.queues
        self.waiting = {did: queue.frames + len(frames) for did, queue in queues.items()}
        self._decide(inputs_of(self.planning.take(frames, self.scope, self.repos)))

    def _lose(self, broken: EpochBreak) -> None:
        """Take up a loss window."""
        for account in map(self.network.accounts.__getitem__, broken.lost):
            heeded = account.did in self.repos or self.planning.waiting(account.did)
            if account.heard is not Heard.NO:
                account.heard = Heard.LOST if heeded else Heard.NO
        self._decide([Lost(did, NO_FRAME) for did in self.repos])
        self.planning.cache.doubt_parked()

    def _decide(self, some: Iterable[Input]) -> None:
        """Apply inputs in one transaction."""
        inputs = list(some)
        batch = self._loaded(inputs)
        for one in inputs:
            self._apply(batch, one)
        self._commit(batch)

    def _apply(self, batch: BatchState, one: Input) -> None:
        told = len(batch.events)
        born = isinstance(one, AccountSeen) and batch.policy.tracks_all
        self.checks.hear(one, batch.repos.get(one.did), born=born)
        rejection = batch.apply(one)
        if one.did not in batch.repos:
            self.checks.untold(one.did)
        elif isinstance(one, CommitSeen | ChunkSeen):
            self.checks.present(batch.repos[one.did])
        self.checks.events(batch.events[told:])
        if rejection is not None:
            self.seen[rejection.reason] += 1
            if isinstance(one, AccountSeen) and rejection.reason is Reason.UNTRACKED:
                self._drop_status(one.did)
        elif isinstance(one, ProofSeen) and one.did in batch.repos:
            row = batch.rows[one.did].get(one.proof.path)
            self.checks.proven(one.proof, batch.repos[one.did], row)

    def answer(self, did: str, status: str) -> None:
        """Put the answer to an account lookup on the backfill topic, an hour after the last."""
        asked = self.lookups.pop(did)
        self.answers += 1
        learnt = AccountAnswer(
            did,
            asked.epoch,
            asked.seq,
            status,
            host="host",
            asked_at=self.answers * 3_600.0,
            cause=asked.cause,
        )
        origin = Origin(Source.ACCOUNT, asked.seq, str(self.answers), None)
        self.backfill.append(AccountLearnt(learnt, origin))

    def change_scope(self, scope: Scope, most: int | None = None) -> None:
        """Restart the worker with other wanted collections.

        It takes the repos one by one, and dies after ``most`` of them.
        """
        self.scope = scope
        if not Policy(0, scope, RetryPolicy()).is_other(self.lane_scope):
            return
        others = [did for did, repo in self.repos.items() if repo.scope != scope.digest]
        for did in others[:most]:
            self._decide([ScopeChanged(did, NO_FRAME)])
            self.lane_scope = COMPARING
        if most is None or most > len(others):
            self.lane_scope = scope.digest

    def refuse_sync(self, did: str) -> None:
        """Ask about an account whose host has refused a sync by name."""
        repo = self.repos.get(did)
        if repo is not None and repo.account_active:
            at = repo.status_epoch, repo.status_seq
            self.lookups.setdefault(did, Lookup(did, LookupKind.ACCOUNT, *at, Cause.REFUSAL))

    def ask_sync(self, did: str) -> None:
        """Queue a sync as the controller does when a person asks."""
        repo = self.repos.get(did)
        if repo is not None:
            self.repos[did] = _wanted_again(repo)
        self.operations.add(did, automatic=False)

    def _loaded(self, inputs: Sequence[Input]) -> BatchState:
        need = needs(inputs, self.scope)
        repos = {did: self.repos[did] for did in need.dids if did in self.repos}
        rows: Rows = {did: dict(self.rows.get(did, {})) for did in need.whole_repos}
        for did, path in need.paths:
            self._load(rows, did, [path])
        for did, interval in need.intervals:
            self._load(rows, did, [p for p in self.rows.get(did, {}) if p in interval])
        return BatchState(repos, rows, Policy(0, self.scope, RetryPolicy()))

    def _load(self, rows: Rows, did: str, paths: Iterable[str]) -> None:
        stored = self.rows.get(did, {})
        loaded = rows.setdefault(did, {})
        loaded.update((path, stored[path]) for path in paths if path in stored)

    def _commit(self, batch: BatchState) -> None:
        self.repos.update((repo.did, repo) for repo in batch.dirty_repos())
        for cleared in batch.cleared:
            _clear(self.rows.get(cleared.did, {}), cleared.through)
        for did, path, row in batch.dirty_rows():
            _store(self.rows.setdefault(did, {}), path, row)
        for applied in batch.applied:
            self._finish(applied)
        for did in batch.settled:
            self.operations.settle(did)
            self.operations.retries.discard(did)
        for sync in batch.syncs:
            self.operations.queue_automatic(sync.did)
        for lookup in batch.lookups:
            if lookup.kind is LookupKind.ACCOUNT:
                self.lookups[lookup.did] = lookup
        self.seen.update(batch.triggers)
        self.seen.update(applied.effect for applied in batch.applied)

    def _finish(self, applied: AppliedOperation) -> None:
        op = self.operations.named(applied.operation)
        if op is None or op.status is not Status.RUNNING or applied.attempt != op.attempts:
            return
        if applied.effect is OperationEffect.AGAIN:
            self.operations.queue_again(op, needed=not self.repos[op.did].active)
        elif applied.effect is not OperationEffect.ADVANCED:
            op.status = Status.OVER


def _wanted_again(repo: Repo) -> Repo:
    return replace(repo, resync_generation=repo.resync_generation + 1)


def _clear(rows: dict[str, Row], through: str) -> None:
    for path in [p for p, row in rows.items() if row.cid is None and row.rev <= through]:
        del rows[path]


def _store(rows: dict[str, Row], path: str, row: Row | None) -> None:
    if row is None:
        rows.pop(path, None)
    else:
        rows[path] = row
