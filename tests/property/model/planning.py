"""From frames to inputs: the worker's real plan, cache and verdicts, with keys that may be unknown.

A frame is an input of the rules that knows already what its verification will say; it waits, as
in the worker, while the key of its account is not known.  Few frames may wait, so that overflow
is common.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from unittest import mock
from uuid import UUID

from consumer import backfill
from consumer.backfill import IdentityAnswer
from consumer.bounded import BoundedMap
from consumer.scope import Scope
from consumer.state.inputs import AccountSeen, CommitSeen, CommitUnverifiable, Input, SyncSeen
from consumer.state.policy import Policy
from consumer.store.rows import Identity, Lane
from consumer.verify.commit import CommitLimits
from consumer.verify.frames import AccountFrame, CommitFrame, RawOp, SyncFrame
from consumer.verify.verified import Action
from consumer.worker import verdicts
from consumer.worker.cache import LaneCache
from consumer.worker.incoming import IncomingFrame
from consumer.worker.plan import Plan
from consumer.worker.verdicts import Accept, AccountFrames, ReadFrame, Rules, unknown
from procedures.retries import RetryPolicy
from tests.property.model.network import DIDS

MOST_PARKED = 2  # frames of an account
STATUSES_PARKED = 2 * MOST_PARKED  # with those that keep their place in any case
RELAY = "wss://relay.test"
FrameInput = AccountSeen | CommitSeen | CommitUnverifiable | SyncSeen

_LIMITS = CommitLimits(commit_blocks=1, sync_blocks=1, ops=1, rev_ahead=1.0)


@dataclass(frozen=True, slots=True)
class Answer:
    """A record of the backfill topic."""

    key: bytes
    value: bytes
    offset: int = 0
    timestamp: int = 0
    headers: tuple[tuple[str, bytes | None], ...] = ()


class Planning:
    """What the worker of a lane does with frames before they are inputs."""

    def __init__(self) -> None:
        self.cache = LaneCache()
        self._frames: list[FrameInput] = []
        self._parked: dict[str, deque[int]] = {}
        for did in DIDS:
            self.cache.learn(_identity(did))

    def waiting(self, did: str) -> bool:
        """Tell whether frames of ``did`` are parked."""
        return did in self.cache.queues

    def lose_key(self, did: str) -> None:
        """Forget the key of ``did``."""
        self.cache.identities = BoundedMap(len(DIDS))
        for other in DIDS:
            if other != did:
                self.cache.learn(_identity(other))

    def take(self, frames: Iterable[FrameInput], scope: Scope, known: Collection[str]) -> Plan:
        """Plan a batch of live frames; ``known`` are the DIDs that have a repo."""
        plan = _plan(self.cache, scope)
        read = [self._read(self._number(one), plan.rules) for one in frames]
        self._load(read, known)
        with self._believing():
            for frame in read:
                plan.frame(frame)
        return self._noted(plan)

    def find_key(self, did: str, most: int, scope: Scope, known: Collection[str]) -> Plan:
        """Plan a batch with the answer about a key, and then at most ``most`` parked frames."""
        plan = _plan(self.cache, scope)
        answer = IdentityAnswer(did, 1.0, signing_key="key", pds="https://host.test")
        plan.message(Answer(did.encode(), backfill.encode(answer)))
        read = [self._read(n, plan.rules) for n in list(self._parked.get(did, ()))[:most]]
        self._load(read, known)
        with self._believing():
            for frame in read:
                plan.parked_frame(frame)
        return self._noted(plan)

    def _number(self, one: FrameInput) -> int:
        self._frames.append(one)
        return len(self._frames) - 1

    def _read(self, number: int, rules: Rules) -> ReadFrame:
        one = self._frames[number]
        epoch = one.epoch if isinstance(one, AccountSeen) else 1
        incoming = IncomingFrame(one.did, number, 0, one.origin.seq, epoch, None, RELAY, b"frame")
        content = _content(one)
        return ReadFrame(incoming, content, verdicts._is_wanted(content, rules.policy))

    def _load(self, read: Iterable[ReadFrame], known: Collection[str]) -> None:
        for did in unknown(read, self.cache).repos & set(known):
            self.cache.track(did)

    def _believing(self) -> mock._patch[object]:
        """Let a signed frame whose account has a key say what it was made to say."""
        return mock.patch.object(
            verdicts,
            "_verdict_by_key",
            lambda incoming, *_: Accept(self._frames[incoming.offset]),
        )

    def _noted(self, plan: Plan) -> Plan:
        for frame in plan.parks:
            self._parked.setdefault(frame.did, deque()).append(frame.log_offset)
        for did, last in plan.decided.items():
            waiting = self._parked[did]
            while waiting and waiting[0] <= last:
                waiting.popleft()
        return plan


def inputs_of(plan: Plan) -> list[Input]:
    """Return what ``plan`` applies, in order."""
    return [planned.input for planned in plan.inputs]


def _identity(did: str) -> Identity:
    return Identity(did, "key", "https://host.test", None, None, 1.0)


def _plan(cache: LaneCache, scope: Scope) -> Plan:
    rules = Rules(Policy(0, scope, RetryPolicy()), _LIMITS, 1, MOST_PARKED, 1_000, 0.0)
    return Plan(Lane(0, UUID(int=1)), cache, rules, now=1.0)


def _content(one: FrameInput) -> AccountFrames:
    """Return the frame as it is decoded, as far as it counts before it is verified."""
    match one:
        case AccountSeen():
            return AccountFrame(one.origin.seq, one.did, "", one.active, one.status)
        case SyncSeen():
            return SyncFrame(one.origin.seq, one.did, one.verified.rev, "", b"")
        case CommitSeen():
            paths = [op.path for op in one.verified.ops]
        case CommitUnverifiable():
            paths = list(one.paths)
    ops = tuple([RawOp(Action.CREATE, path, None, None) for path in paths])
    return CommitFrame(one.origin.seq, one.did, "", None, "", b"", b"", ops, None)
