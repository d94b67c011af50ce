"""The account status machine.  Pure.

An account's status is a question, not a broadcast.  ``status`` follows ``#account`` frames in the
order of (epoch, seq), never backwards, and what the account's host of today answers when a sign
says that it may be wrong (``consumer.backfill.Cause``).  Source: https://atproto.com/specs/account.

Frames.  A frame takes effect at once, with three exceptions.  ``deleted`` is asked about first: an
old host says so after a migration.  A frame of another relay than the one before may be a replay:
it raises the question and decides nothing.  One that is the first of another epoch decides, and
raises the question when it contradicts.

Answers.  An answer counts only while no newer frame has come.  It is applied like a frame, but
``takendown`` and ``suspended`` of a frame may be the relay's own measure: they end by a frame of
that relay, or by the host's "active" when a newer signed commit has come from that relay.

Deletions.  Two sources that agree delete at once: a frame and the host of today; or the directory,
which has a tombstone.  What only a host says needs two answers, ``deletion_confirm_after`` apart;
while it says so of too many of its accounts, their deletions wait for a person.

Not active: commits and facts are ignored, the rows stay.  Active again: the repo is
desynchronized and ``resync_generation`` is raised, always.  Deleted: the rows go, nothing at or
below the newest rev known is ever believed again, and the next record belongs to a new incarnation.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from enum import StrEnum

from consumer.backfill import AccountAnswer, AnswerSource, Cause
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
_MEASURES = frozenset({"takendown", "suspended"})  # that a relay may take by itself
_OF_FRAME = frozenset({"", Cause.FRAME})  # no cause: a message of version 1
_PERSONS_PAUSE = 60.0  # seconds between two answers that people ask for
_MANY = 100_000  # accounts of a host, if none of them may go
_HELD_PAUSE = 86_400.0  # seconds until a deletion that waits is asked about again


@dataclass(frozen=True, slots=True)
class AccountRules:
    """The settings of ``[accounts]``; times in seconds.

    ``ask_every``: at most one answer about an account in this time.  ``deletion_confirm_after``:
    from then on a second answer may confirm a deletion that only the host states.
    ``deletion_share``: of a host's accounts, from 0 to 1, that may be gone in a day.
    """

    ask_every: float = 3_600.0
    deletion_confirm_after: float = 3_600.0
    deletion_share: float = 0.05

    def pause(self, cause: Cause) -> float:
        """Return the seconds that must lie between the last answer and one asked for ``cause``.

        A frame that says "deleted" is asked about at once, as often as it comes; for a person the
        pause is a minute.
        """
        match cause:
            case Cause.FRAME:
                return 0.0
            case Cause.PERSON:
                return min(_PERSONS_PAUSE, self.ask_every)
            case Cause.CONFIRM:
                return min(self.deletion_confirm_after, self.ask_every)
            case _:
                return self.ask_every

    def too_many(self, gone: int, tracked: int) -> bool:
        """Tell whether ``gone`` of a host's ``tracked`` accounts in a day are too many.

        One may always go, unless the share is 0.
        """
        return gone > max(self.deletion_share * tracked, 1.0 if self.deletion_share else 0.0)

    def enough(self, gone: int) -> int:
        """Return a number of tracked accounts of which ``gone`` are not too many.

        Where none may go there is no such number: then it is one that says enough to people.
        """
        return math.ceil(gone / self.deletion_share) + 1 if self.deletion_share else _MANY


DEFAULT = AccountRules()
"""The rules without settings of a deployment's own; their numbers are the settings' defaults."""


@dataclass(frozen=True, slots=True)
class Question:
    """The host of today is to be asked about the account, in ``delay`` seconds at the earliest."""

    cause: Cause
    delay: float = 0.0


class Verdict(StrEnum):
    """What an answer about an account does."""

    NOTHING = "nothing"  # it states what is known
    STATUS = "status"  # the status changes
    DELETE = "delete"
    UNCONFIRMED = "unconfirmed"  # the host's word on a deletion, to be confirmed later
    HELD = "held"  # a deletion that waits: too many of the host's accounts are gone
    DISAGREEMENT = "disagreement"  # a relay's measure stands against the host's word
    OVERTAKEN = "overtaken"  # a newer frame has come since it was asked


@dataclass(frozen=True, slots=True)
class Judgement:
    """The verdict on an answer, the repo beside its status and records, and what to ask next.

    ``overruled``: the status that the newest frame states, if the answer states another.
    """

    verdict: Verdict
    repo: Repo
    question: Question | None = None
    overruled: str | None = None


def stated_status(*, active: bool, status: str | None) -> str:
    """Return the status that a frame states: ``active`` decides, ``status`` explains."""
    return ACTIVE_ACCOUNT if active else status or UNEXPLAINED


def is_news(repo: Repo, epoch: int, seq: int) -> bool:
    """Tell whether a frame is newer than the one that set the ratchet."""
    return (epoch, seq) > (repo.status_epoch, repo.status_seq)


def answers_newest(repo: Repo, epoch: int, seq: int) -> bool:
    """Tell whether an answer belongs to the newest ``#account`` frame seen."""
    return (epoch, seq) == (repo.status_epoch, repo.status_seq)


def ratcheted(
    repo: Repo, epoch: int, seq: int, status: str | None = None, relay: str | None = None
) -> Repo:
    """Return ``repo`` with the ratchet at (``epoch``, ``seq``), whose frame states ``status``."""
    return replace(
        repo, status_epoch=epoch, status_seq=seq, frame_status=status, status_relay=relay
    )


def of_other_relay(repo: Repo, relay: str | None) -> bool:
    """Tell whether a frame of ``relay`` comes from another relay than the newest one."""
    return repo.status_relay is not None and relay != repo.status_relay


def contradicts_epoch(repo: Repo, epoch: int, status: str) -> bool:
    """Tell whether a frame is the first of another epoch, and states another status."""
    return repo.status_epoch not in (0, epoch) and status != repo.status


def with_frame(before: Repo, noted: Repo, status: str) -> Transition:
    """Set the status that a frame states, any but ``deleted``.

    ``before`` is the repo before the frame, ``noted`` the repo with the ratchet at it.  An account
    that is active again after a frame that said otherwise is desynchronized, even if that frame
    had no effect yet: what its host did in between is not known.
    """
    returned = status == ACTIVE_ACCOUNT and before.frame_status not in (None, ACTIVE_ACCOUNT)
    if returned and before.account_active:
        return mark_for_resync(noted, SyncReason.REACTIVATED)
    return with_status(noted, status)


def is_sign(repo: Repo, rev: str) -> bool:
    """Tell whether a signed commit at ``rev`` shows that an inactive account may be active."""
    known = newest_rev(repo)
    return not repo.account_active and (known is None or rev > known)


def with_sign(repo: Repo, rev: str, relay: str | None) -> Repo:
    """Return ``repo`` after a sign; it counts against a relay's measure if it is of that relay."""
    if of_other_relay(repo, relay) or repo.inactive_rev is not None:
        return repo
    return replace(repo, inactive_rev=rev)


def present(repo: Repo) -> Repo:
    """Return ``repo`` as one whose host shows that it has the account."""
    return repo if repo.gone_at is None else replace(repo, gone_at=None, gone_host=None)


def judge(repo: Repo, answer: AccountAnswer, rules: AccountRules, *, held: bool) -> Judgement:
    """Return what ``answer`` does to ``repo``.

    ``held``: too many accounts of the answer's host are gone, so that what only it says deletes
    nothing, unless a person asked.
    """
    if not answers_newest(repo, answer.epoch, answer.seq):
        again = Question(Cause.OVERTAKEN) if answer.status != repo.status else None
        return Judgement(Verdict.OVERTAKEN, repo, again)
    if answer.cause == Cause.RELAY:
        repo = replace(repo, status_relay=None)
    if answer.status == DELETED:
        return _judge_deletion(repo, answer, rules, held=held)
    repo = present(repo)
    if answer.status == repo.status:
        return Judgement(Verdict.NOTHING, repo, overruled=_overruled(repo, answer))
    if _is_measure(repo) and not (answer.status == ACTIVE_ACCOUNT and repo.inactive_rev):
        return Judgement(Verdict.DISAGREEMENT, repo, overruled=repo.frame_status)
    stated = replace(repo, frame_status=None)
    return Judgement(Verdict.STATUS, stated, overruled=_overruled(repo, answer))


def _overruled(repo: Repo, answer: AccountAnswer) -> str | None:
    return None if repo.frame_status == answer.status else repo.frame_status


def _is_measure(repo: Repo) -> bool:
    return repo.status in _MEASURES and repo.frame_status == repo.status


def _judge_deletion(
    repo: Repo, answer: AccountAnswer, rules: AccountRules, *, held: bool
) -> Judgement:
    if repo.status == DELETED:
        return Judgement(Verdict.NOTHING, repo)
    if agreed(repo, answer):
        return Judgement(Verdict.DELETE, repo)
    first = repo.gone_at if repo.gone_host == answer.host else None
    if first is None or answer.asked_at < first:
        noted = replace(repo, gone_at=answer.asked_at, gone_host=answer.host)
        later = Question(Cause.CONFIRM, rules.deletion_confirm_after)
        return Judgement(Verdict.UNCONFIRMED, noted, later)
    left = first + rules.deletion_confirm_after - answer.asked_at
    if left > 0:
        return Judgement(Verdict.UNCONFIRMED, repo, Question(Cause.CONFIRM, left))
    if held and answer.cause != Cause.PERSON:
        return Judgement(Verdict.HELD, repo, Question(Cause.CONFIRM, _HELD_PAUSE))
    return Judgement(Verdict.DELETE, repo)


def agreed(repo: Repo, answer: AccountAnswer) -> bool:
    """Tell whether two sources state a deletion: a frame and the host, or the directory."""
    stated = repo.frame_status == DELETED or answer.cause in _OF_FRAME
    return answer.source == AnswerSource.DIRECTORY or stated


def with_status(repo: Repo, status: str) -> Transition:
    """Set any status but ``deleted``."""
    if status == repo.status:
        return Transition(repo)
    changed = replace(repo, status=status, inactive_rev=None, gone_at=None, gone_host=None)
    if changed.account_active:
        return mark_for_resync(changed, SyncReason.REACTIVATED)
    return Transition(changed)


def newest_rev(repo: Repo) -> str | None:
    """Return the newest rev known of the repo, by any signed evidence."""
    return newest(repo.rev, repo.gap_rev, repo.floor_rev, repo.proof_rev)


def emptied(repo: Repo, reason: SyncReason = SyncReason.ACCOUNT_DELETED) -> Repo:
    """Return ``repo`` without its records: the start of another incarnation.

    Its rev is the newest known, its root unknown: the next commit breaks the chain.
    """
    last = newest_rev(repo)
    return replace(
        repo,
        sync_state=SyncState.DESYNCHRONIZED,
        reason=reason,
        rev=last,
        data=None,
        floor_rev=last,
        incarnation=repo.incarnation + 1,
        complete=False,
        warnings=None,
    )


def deleted(repo: Repo, reason: SyncReason = SyncReason.ACCOUNT_DELETED) -> Repo:
    """Return ``repo`` after its confirmed deletion, or as it is forgotten."""
    return replace(emptied(repo, reason), status=DELETED, inactive_rev=None)
