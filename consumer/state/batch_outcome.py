"""What comes out of a batch, besides changed repos and rows.  Pure."""

from __future__ import annotations

from collections import Counter

from consumer.backfill import Chunk, LookupKind
from consumer.events.envelope import Event
from consumer.state.accounts import Judgement, Question
from consumer.state.effects import (
    AppliedOperation,
    Cleared,
    Lookup,
    RefreshRequest,
    SyncReason,
    SyncRequest,
)
from consumer.state.inputs import AccountLearnt
from consumer.state.policy import Policy
from consumer.state.repo_state import Repo

_REFRESHES = 100  # of the records that one chunk lacks


class BatchOutcome:
    """Events and requests.

    ``events``    what consumers see, in order
    ``syncs``     automatic syncs to be queued, at most one per DID
    ``settled``   DIDs that became active: automatic syncs still queued for them are moot, and
                  are dropped *before* ``syncs`` are queued
    ``refreshes`` records whose bytes a snapshot lacked: automatic refreshes to be queued
    ``lookups``   for the fetcher
    ``applied``   what messages did for their operations, in order
    ``forgotten`` DIDs that an operator has forgotten, with the incarnation that comes next
    ``cleared``   tombstones to be deleted, before or after the dirty rows are written
    ``triggers``  how often each sync reason occurred
    ``judgements``  what answers about accounts did, for the log and the metrics
    """

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.events: list[Event] = []
        self.lookups: list[Lookup] = []
        self.applied: list[AppliedOperation] = []
        self.cleared: list[Cleared] = []
        self.refreshes: list[RefreshRequest] = []
        self.settled: set[str] = set()
        self.triggers: Counter[SyncReason] = Counter()
        self.judgements: list[tuple[AccountLearnt, Judgement]] = []
        self.forgotten: dict[str, int] = {}
        self._syncs: dict[str, SyncRequest] = {}

    @property
    def syncs(self) -> list[SyncRequest]:
        return list(self._syncs.values())

    def _ask(self, repo: Repo, question: Question) -> None:
        self.lookups.append(
            Lookup(
                repo.did,
                LookupKind.ACCOUNT,
                repo.status_epoch,
                repo.status_seq,
                question.cause,
                question.delay,
            )
        )

    def _queue_sync(self, repo: Repo, reason: SyncReason) -> None:
        if not repo.account_active:
            return
        self.triggers[reason] += 1
        if self.policy.automatic:
            self._syncs[repo.did] = SyncRequest(repo.did, reason, repo.resync_generation)

    def _refresh(self, chunk: Chunk) -> None:
        """Queue a refresh of the records that ``chunk`` knows nothing of, or of the first ones."""
        if self.policy.automatic:
            paths = chunk.unknown[:_REFRESHES]
            self.refreshes += [RefreshRequest(chunk.did, path) for path in paths]
