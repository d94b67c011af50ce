"""Events built from a repo and what happened to it.  Pure."""

from __future__ import annotations

from consumer.errors import Fatal
from consumer.events.envelope import AccountEvent, IdentityEvent, Origin, RecordEvent, SyncEvent
from consumer.state.facts import Statement
from consumer.state.reconcile import Change
from consumer.state.repo_state import Repo
from consumer.verify.verified import Action


def record_event(origin: Origin, repo: Repo, said: Statement, change: Change) -> RecordEvent:
    """Return the event of a change that a statement made."""
    return RecordEvent(
        origin,
        repo.did,
        repo.incarnation,
        repo.pds,
        said.rev,
        said.path,
        change.action,
        said.cid,
        change.prev,
        said.record,
    )


def republish_event(
    origin: Origin, repo: Repo, said: Statement, rev: str, attempt: str
) -> RecordEvent:
    """Return the event that republishes an unchanged record for ``attempt`` of a sync."""
    return RecordEvent(
        origin,
        repo.did,
        repo.incarnation,
        repo.pds,
        rev,
        said.path,
        Action.UPDATE,
        said.cid,
        said.cid,
        said.record,
        attempt,
    )


def gone_with_account(origin: Origin, repo: Repo, path: str, cid: bytes) -> RecordEvent:
    """Return the delete of a record whose account was deleted; ``repo.rev`` is the last."""
    rev = repo.rev
    if rev is None:
        raise Fatal(f"{repo.did} has rows but no rev")
    action = Action.DELETE
    return RecordEvent(
        origin, repo.did, repo.incarnation, repo.pds, rev, path, action, None, cid, None
    )


def account_event(
    origin: Origin, repo: Repo, status: str, *, active: bool, epoch: int
) -> AccountEvent:
    """Return the event of an account that took ``status``."""
    return AccountEvent(
        origin, repo.did, repo.incarnation, repo.pds, repo.rev, active, status, epoch
    )


def identity_event(origin: Origin, repo: Repo, handle: str | None, epoch: int) -> IdentityEvent:
    """Return the event of an announced change of identity."""
    return IdentityEvent(origin, repo.did, repo.incarnation, repo.pds, repo.rev, handle, epoch)


def sync_event(origin: Origin, repo: Repo) -> SyncEvent:
    """Return the event of a repo that has just taken its sync state."""
    return SyncEvent(
        origin, repo.did, repo.incarnation, repo.pds, repo.rev, repo.sync_state, repo.reason
    )
