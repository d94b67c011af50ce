"""What reaches the worker's firehose lane: frames in order, with everything that goes wrong.

The relay forwards as the tailer does (``forward = relevant``): commits of a DID that is not
tracked and that touch no wanted path do not come through, and leave no trace.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from consumer.errors import Reason
from consumer.events.envelope import Origin, Source
from consumer.state.inputs import (
    AccountSeen,
    CommitSeen,
    CommitUnverifiable,
    SyncSeen,
)
from consumer.state.policy import Policy
from procedures.retries import RetryPolicy
from tests.property.model.network import SCOPES, Version
from tests.property.model.planning import FrameInput


class Fate(Enum):
    """What becomes of a commit on its way; lost ones may still come late."""

    DELIVERED = 0
    LOST = 1
    NOT_INVERTING = 2
    BAD_SIGNATURE = 3
    BAD_SIGNATURE_AND_REV = 4


@dataclass(frozen=True)
class EpochBreak:
    """Between two frames of the lane: continuity is lost, and the ``lost`` ``#account`` frames."""

    lost: tuple[str, ...]


Frame = FrameInput | EpochBreak


class Relay:
    """The lane's queue of frames not yet processed, and the tailer's tracked set."""

    def __init__(self, is_tracked: Callable[[str], bool]) -> None:
        self.queue: deque[Frame] = deque()
        self.scope = SCOPES[0]
        self.account_frames: list[AccountSeen] = []
        self._is_tracked = is_tracked
        self._tracked: set[str] = set()
        self._epoch = 1
        self._seq = 0

    def commit(self, version: Version, fate: Fate = Fate.DELIVERED) -> None:
        """Send the commit of ``version`` on its way."""
        if fate is Fate.LOST or not self._forwards(version):
            return
        if fate is Fate.DELIVERED:
            self.queue.append(CommitSeen(version.as_commit(), self._origin()))
        else:
            self.queue.append(self._unverifiable(version, fate))

    def sync(self, version: Version) -> None:
        """Send a ``#sync`` that states ``version``."""
        self.queue.append(SyncSeen(version.as_sync(), self._origin()))

    def account(self, did: str, status: str) -> None:
        """Send an ``#account`` frame."""
        origin, active = self._origin(), status == "active"
        explained = None if active else status
        frame = AccountSeen(did, active, explained, self._epoch, origin)
        self.account_frames.append(frame)
        self.queue.append(frame)

    def break_epoch(self, lost: int) -> None:
        """Start a new epoch; the last ``lost`` frames never reached the lane."""
        gone = [self.queue.pop() for _ in range(min(lost, len(self.queue)))]
        accounts = [one.did for one in gone if isinstance(one, AccountSeen)]
        accounts += [did for one in gone if isinstance(one, EpochBreak) for did in one.lost]
        self.queue.append(EpochBreak(tuple(accounts)))
        self._epoch += 1
        self._seq = 0

    def _forwards(self, version: Version) -> bool:
        did = version.did
        relevant = Policy(0, self.scope, RetryPolicy()).tracks(did, version.paths)
        if not (relevant or did in self._tracked or self._is_tracked(did)):
            return False
        self._tracked.add(did)
        return True

    def _unverifiable(self, version: Version, fate: Fate) -> CommitUnverifiable:
        signed = fate is Fate.NOT_INVERTING
        return CommitUnverifiable(
            did=version.did,
            rev=None if fate is Fate.BAD_SIGNATURE_AND_REV else version.rev,
            signed=signed,
            paths=version.paths,
            reason=Reason.INVERSION_FAILED if signed else Reason.SIGNATURE_INVALID,
            detail="",
            origin=self._origin(),
        )

    def _origin(self) -> Origin:
        self._seq += 1
        return Origin(Source.FIREHOSE, self._seq, "", "wss://relay.test")
