"""From one frame to an input of the batch: verified, parked, or dropped with a reason.  Pure.

``step`` decides with what is known of the frame's account; it asks for nothing and waits for
nothing.  Parking (invariant 7): a frame whose account's key is not known waits, and one whose
signature fails waits for a key that was fetched *after* the frame had arrived.  Only such a key
may refuse it: a cached one may have been rotated.  Later frames of the account wait behind.

Frames of accounts that nobody wants are dropped before anything is paid for them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from consumer.config.settings import LimitSettings
from consumer.errors import Reason, Refused
from consumer.events.envelope import Origin
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
    Frame,
    IdentityFrame,
    InfoFrame,
    SyncFrame,
    decode_frame,
    peek,
)
from consumer.verify.keys import SigningKey
from consumer.worker.incoming import IncomingFrame, origin_of
from procedures.syntax import is_did, is_handle

STALE_IDENTITY = 24 * 3600.0  # older ones are looked up again in the background

# (did, path) is a key of the tables; PostgreSQL's index rows end at 2,704 bytes.
_MAX_DID = 1_024
_MAX_STATUS = 128
# What only another key can cure.
_NEEDS_KEY = frozenset({Reason.SIGNATURE_INVALID, Reason.KEY_UNAVAILABLE})
# Refused before the rev was found to be of today or earlier.
_REV_UNCHECKED = frozenset({Reason.REV_FUTURE, Reason.KEY_UNAVAILABLE})

AccountFrames = CommitFrame | SyncFrame | AccountFrame | IdentityFrame
Signed = CommitFrame | SyncFrame


@dataclass(frozen=True, slots=True)
class Accept:
    """The frame is an input of the batch."""

    input: Input


@dataclass(frozen=True, slots=True)
class Park:
    """The frame waits; ``look_up``: its account must be looked up."""

    look_up: bool


@dataclass(frozen=True, slots=True)
class Drop:
    """The frame is no input; ``kept`` tells that it belongs in the dead letter."""

    reason: Reason
    detail: str = ""
    kept: bool = True


Verdict = Accept | Park | Drop


class Queue(NamedTuple):
    """The parked frames of an account that come before one; false if there are none."""

    frames: int
    size: int  # bytes

    def __bool__(self) -> bool:
        return self.frames > 0


NOBODY = Queue(0, 0)


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of a frame's account."""

    identity: Identity | None
    tracked: bool
    waiting: Queue


@dataclass(frozen=True, slots=True)
class Rules:
    """The settings that decide; sizes in bytes, ``refresh_interval`` in seconds."""

    policy: Policy
    commit: CommitLimits
    frame: int
    parked_frames: int
    parked_bytes: int
    refresh_interval: float  # at most one fetch of an identity in so long

    @staticmethod
    def of(policy: Policy, limits: LimitSettings, refresh_interval: float) -> Rules:
        """Return the rules that the settings make for the lane of ``policy``."""
        return Rules(
            policy=policy,
            commit=CommitLimits(
                limits.commit_blocks, limits.sync_blocks, limits.ops, limits.rev_ahead
            ),
            frame=limits.frame,
            parked_frames=limits.parked_frames,
            parked_bytes=limits.parked_bytes,
            refresh_interval=refresh_interval,
        )

    def have_room_behind(self, waiting: Queue) -> bool:
        """Tell whether one more frame may be parked."""
        return waiting.frames < self.parked_frames and waiting.size < self.parked_bytes


def read(arrival: IncomingFrame, limit: int) -> AccountFrames:
    """Return the decoded frame; raise ``Refused`` for what is no event of an account."""
    frame = decode_frame(arrival.frame, limit)
    if isinstance(frame, InfoFrame | ErrorFrame):
        raise Refused(Reason.FRAME_UNKNOWN_TYPE, "speaks of no account")
    if frame.did != arrival.key or len(frame.did) > _MAX_DID:
        raise Refused(Reason.FRAME_MALFORMED, "not the account that the tailer saw")
    if isinstance(frame, AccountFrame) and not _is_storable(frame.status):
        raise Refused(Reason.FRAME_MALFORMED, "status is not a short text")
    return frame


def unreadable(
    arrival: IncomingFrame, refused: Refused, policy: Policy, *, tracked: bool
) -> Accept | Drop:
    """Return what becomes of a frame that cannot be read.

    The tailer keyed it by its account: if that is tracked, what the frame said is missing.
    """
    time, paths = _glance(arrival, refused)
    did = arrival.key
    if not (tracked or (is_account(did) and policy.tracks(did, paths))):
        return Drop(refused.reason, refused.detail)
    return Accept(
        CommitUnverifiable(
            did=did,
            rev=None,
            signed=False,
            paths=paths,
            reason=refused.reason,
            detail=refused.detail,
            origin=origin_of(arrival, time),
        )
    )


def may_wait(refused: Refused, waiting: Queue, rules: Rules) -> bool:
    """Tell whether an unreadable frame is parked behind those ``waiting``, to keep the order."""
    return refused.reason is not Reason.STALLED and rules.have_room_behind(waiting)


def is_account(key: str) -> bool:
    """Tell whether a record's key is the DID of an account that the tables can hold."""
    return is_did(key) and len(key) <= _MAX_DID


def _glance(arrival: IncomingFrame, refused: Refused) -> tuple[str | None, tuple[str, ...]]:
    """Return the time and the paths of an unreadable frame, if it may be looked at at all."""
    if refused.reason is Reason.STALLED:
        return None, ()
    try:
        look = peek(arrival.frame)
    except Refused:
        return None, ()
    return look.time if look.time is not None and is_time(look.time) else None, look.paths


def must_be_known(frame: Frame, policy: Policy) -> bool:
    """Tell whether the frame counts only if its account is tracked already."""
    match frame:
        case CommitFrame():
            return not policy.tracks(frame.did, [op.path for op in frame.ops])
        case SyncFrame():
            return not policy.tracks(frame.did, ())
    return False


def step(
    arrival: IncomingFrame, frame: AccountFrames, known: Known, rules: Rules, now: float
) -> Verdict:
    """Decide what becomes of one frame; ``now`` is Unix time in seconds."""
    if not known.tracked and must_be_known(frame, rules.policy):
        return Drop(Reason.UNTRACKED, kept=False)
    if known.waiting:
        return _behind(arrival, frame, known, rules)
    match frame:
        case CommitFrame() | SyncFrame():
            return _signed(arrival, frame, known.identity, rules, now)
    return Accept(_unsigned(arrival, frame))


def is_stale(identity: Identity, now: float) -> bool:
    """Tell whether an identity in use should be looked up again in the background."""
    return now - identity.fetched_at > STALE_IDENTITY


def _behind(arrival: IncomingFrame, frame: AccountFrames, known: Known, rules: Rules) -> Verdict:
    """Park a frame behind others.  Beyond the limit only what needs no key is still taken."""
    if rules.have_room_behind(known.waiting):
        return Park(look_up=isinstance(frame, IdentityFrame))
    if isinstance(frame, AccountFrame | IdentityFrame):
        return Accept(_unsigned(arrival, frame))
    frames, size = known.waiting
    detail = f"{frames} frames of {size} bytes wait for the account's key"
    refused = Refused(Reason.PARKED_OVERFLOW, detail)
    return Accept(_refused(arrival, frame, refused, rev=None, signed=False))


def _signed(
    arrival: IncomingFrame, frame: Signed, identity: Identity | None, rules: Rules, now: float
) -> Verdict:
    if identity is None:
        return Park(look_up=True)
    try:
        return Accept(_verified(arrival, frame, identity, rules, now))
    except Unverifiable as refused:
        return Accept(_refused(arrival, frame, refused, rev=refused.rev, signed=True))
    except Refused as refused:
        if refused.reason in _NEEDS_KEY and identity.fetched_at * 1000 < arrival.log_time:
            return Park(look_up=True)
        rev = None if refused.reason in _REV_UNCHECKED else frame.rev
        return Accept(_refused(arrival, frame, refused, rev=rev, signed=False))


def _verified(
    arrival: IncomingFrame, frame: Signed, identity: Identity, rules: Rules, now: float
) -> Input:
    if identity.signing_key is None:
        raise Refused(Reason.KEY_UNAVAILABLE, identity.error or "no signing key")
    key = SigningKey.from_did_key(identity.signing_key)
    origin = origin_of(arrival, frame.time)
    if isinstance(frame, CommitFrame):
        return CommitSeen(verify_commit(frame, key, rules.commit, now), origin)
    return SyncSeen(verify_sync(frame, key, rules.commit, now), origin)


def _refused(
    arrival: IncomingFrame, frame: Signed, refused: Refused, *, rev: str | None, signed: bool
) -> Input:
    origin = origin_of(arrival, frame.time)
    if isinstance(frame, SyncFrame):
        return SyncUnverifiable(frame.did, rev, signed, refused.reason, refused.detail, origin)
    paths = tuple([op.path for op in frame.ops])
    return CommitUnverifiable(frame.did, rev, signed, paths, refused.reason, refused.detail, origin)


def _unsigned(arrival: IncomingFrame, frame: AccountFrame | IdentityFrame) -> Input:
    origin: Origin = origin_of(arrival, frame.time)
    if isinstance(frame, AccountFrame):
        return AccountSeen(frame.did, frame.active, frame.status, arrival.epoch, origin)
    handle = frame.handle if frame.handle and is_handle(frame.handle) else None
    return IdentitySeen(frame.did, handle, arrival.epoch, origin)


def _is_storable(status: str | None) -> bool:
    return status is None or (len(status) <= _MAX_STATUS and "\0" not in status)
