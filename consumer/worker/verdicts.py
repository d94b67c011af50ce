"""From one incoming frame to the verdict on it.  Pure.

``read`` decodes the frame.  ``unknown`` tells what has to be loaded about the accounts of frames
that were read.  ``judge`` decides, once the account is known as far as it can be:

- accept: the frame is an input of the batch, verified, or refused with a reason;
- park (invariant 7): the frame waits for the account's key.  It does if no key is known, and
  if its signature fails under a key that was fetched before the frame came: the account may
  have rotated its key, so that only a key fetched later may refuse the frame.  Later frames of
  the account wait behind it;
- drop: the frame is of an account that is not tracked.  Nothing is verified for it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from consumer.errors import Reason, Refused
from consumer.state.inputs import (
    AccountSeen,
    CommitSeen,
    CommitUnverifiable,
    IdentitySeen,
    Input,
    SyncSeen,
    SyncUnverifiable,
)
from consumer.state.policy import Policy
from consumer.store.rows import Identity
from consumer.verify.commit import CommitLimits, Unverifiable, verify_commit, verify_sync
from consumer.verify.fields import is_time
from consumer.verify.frames import (
    AccountFrame,
    CommitFrame,
    ErrorFrame,
    IdentityFrame,
    InfoFrame,
    Peek,
    SyncFrame,
    decode_frame,
    peek,
)
from consumer.verify.glance import glance
from consumer.verify.keys import SigningKey
from consumer.worker.cache import KnownAccount, LaneCache, ParkedQueue
from consumer.worker.incoming import IncomingFrame, origin_of
from procedures.syntax import is_did, is_handle

# (did, path) is a key of the tables; PostgreSQL's index rows end at 2,704 bytes.
_MAX_DID = 1_024  # characters
_MAX_STATUS = 128  # characters
# What a newer key may cure.
_NEEDS_KEY = frozenset({Reason.SIGNATURE_INVALID, Reason.KEY_UNAVAILABLE})
# Refused before the rev was found not to be in the future.
_REV_UNCHECKED = frozenset({Reason.REV_FUTURE, Reason.KEY_UNAVAILABLE})

Signed = CommitFrame | SyncFrame
AccountFrames = CommitFrame | SyncFrame | AccountFrame | IdentityFrame

SIGNED: Final = (CommitFrame, SyncFrame)
"""The frames that only the account's key can prove."""
UNSIGNED: Final = (AccountFrame, IdentityFrame)
"""The frames that need no key."""


# -- reading ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Rules:
    """The settings that decide on frames.

    ``frame`` and ``parked_bytes`` are in bytes, ``parked_frames`` is a number for each account,
    ``refresh_interval`` the seconds between two fetches of one identity.
    """

    policy: Policy
    commit: CommitLimits
    frame: int
    parked_frames: int
    parked_bytes: int
    refresh_interval: float

    def have_room_in(self, queue: ParkedQueue) -> bool:
        """Tell whether one more frame may be parked behind ``queue``."""
        return queue.frames < self.parked_frames and queue.size < self.parked_bytes

    def have_reserve_in(self, queue: ParkedQueue) -> bool:
        """Tell whether one more frame may be parked behind ``queue`` that is kept in any case."""
        return queue.frames < 2 * self.parked_frames and queue.size < 2 * self.parked_bytes


@dataclass(frozen=True, slots=True)
class ReadFrame:
    """An incoming frame and its content, or why there is none.

    ``wanted``: the content counts even if its account has no repo yet.
    """

    incoming: IncomingFrame
    content: AccountFrames | Refused
    wanted: bool


def read(incoming: IncomingFrame, rules: Rules) -> ReadFrame:
    """Return the frame with its content, or with the reason why it is not readable."""
    try:
        content = decode(incoming, rules.frame)
    except Refused as refused:
        return ReadFrame(incoming, refused, wanted=False)
    return ReadFrame(incoming, content, _is_wanted(content, rules.policy))


def unread(incoming: IncomingFrame, refused: Refused) -> ReadFrame:
    """Return a frame that must not be read for the reason given: it is quarantined."""
    return ReadFrame(incoming, refused, wanted=False)


def decode(incoming: IncomingFrame, limit: int) -> AccountFrames:
    """Return the content of a frame of at most ``limit`` bytes.

    Raises ``Refused`` for what is no event of the account that the tailer saw.
    """
    frame = decode_frame(incoming.frame, limit)
    if isinstance(frame, InfoFrame | ErrorFrame):
        raise Refused(Reason.FRAME_UNKNOWN_TYPE, "names no account")
    if frame.did != incoming.key or len(frame.did) > _MAX_DID:
        raise Refused(Reason.FRAME_MALFORMED, "not the account that the tailer saw")
    if isinstance(frame, AccountFrame) and not _is_storable(frame.status):
        raise Refused(Reason.FRAME_MALFORMED, "status is not a short text")
    return frame


def _is_storable(status: str | None) -> bool:
    return status is None or (len(status) <= _MAX_STATUS and "\0" not in status)


def _is_wanted(frame: AccountFrames, policy: Policy) -> bool:
    if isinstance(frame, CommitFrame):
        return policy.tracks(frame.did, [op.path for op in frame.ops])
    if isinstance(frame, SyncFrame):
        return policy.tracks(frame.did, ())
    return True


# -- what must be known -------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Unknown:
    """DIDs of which the cache does not know whether they have a repo, or their identity."""

    repos: set[str]
    identities: set[str]


def unknown(frames: Iterable[ReadFrame], cache: LaneCache) -> Unknown:
    """Return what to load into ``cache`` before ``frames`` are judged."""
    found = Unknown(set(), set())
    for frame in frames:
        did, content = frame.incoming.key, frame.content
        if isinstance(content, Refused):
            if did not in cache.tracked and is_account(did):
                found.repos.add(did)
        elif isinstance(content, SIGNED):
            if not frame.wanted and did not in cache.tracked:
                found.repos.add(did)
            if cache.identities.get(did) is None:
                found.identities.add(did)
    return found


def is_account(key: str) -> bool:
    """Tell whether a record's key is a DID that fits into the tables."""
    return is_did(key) and len(key) <= _MAX_DID


# -- the verdict --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Accept:
    """The frame is an input of the batch."""

    input: Input


@dataclass(frozen=True, slots=True)
class Park:
    """The frame waits; ``look_up``: look the identity of its account up."""

    look_up: bool


@dataclass(frozen=True, slots=True)
class Drop:
    """The frame is no input; ``kept``: it becomes a dead letter."""

    reason: Reason
    detail: str = ""
    kept: bool = True


Verdict = Accept | Park | Drop

_UNTRACKED = Drop(Reason.UNTRACKED, kept=False)


def judge(frame: ReadFrame, account: KnownAccount, rules: Rules, now: float) -> Verdict:
    """Return the verdict on a live frame; ``now`` is in Unix seconds."""
    queue = account.queue
    if queue is None or is_quarantined(frame):
        return judge_next(frame, account, rules, now)
    if rules.have_room_in(queue):
        return Park(look_up=isinstance(frame.content, IdentityFrame))
    # The queue is full.  What needs no key is still taken.  Without a repo it would be lost, and an
    # older one that is parked would have the last word, so that it waits too.
    if isinstance(frame.content, SIGNED):
        detail = f"{queue.frames} frames of {queue.size} bytes wait for the account's key"
        refused = Refused(Reason.PARKED_OVERFLOW, detail)
        return Accept(_refused(frame.incoming, frame.content, refused, rev=None, signed=False))
    unsigned = isinstance(frame.content, UNSIGNED)
    if unsigned and not account.tracked and rules.have_reserve_in(queue):
        return Park(look_up=False)
    return judge_next(frame, account, rules, now)


def judge_next(frame: ReadFrame, account: KnownAccount, rules: Rules, now: float) -> Verdict:
    """Return the verdict on a frame that has no parked frame of its account before it.

    ``now`` is in Unix seconds.
    """
    incoming, content = frame.incoming, frame.content
    if isinstance(content, Refused):
        return _unreadable(incoming, content, account, rules.policy)
    if not isinstance(content, SIGNED):
        return Accept(_unsigned(incoming, content))
    if not (frame.wanted or account.counts):
        return _UNTRACKED
    if account.identity is None:
        return Park(look_up=True)
    return _verdict_by_key(incoming, content, account.identity, rules, now)


def is_quarantined(frame: ReadFrame) -> bool:
    """Tell whether a frame must not be read."""
    return isinstance(frame.content, Refused) and frame.content.reason is Reason.STALLED


def _unreadable(
    incoming: IncomingFrame, refused: Refused, account: KnownAccount, policy: Policy
) -> Accept | Drop:
    """Return the verdict on a frame without content.

    The tailer keyed it by its account.  If that is tracked, what the frame said is missing.
    """
    if refused.reason is Reason.STALLED:
        return Drop(refused.reason, refused.detail)
    time, paths = _glance(incoming)
    did = incoming.key
    if not (account.tracked or (is_account(did) and policy.tracks(did, paths))):
        return Drop(refused.reason, refused.detail)
    return Accept(
        CommitUnverifiable(
            did=did,
            rev=None,
            signed=False,
            paths=paths,
            reason=refused.reason,
            detail=refused.detail,
            origin=origin_of(incoming, time),
        )
    )


def _glance(incoming: IncomingFrame) -> tuple[str | None, tuple[str, ...]]:
    """Return time and paths of an unreadable frame."""
    look: Peek | None
    try:
        look = peek(incoming.frame)
    except Refused:
        look = glance(incoming.frame)
    if look is None:
        return None, ()
    return look.time if look.time is not None and is_time(look.time) else None, look.paths


def _unsigned(incoming: IncomingFrame, frame: AccountFrame | IdentityFrame) -> Input:
    origin = origin_of(incoming, frame.time)
    if isinstance(frame, AccountFrame):
        return AccountSeen(frame.did, frame.active, frame.status, incoming.epoch, origin)
    handle = frame.handle if frame.handle and is_handle(frame.handle) else None
    return IdentitySeen(frame.did, handle, incoming.epoch, origin)


def _verdict_by_key(
    incoming: IncomingFrame, frame: Signed, identity: Identity, rules: Rules, now: float
) -> Accept | Park:
    try:
        return Accept(_verified(incoming, frame, identity, rules.commit, now))
    except Unverifiable as refused:
        return Accept(_refused(incoming, frame, refused, rev=refused.rev, signed=True))
    except Refused as refused:
        if refused.reason in _NEEDS_KEY and identity.fetched_at * 1000 < incoming.log_time:
            return Park(look_up=True)
        rev = None if refused.reason in _REV_UNCHECKED else frame.rev
        return Accept(_refused(incoming, frame, refused, rev=rev, signed=False))


def _verified(
    incoming: IncomingFrame, frame: Signed, identity: Identity, limits: CommitLimits, now: float
) -> CommitSeen | SyncSeen:
    if identity.signing_key is None:
        raise Refused(Reason.KEY_UNAVAILABLE, identity.error or "no signing key")
    key = SigningKey.from_did_key(identity.signing_key)
    origin = origin_of(incoming, frame.time)
    if isinstance(frame, CommitFrame):
        return CommitSeen(verify_commit(frame, key, limits, now), origin)
    return SyncSeen(verify_sync(frame, key, limits, now), origin)


def _refused(
    incoming: IncomingFrame, frame: Signed, refused: Refused, *, rev: str | None, signed: bool
) -> CommitUnverifiable | SyncUnverifiable:
    origin, reason, detail = origin_of(incoming, frame.time), refused.reason, refused.detail
    if isinstance(frame, SyncFrame):
        return SyncUnverifiable(frame.did, rev, signed, reason, detail, origin)
    paths = tuple([op.path for op in frame.ops])
    return CommitUnverifiable(frame.did, rev, signed, paths, reason, detail, origin)
