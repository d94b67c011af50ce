"""A network of accounts whose firehose is deterministic: a seed always gives the same frames.

Every account has a signed repository; one in ten signs with P-256.  ``truth`` is what the
repositories hold after the frames that were taken: the answer that a consumer must reach.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from simulator.account import Account
from simulator.frames import account_frame, commit_frame, identity_frame, sync_frame
from simulator.repo import START, Repo, Write, tid

COLLECTIONS = (
    "pub.chive.eprint.submission",
    "pub.chive.review.comment",
    "site.standard.document",
    "app.bsky.feed.post",
)

_BATCH = 50  # records in a commit that fills a repository
_TICK = 0.25  # seconds between two frames

Truth = dict[str, dict[str, tuple[bytes, bytes]]]


@dataclass(frozen=True, slots=True)
class Mix:
    """How often what happens: shares of frames, and of single writes.

    ``several`` is the share of commits with two to ten writes; a repository above ``records``
    records grows no more. ``status`` deactivates an account or brings it back.
    """

    update: float = 0.13
    delete: float = 0.15
    several: float = 0.08
    identity: float = 0.002
    sync: float = 0.002
    status: float = 0.0
    records: int = 300


class Network:
    """Accounts, their repositories, and the stream of what happens to them."""

    def __init__(
        self,
        seed: int = 0,
        *,
        accounts: int = 20,
        collections: Sequence[str] = COLLECTIONS,
        mix: Mix | None = None,
        start: float = START,
        first_seq: int = 1,
    ) -> None:
        self.rng = random.Random(seed)
        self.collections = collections
        self.mix = mix or Mix()
        self.clock = start
        self.seq = first_seq - 1
        self.accounts = [
            Account.from_seed(f"{seed}/{number}", "p256" if number % 10 == 9 else "k256")
            for number in range(accounts)
        ]
        self.repos = {account.did: Repo(account, start) for account in self.accounts}
        self.inactive: set[str] = set()

    @property
    def keys(self) -> dict[str, str]:
        """The ``did:key`` of every account, by DID."""
        return {account.did: account.did_key for account in self.accounts}

    def truth(self) -> Truth:
        """Return CID and DAG-CBOR of every record, by DID and path."""
        return {
            did: {path: (cid, record) for path, (record, cid) in repo.records.items()}
            for did, repo in self.repos.items()
        }

    def introduce(self, records: int) -> Iterator[bytes]:
        """Yield the frames of new accounts that fill their repositories with ``records`` each."""
        for did, repo in self.repos.items():
            yield identity_frame(self._next(), did, "someone.test", self.time)
            yield account_frame(self._next(), did, active=True, time=self.time)
            for done in range(0, records, _BATCH):
                writes = [self._create() for _ in range(min(_BATCH, records - done))]
                yield self._committed(repo, writes)

    def preload(self, records: int) -> None:
        """Fill the repositories before the firehose begins: their first commits are lost."""
        for _ in self.introduce(records):
            pass

    def frames(self, count: int) -> Iterator[bytes]:
        """Yield the next ``count`` frames."""
        for _ in range(count):
            account = self.rng.choice(self.accounts)
            yield self._frame(account.did, self.rng.random())

    @property
    def time(self) -> str:
        """The network's clock as frames carry it."""
        moment = datetime.fromtimestamp(self.clock, UTC)
        return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")

    def _next(self) -> int:
        self.seq += 1
        self.clock += _TICK
        return self.seq

    def _frame(self, did: str, chance: float) -> bytes:
        mix, repo = self.mix, self.repos[did]
        if chance < mix.status:
            return self._status_change(did)
        chance -= mix.status
        if did in self.inactive or chance < mix.identity:
            return identity_frame(self._next(), did, "someone.test", self.time)
        if chance < mix.identity + mix.sync and repo.rev is not None:
            seq = self._next()
            return sync_frame(seq, repo.sync(self.clock - repo.clock), self.time)
        return self._committed(repo, self._writes(repo))

    def _status_change(self, did: str) -> bytes:
        if did in self.inactive:
            self.inactive.remove(did)
            return account_frame(self._next(), did, active=True, time=self.time)
        self.inactive.add(did)
        return account_frame(self._next(), did, active=False, status="deactivated", time=self.time)

    def _committed(self, repo: Repo, writes: list[Write]) -> bytes:
        seq = self._next()
        return commit_frame(seq, repo.commit(writes, self.clock - repo.clock), self.time)

    def _writes(self, repo: Repo) -> list[Write]:
        several = self.rng.random() < self.mix.several
        known = list(repo.records)
        chosen: dict[str, Write] = {}
        for _ in range(self.rng.randint(2, 10) if several else 1):
            write = self._write(known)
            chosen[write.path] = write
        return list(chosen.values())

    def _write(self, known: list[str]) -> Write:
        chance = self.rng.random()
        full = len(known) >= self.mix.records
        if not known or (chance >= self.mix.update + self.mix.delete and not full):
            return self._create()
        path = self.rng.choice(known)
        if chance < self.mix.update or (full and chance < 0.5):
            return Write("update", path, self._record(path.partition("/")[0]))
        return Write("delete", path)

    def _create(self) -> Write:
        collection = self.rng.choice(self.collections)
        rkey = tid(self.clock + self.rng.random(), self.rng.getrandbits(10))
        return Write("create", f"{collection}/{rkey}", self._record(collection))

    def _record(self, collection: str) -> dict[str, Any]:
        words = self.rng.choices(_WORDS, k=self.rng.randint(10, 60))
        return {
            "$type": collection,
            "title": " ".join(words[:6]),
            "text": " ".join(words),
            "tags": words[:3],
            "createdAt": self.time,
            "version": self.rng.randint(1, 9),
        }


_WORDS = (
    "archive",
    "claim",
    "evidence",
    "graph",
    "layer",
    "model",
    "proof",
    "tree",
    "über",
    "vérité",
)
