"""The account status machine.  Pure.

``status`` follows ``#account`` frames in the order of (epoch, seq), never backwards.  A frame
takes effect at once, except ``deleted``: an old host says so after a migration.  So the fetcher
asks the account's current host, and the answer counts only while no newer frame has come.
Source: https://atproto.com/specs/account.

Not active: commits and facts are ignored, the rows stay.  Active again: the repo is
desynchronized and ``resync_generation`` is raised.  Deleted: the rows go, nothing at or
below the newest rev known is ever believed again, and the next record belongs to a new incarnation.
"""

from __future__ import annotations

from dataclasses import replace

from consumer.state.effects import SyncReason
from consumer.state.repo_state import (
    ACTIVE_ACCOUNT,
    Repo,
    SyncState,
    Transition,
    mark_for_resync,
    newest,
)

DELETED = "deleted"
UNEXPLAINED = "inactive"  # not active, and the frame has no status


def stated_status(*, active: bool, status: str | None) -> str:
    """Return the status that a frame states: ``active`` decides, ``status`` explains."""
    return ACTIVE_ACCOUNT if active else status or UNEXPLAINED


def is_news(repo: Repo, epoch: int, seq: int) -> bool:
    """Tell whether a frame is newer than the one that set the ratchet."""
    return (epoch, seq) > (repo.status_epoch, repo.status_seq)


def answers_newest(repo: Repo, epoch: int, seq: int) -> bool:
    """Tell whether an answer belongs to the newest ``#account`` frame seen."""
    return (epoch, seq) == (repo.status_epoch, repo.status_seq)


def ratcheted(repo: Repo, epoch: int, seq: int) -> Repo:
    """Return ``repo`` with the ratchet at (``epoch``, ``seq``)."""
    return replace(repo, status_epoch=epoch, status_seq=seq)


def with_status(repo: Repo, status: str) -> Transition:
    """Set any status but ``deleted``."""
    if status == repo.status:
        return Transition(repo)
    changed = replace(repo, status=status)
    if changed.account_active:
        return mark_for_resync(changed, SyncReason.REACTIVATED)
    return Transition(changed)


def newest_rev(repo: Repo) -> str | None:
    """Return the newest rev known of the repo, by any signed evidence."""
    return newest(repo.rev, repo.gap_rev, repo.floor_rev, repo.proof_rev)


def emptied(repo: Repo) -> Repo:
    """Return ``repo`` without its records: the start of another incarnation.

    Its rev is the newest known, its root unknown: the next commit breaks the chain.
    """
    last = newest_rev(repo)
    return replace(
        repo,
        sync_state=SyncState.DESYNCHRONIZED,
        reason=SyncReason.ACCOUNT_DELETED,
        rev=last,
        data=None,
        floor_rev=last,
        incarnation=repo.incarnation + 1,
        complete=False,
    )


def deleted(repo: Repo) -> Repo:
    """Return ``repo`` after its confirmed deletion."""
    return replace(emptied(repo), status=DELETED)
