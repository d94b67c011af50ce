"""The sweep: is what is known of a repository in step with its host?  Pure.

Each tracked repository is asked about once in a period, spread evenly: a round walks through all
of them in the order of their DIDs, page by page, and each page has its time.  With many
tracked repositories the listing of the relay is cheaper, and is read instead.

A revision that is newer than ours may be on its way: it counts as missed when it has not come
``confirm_after`` later, and the firehose is past that moment.  Times are Unix seconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from consumer.state.repo_state import ACTIVE_ACCOUNT, SyncState
from procedures.failures import Failure
from procedures.syntax import tid_time

PRESUMED_LISTING = 50_000_000
"""Entries of a listing whose size is not known: that of the public network."""
CHEAPER = 50
"""The number of entries of a listing that cost as much as one question to a host."""
MAX_PAGE = 100
# What is due within this time, and within this share of the period, is taken as one page.
_PAGE_SECONDS, _PAGE_SHARE = 60.0, 0.01
_FIREHOSE_PATIENCE = 30  # times confirm_after: then the firehose is not waited for any more


class Choice(StrEnum):
    """The setting ``discovery.sweep``."""

    AUTO = "auto"
    HOSTS = "hosts"
    LISTING = "listing"


class Way(StrEnum):
    """How a round compares: each repository at its host, or all with the relay's listing."""

    HOSTS = "hosts"
    LISTING = "listing"


class Finding(StrEnum):
    """What the check of a repository found; a closed set, counted by ``finding``."""

    IN_STEP = "in_step"
    NEWER = "newer"  # its host has a newer revision, which may be on its way
    BEHIND = "behind"  # the newer revision was missed: a sync is queued
    SYNCING = "syncing"  # known to be out of step: its sync is due already
    INACTIVE = "inactive"  # the account is not active: the question is whether it still is not
    REFUSED = "refused"  # its host refused by name: the account's status is a question
    UNASKED = "unasked"  # its host could not be asked, or its answer says nothing: asked again
    LATER = "later"  # an earlier check of it is not over


@dataclass(frozen=True, slots=True)
class Tracked:
    """What is known of a repository; ``pds`` is the origin of its host."""

    did: str
    lane: int
    status: str
    sync_state: str
    rev: str | None
    pds: str | None


@dataclass(frozen=True, slots=True)
class Told:
    """What asking for the latest commit came to: exactly one of the first three is set.

    ``rev``: of the latest commit.  ``status``: of the account, by the name of a refusal, or
    because the directory has no such DID (``by_directory``).  ``failure``: why nothing is known,
    with its ``detail``; ``wait``: seconds before which it makes no sense to ask again.
    ``moved``: another host was asked than the known one.
    """

    rev: str | None = None
    status: str | None = None
    failure: Failure | None = None
    detail: str = ""
    wait: float = 0.0
    by_directory: bool = False
    moved: bool = False


@dataclass(frozen=True, slots=True)
class Round:
    """One walk through all repositories: ``taken`` of ``total`` since ``began_at``."""

    way: Way
    began_at: float
    ended: bool
    total: int
    taken: int


def way(choice: Choice, tracked: int, listed: int | None, *, served: bool) -> Way:
    """Return the cheaper way of a round.

    ``tracked`` repositories are known; ``listed`` entries were in the relay's listing when it was
    last read to its end, None: never.  ``served``: as far as is known, the relay serves it.
    """
    if choice is not Choice.AUTO:
        return Way(choice)
    entries = PRESUMED_LISTING if listed is None else listed
    return Way.LISTING if served and entries < tracked * CHEAPER else Way.HOSTS


def page_size(walk: Round, period: float, now: float) -> int:
    """Return how many repositories are taken next: what is due within a minute at most, or late."""
    if walk.taken >= walk.total:
        return MAX_PAGE  # those that have come since the round began
    ahead = min(_PAGE_SECONDS, _PAGE_SHARE * period)
    by_then = walk.total * (now + ahead - walk.began_at) / period
    return min(max(1, int(by_then - walk.taken)), MAX_PAGE)


def page_due(walk: Round, period: float) -> float:
    """Return when the next page is due: the walk takes the whole period.

    What was not counted when the round began is due with the last of those that were.
    """
    return walk.began_at + period * min(walk.taken, max(0, walk.total - 1)) / max(1, walk.total)


def next_round(walk: Round | None, period: float, now: float) -> float:
    """Return when the next round begins; one that is more than a period late begins now."""
    due = now if walk is None else walk.began_at + period
    return now if now - due > period else due


def before_asking(known: Tracked) -> Finding | None:
    """Return what is found without a question to the host; None: it is to be asked."""
    if known.status != ACTIVE_ACCOUNT:
        return Finding.INACTIVE
    return None if known.sync_state == SyncState.ACTIVE else Finding.SYNCING


def finding(known: Tracked, told: Told) -> Finding:
    """Return what the answer of the host means.

    A host that has an older revision is no sign: a backup of it, or one that lags.
    """
    if told.rev is not None:
        newer = known.rev is None or known.rev < told.rev
        return Finding.NEWER if newer else Finding.IN_STEP
    return Finding.UNASKED if told.status is None else Finding.REFUSED


def is_young(rev: str, firehose_at: float | None, now: float, seconds: float) -> bool:
    """Tell whether ``rev`` was made so lately, or the firehose is so late, that it may still come.

    ``firehose_at``: as for ``confirmed``.
    """
    made_at = tid_time(rev)
    return now - made_at < seconds or (firehose_at is not None and firehose_at < made_at)


def confirmed(
    known: Tracked,
    rev: str,
    asked_at: float,
    *,
    firehose_at: float | None,
    confirm_after: float,
    now: float,
) -> Finding:
    """Return what has become of a newer ``rev`` that the host had at ``asked_at``.

    ``firehose_at``: the time up to which the firehose was read, None if it is not known.
    ``NEWER`` means that it may still come.
    """
    if (found := before_asking(known)) is not None:
        return found
    if known.rev is not None and known.rev >= rev:
        return Finding.IN_STEP
    late = firehose_at is not None and firehose_at < asked_at
    patient = now - asked_at < confirm_after * (_FIREHOSE_PATIENCE if late else 1)
    return Finding.NEWER if patient else Finding.BEHIND
