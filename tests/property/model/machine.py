"""The database and the worker: every input goes through the real rules, batch by batch."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Sequence
from dataclasses import replace

from consumer.backfill import AccountAnswer, LookupKind
from consumer.events.envelope import Origin, Source
from consumer.scope import Scope
from consumer.state.batch_state import BatchState, Rows
from consumer.state.effects import AppliedOperation, Lookup, OperationEffect
from consumer.state.facts import Row
from consumer.state.inputs import (
    AccountLearnt,
    AccountSeen,
    ChunkSeen,
    Input,
    Lost,
    ProofSeen,
    ScopeChanged,
    needs,
)
from consumer.state.policy import Policy
from consumer.state.repo_state import Repo
from procedures.retries import RetryPolicy
from tests.property.model.checks import Checks
from tests.property.model.fetching import Operations, Status
from tests.property.model.network import SCOPES, ModelNetwork
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
        self.checks = Checks(network)
        self.seen = seen

    def process(self, frames: Iterable[Frame]) -> None:
        """Apply a batch in one transaction, and check everything."""
        inputs = list(self._expanded(frames))
        batch = self._loaded(inputs)
        for one in inputs:
            self._apply(batch, one)
        self._commit(batch)
        self.checks.state(self.repos, self.rows, self.operations, self.scope)

    def _apply(self, batch: BatchState, one: Input) -> None:
        told = len(batch.events)
        born = isinstance(one, AccountSeen) and batch.policy.tracks_all
        self.checks.hear(one, batch.repos.get(one.did), born=born)
        rejection = batch.apply(one)
        if one.did not in batch.repos:
            self.checks.untold(one.did)
        self.checks.events(batch.events[told:])
        if rejection is not None:
            self.seen[rejection.reason] += 1
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

    def change_scope(self, scope: Scope) -> None:
        """Restart the worker with other wanted collections."""
        self.scope = scope
        others = [did for did, repo in self.repos.items() if repo.scope != scope.digest]
        self.process([ScopeChanged(did, NO_FRAME) for did in others])

    def ask_sync(self, did: str) -> None:
        """Queue a sync as the controller does when a person asks."""
        repo = self.repos.get(did)
        if repo is not None:
            self.repos[did] = _wanted_again(repo)
        self.operations.add(did, automatic=False)

    def _expanded(self, frames: Iterable[Frame]) -> Iterable[Input]:
        for frame in frames:
            if isinstance(frame, EpochBreak):
                yield from (Lost(did, NO_FRAME) for did in self.repos)
            else:
                yield frame

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
