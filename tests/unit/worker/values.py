"""Verified values, made short: letters stand for CIDs and roots, numbers in text for revs."""

from __future__ import annotations

from dataclasses import replace

from consumer.backfill import Chunk, Entry, Proof
from consumer.events.envelope import Event, Origin, Source
from consumer.scope import Scope
from consumer.state.batch_state import BatchState, Rows
from consumer.state.facts import Row
from consumer.state.inputs import ChunkSeen, CommitSeen, ProofSeen, SyncSeen
from consumer.state.policy import Policy
from consumer.state.repo_state import Repo, SyncState
from consumer.verify.verified import (
    EMPTY_TREE,
    Action,
    VerifiedCommit,
    VerifiedOp,
    VerifiedSync,
)
from procedures.retries import RetryPolicy

DID = "did:plc:a"
WANTED, OTHER, UNWANTED = "app.alpha.note/1", "app.alpha.note/2", "app.azure.note/1"
SCOPE = Scope(("app.alpha.*",))
POLICY = Policy(3, SCOPE, RetryPolicy())
LIVE = Origin(Source.FIREHOSE, 7, "2026-07-04T14:39:14.123Z", "wss://relay.test")
BACKFILL = replace(LIVE, source=Source.BACKFILL, operation="op")
REFRESH = replace(LIVE, source=Source.REFRESH, operation="op")


def root(name: str) -> bytes:
    return b"root " + name.encode()


def cid(name: str) -> bytes:
    return b"cid " + name.encode()


def create(path: str, to: str) -> VerifiedOp:
    return VerifiedOp(Action.CREATE, path, cid(to), None, to.encode())


def update(path: str, to: str, was: str) -> VerifiedOp:
    return VerifiedOp(Action.UPDATE, path, cid(to), cid(was), to.encode())


def delete(path: str, was: str) -> VerifiedOp:
    return VerifiedOp(Action.DELETE, path, None, cid(was), None)


def commit(
    rev: str, *ops: VerifiedOp, since: str | None, was: bytes, now: bytes | None = None
) -> VerifiedCommit:
    return VerifiedCommit(DID, rev, since, now or root(rev), was, b"commit", ops)


def genesis(rev: str, *ops: VerifiedOp) -> VerifiedCommit:
    return commit(rev, *ops, since=None, was=EMPTY_TREE)


def following(repo: Repo, rev: str, *ops: VerifiedOp) -> VerifiedCommit:
    """Return a commit that continues the chain of ``repo``."""
    return commit(rev, *ops, since=repo.rev, was=repo.data or b"")


def sync(rev: str, data: bytes) -> VerifiedSync:
    return VerifiedSync(DID, rev, data, b"commit")


def known(rev: str = "5", **fields: object) -> Repo:
    """Return an active, complete repo at ``rev``."""
    start = Repo(
        DID,
        POLICY.lane,
        sync_state=SyncState.ACTIVE,
        reason=None,
        rev=rev,
        data=root(rev),
        floor_rev="1",
        complete=True,
        scope=POLICY.digest,
    )
    return replace(start, **fields)  # type: ignore[arg-type]  # a test names real fields


def chunk(rev: str, *paths: str, **fields: object) -> Chunk:
    """Return a whole snapshot in one chunk: each path holds the record of its own name."""
    whole = Chunk(
        did=DID,
        operation="op",
        attempt=1,
        rev=rev,
        data=root(rev),
        commit=b"commit",
        scope=POLICY.digest,
        resync_generation=0,
        after=None,
        through=None,
        last=True,
        intervals=SCOPE.intervals,
        entries=tuple(Entry(path, cid(path), path.encode()) for path in paths),
    )
    return replace(whole, **fields)  # type: ignore[arg-type]  # a test names real fields


def proof(rev: str, path: str, holds: str | None) -> Proof:
    entry = None if holds is None else Entry(path, cid(holds), holds.encode())
    return Proof(DID, "op", 1, rev, path, entry)


def batch_state(repo: Repo | None = None, rows: dict[str, Row] | None = None) -> BatchState:
    loaded: Rows = {} if rows is None else {DID: rows}
    return BatchState({} if repo is None else {DID: repo}, loaded, POLICY)


def committed(value: VerifiedCommit) -> CommitSeen:
    return CommitSeen(value, LIVE)


def synced(value: VerifiedSync) -> SyncSeen:
    return SyncSeen(value, LIVE)


def chunked(value: Chunk) -> ChunkSeen:
    return ChunkSeen(value, BACKFILL)


def proven(value: Proof) -> ProofSeen:
    return ProofSeen(value, REFRESH)


def kinds(events: list[Event]) -> list[str]:
    return [type(event).__name__ for event in events]
