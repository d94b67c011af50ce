"""An interleaving as a value: a list of steps, and how each is played.

A step is an act and three small numbers that choose its details; every step means something
in every state (or nothing at all), so that a script can be cut anywhere and still plays.
After the last step faults cease, and the network comes to rest: frames arrive, lookups are
answered, and the fetcher runs what is queued, and only that.  By then every cause for a sync
must have been followed.  Then every account says its status once more, every active one
commits, and after another rest the consumer must be where the network is.
"""

from __future__ import annotations

import random
from collections import Counter, deque
from collections.abc import Sequence
from enum import Enum
from typing import NamedTuple, TypeVar

from consumer.backfill import Entry, Proof
from consumer.events.envelope import Origin, Source
from consumer.state.inputs import ChunkSeen, ProofSeen
from tests.property.model.checks import Violation
from tests.property.model.fetching import Download, Operation, Status, chunks_of
from tests.property.model.machine import Machine
from tests.property.model.network import (
    DIDS,
    PATHS,
    RECORDS,
    SCOPES,
    Account,
    Heard,
    ModelNetwork,
    Version,
)
from tests.property.model.relay import Fate, Relay

CHOICES = 60  # x, y and z are below; divisible by 2, 3, 4, 5, 6
SNAPSHOT = Origin(Source.BACKFILL, 0, "", None)
REFRESH = Origin(Source.REFRESH, 0, "", None)
FATES = (*[Fate.DELIVERED] * 6, Fate.LOST, *Fate)
STATUSES = ("deactivated", "suspended", "deleted")
ROUNDS_TO_REST = 25


T = TypeVar("T")


class Act(Enum):
    """What can happen; the value is how often it does."""

    WRITE = (1, 16)
    LATE_COMMIT = (2, 4)
    SYNC_FRAME = (3, 3)
    LEAVE = (4, 2)
    RETURN = (5, 4)
    STATUS_AGAIN = (6, 1)
    FALSE_DELETION = (7, 1)
    OLD_ACCOUNT_FRAME = (8, 1)
    BREAK = (9, 1)
    DELIVER = (10, 14)
    APPLY = (11, 12)
    ANSWER = (12, 3)
    ASK = (13, 2)
    START = (14, 8)
    INJECT = (15, 14)
    ABANDON = (16, 2)
    DROP_CHUNK = (17, 1)
    CANCEL = (18, 1)
    RETRY = (19, 2)
    PROVE = (20, 4)
    SCOPE = (21, 1)
    LOSE_KEY = (22, 2)
    FIND_KEY = (23, 3)


class Step(NamedTuple):
    act: Act
    x: int = 0
    y: int = 0
    z: int = 0


Script = Sequence[Step]

OPENED = 0.7  # the share of scripts that begin with a repository known completely

# Without these little happens.
CORE = (Act.WRITE, Act.DELIVER, Act.START, Act.INJECT, Act.APPLY)


def random_script(seed: int, length: int) -> Script:
    """Return a script of ``length`` steps, out of a random part of all that could happen.

    Rare sequences need concentration: each script leaves out some acts, repeats others, and
    draws its numbers from small pools.
    """
    rng = random.Random(seed)
    weights = [act.value[1] * rng.choice((1, 1, 3) if act in CORE else (0, 1, 3)) for act in Act]
    pools = [_pool(rng, rng.choice((1, 2, 4, CHOICES))) for _ in range(3)]
    acts = rng.choices(list(Act), weights, k=length)
    x, y, z = (rng.choices(pool, k=length) for pool in pools)
    opening = [Step(Act.WRITE), Step(Act.DELIVER)] if rng.random() < OPENED else []
    return opening + [Step(*one) for one in zip(acts, x, y, z, strict=True)]


def _pool(rng: random.Random, size: int) -> Sequence[int]:
    return [rng.randrange(CHOICES) for _ in range(size)] if size < CHOICES else range(CHOICES)


def written(script: Script) -> str:
    """Return ``script`` as text: ``write/0/4/6 deliver``, trailing zeros left out."""
    return " ".join(_trimmed([s.act.name.lower(), *map(str, s[1:])]) for s in script)


def _trimmed(parts: list[str]) -> str:
    while parts[-1] == "0":
        parts.pop()
    return "/".join(parts)


def read(text: str) -> Script:
    """Return the script that ``text`` was ``written`` from."""
    split = (word.split("/") for word in text.split())
    return [Step(Act[name.upper()], *map(int, numbers)) for name, *numbers in split]


def play(script: Script, seen: Counter[str] | None = None) -> None:
    """Play ``script`` to rest; raise Violation when a promise is broken."""
    stage = Stage(Counter() if seen is None else seen)
    for step in script:
        stage.play(step)
    stage.rest()


class Stage:
    """Everything that takes part in one interleaving."""

    def __init__(self, seen: Counter[str]) -> None:
        self.network = ModelNetwork()
        self.machine = Machine(self.network, seen)
        self.relay = Relay(lambda did: did in self.machine.repos)
        self.downloads: list[Download] = []

    def play(self, step: Step) -> None:
        getattr(self, "_" + step.act.name.lower())(DIDS[step.x % 4 == 3], step)

    # -- the network ---------------------------------------------------------------------

    def _write(self, did: str, step: Step) -> None:
        if self.network.accounts[did].status == "deleted":
            return
        first, count = step.x // 4, 1 + step.y // 4 % 3
        writes = [(PATHS[(first + i) % len(PATHS)], step.y + i) for i in range(count)]
        self.relay.commit(self.network.write(did, writes), FATES[step.z % len(FATES)])

    def _late_commit(self, did: str, step: Step) -> None:
        if version := self._version(did, step.z):
            self.relay.commit(version)

    def _sync_frame(self, did: str, step: Step) -> None:
        if version := self._version(did, step.z % 4):
            self.relay.sync(version)

    def _leave(self, did: str, step: Step) -> None:
        account = self.network.accounts[did]
        if account.status != "deleted":
            self._change(account, STATUSES[step.y % len(STATUSES)], step.z)

    def _return(self, did: str, step: Step) -> None:
        account = self.network.accounts[did]
        if account.status == "deleted":
            account.reborn = account.reborn or step.y % 2 == 0
        if account.status != "active":
            self._change(account, "active", step.z)

    def _change(self, account: Account, status: str, z: int) -> None:
        account.status, account.heard = status, Heard.NO
        self._tell_status(account, z)

    def _status_again(self, did: str, step: Step) -> None:
        self._tell_status(self.network.accounts[did], step.z)

    def _false_deletion(self, did: str, _step: Step) -> None:
        self.relay.account(did, "deleted")

    def _tell_status(self, account: Account, z: int) -> None:
        if z % 6:
            self.relay.account(account.did, account.status)
            account.heard = Heard.YES

    def _version(self, did: str, back: int) -> Version | None:
        """Return the version a number of commits ago, or the oldest."""
        versions = self.network.accounts[did].versions
        return versions[max(0, len(versions) - 1 - back)] if versions else None

    # -- the way to the worker ---------------------------------------------------------

    def _old_account_frame(self, _did: str, step: Step) -> None:
        if not self.relay.account_frames:
            return
        old = _pick(self.relay.account_frames, step.z)
        self.relay.queue.append(old)
        repo = self.machine.repos.get(old.did)
        if repo is None or not repo.status_seq:  # nothing shows that it is old
            self.network.accounts[old.did].heard = Heard.NO

    def _break(self, _did: str, step: Step) -> None:
        self.relay.break_epoch(step.z % 3)

    def _deliver(self, _did: str, step: Step) -> None:
        self._process(1 + step.z % 4)

    def _process(self, count: int) -> None:
        if frames := _taken(self.relay.queue, count):
            self.machine.process(frames)

    def _apply(self, _did: str, step: Step) -> None:
        self._learn(1 + step.z % 3)

    def _learn(self, count: int) -> None:
        if messages := _taken(self.machine.backfill, count):
            self.machine.learn(messages)

    def _lose_key(self, did: str, _step: Step) -> None:
        self.machine.planning.lose_key(did)

    def _find_key(self, did: str, step: Step) -> None:
        self.machine.find_key(did, step.z % 5)

    def _scope(self, _did: str, step: Step) -> None:
        """Change the scope; at times that is interrupted, and at times taken back."""
        now = SCOPES.index(self.machine.scope)
        scope = SCOPES[(now + 1 + step.y % 2) % len(SCOPES)]
        if step.z % 3:
            self.machine.change_scope(scope, most=step.z % 3)
            scope = SCOPES[now] if step.z // 3 % 2 else scope
        self.relay.scope = scope
        self.machine.change_scope(scope)
        self.machine.check()

    # -- the fetcher -------------------------------------------------------------------

    def _answer(self, did: str, _step: Step) -> None:
        if did in self.machine.lookups:
            self.machine.answer(did, self.network.accounts[did].status)

    def _ask(self, did: str, _step: Step) -> None:
        self.machine.ask_sync(did)

    def _start(self, _did: str, step: Step) -> None:
        claimable = self.machine.operations.claimable()
        if claimable:
            stale = step.z if step.y % 3 == 0 else 0
            self._download(_pick(claimable, step.x), back=stale, size=1 + step.y // 3 % 2)
        while self.downloads and step.x >= CHOICES // 2:
            self._inject_one(self.downloads[-1])

    def _download(self, op: Operation, *, back: int, size: int) -> None:
        """Claim ``op`` and fetch its repository, unless the host has none to give."""
        version = self._version(op.did, back)
        account = self.network.accounts[op.did]
        if account.status != "active":
            self.machine.refuse_sync(op.did)
        if version is None or account.status != "active" or account.reborn:
            return
        repo = self.machine.repos.get(op.did)
        self.machine.checks.begun(version)
        op.status, op.attempts = Status.RUNNING, op.attempts + 1
        resync_generation = 0 if repo is None else repo.resync_generation
        chunks = chunks_of(
            version, op, self.machine.scope, resync_generation=resync_generation, size=size
        )
        self.downloads.append(Download(op, chunks))

    def _inject(self, _did: str, step: Step) -> None:
        if self.downloads:
            self._inject_one(_pick(self.downloads, step.z))

    def _inject_one(self, download: Download) -> None:
        chunk = download.chunks.pop(0)
        self.machine.backfill.append(ChunkSeen(chunk, SNAPSHOT))
        if not download.chunks:
            self.downloads.remove(download)

    def _abandon(self, _did: str, step: Step) -> None:
        """Lose a lease: the operation is queued again; its download may or may not go on."""
        if not self.downloads:
            return
        download = _pick(self.downloads, step.z)
        if download.operation.status is Status.RUNNING:
            self._queue_again(download.operation)
        if step.y % 2:
            self.downloads.remove(download)

    def _queue_again(self, op: Operation) -> None:
        """Queue ``op`` again, or let a queued automatic sync of the same DID serve."""
        op.status = Status.OVER
        if op.automatic:
            self.machine.operations.queue_automatic(op.did)
        if not op.automatic or not self.machine.operations.queued(op.did):
            op.status = Status.QUEUED

    def _drop_chunk(self, _did: str, step: Step) -> None:
        """Lose a message of the backfill topic; a last chunk never arrives."""
        chunks = [one for one in self.machine.backfill if isinstance(one, ChunkSeen)]
        if not chunks:
            return
        lost = _pick(chunks, step.z)
        self.machine.backfill.remove(lost)
        op = self.machine.operations.named(lost.chunk.operation)
        if lost.chunk.last and op is not None and op.status is Status.RUNNING:
            self._queue_again(op)

    def _cancel(self, _did: str, step: Step) -> None:
        operations = self.machine.operations
        if not operations.cancellable():
            return
        op = _pick(operations.cancellable(), step.z)
        repo = self.machine.repos.get(op.did)
        behind = repo is not None and repo.account_active and not repo.active
        operations.cancel(op, retry=behind)

    def _retry(self, _did: str, _step: Step) -> None:
        self.machine.operations.retry()

    def _prove(self, did: str, step: Step) -> None:
        version = self._version(did, step.z if step.y % 3 == 0 else 0)
        if version is None or self.network.accounts[did].status != "active":
            return
        path = PATHS[step.x // 4 % len(PATHS)]
        cid = version.records.get(path)
        entry = None if cid is None else Entry(path, cid, RECORDS[cid])
        proof = Proof(did, "refresh", 1, version.rev, path, entry)
        self.machine.backfill.append(ProofSeen(proof, REFRESH))

    # -- rest --------------------------------------------------------------------------

    def rest(self) -> None:
        """Let everything come to its end without further faults."""
        self._finish()
        for did, repo in self.machine.repos.items():
            self.machine.checks.noticed(self.network.accounts[did], repo)
        for account in self.network.accounts.values():
            self._last_words(account)
        self._finish()
        for did, repo in self.machine.repos.items():
            self.machine.checks.at_rest(self.network.accounts[did], repo, self.machine.scope)

    def _finish(self) -> None:
        for _ in range(ROUNDS_TO_REST):
            if not self._round():
                return
        raise Violation("does not come to rest", self.machine.operations)

    def _last_words(self, account: Account) -> None:
        self.relay.account(account.did, account.status)
        if account.status == "active":
            self.relay.commit(self.network.write(account.did, [(PATHS[0], 0)]))

    def _round(self) -> bool:
        """Do everything that is due; tell whether there was anything."""
        self._drain()
        for did in list(self.machine.lookups):
            self.machine.answer(did, self.network.accounts[did].status)
        self.machine.operations.retry()
        for op in self.machine.operations.claimable():
            self._download(op, back=0, size=2)
        return bool(self.machine.backfill or self.downloads or self.machine.lookups)

    def _drain(self) -> None:
        while self.relay.queue or self.machine.backfill or self.downloads:
            self._process(5)
            for download in list(self.downloads):
                self._inject_one(download)
            self._learn(5)
        for did in DIDS:
            while self.machine.planning.waiting(did):
                self.machine.find_key(did, 5)


def _taken(queue: deque[T], count: int) -> list[T]:
    return [queue.popleft() for _ in range(min(count, len(queue)))]


def _pick(options: Sequence[T], number: int) -> T:
    return options[number % len(options)]
