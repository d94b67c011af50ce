"""The truth: accounts and every version of their repositories.

Roots are hashes of content, so that a repository that returns to an earlier content has its
earlier root again.  Revs are counters in text: only their order matters to the rules.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum

from consumer.scope import Repos, Scope
from consumer.verify.verified import EMPTY_TREE, Action, VerifiedCommit, VerifiedOp, VerifiedSync

DIDS = ("did:plc:a", "did:plc:b")
# In key order: two wanted, one never wanted, one wanted in the wide scope only.
PATHS = ("app.alpha.note/1", "app.alpha.note/2", "app.azure.note/1", "app.beta.note/1")
_WIDE = Scope(("app.alpha.*", "app.beta.*"))
SCOPES = (Scope(("app.alpha.*",)), _WIDE, replace(_WIDE, repos=Repos.ALL))

Records = Mapping[str, bytes]
Writes = Sequence[tuple[str, int]]


def link(content: bytes, codec: int = 0x71) -> bytes:
    """Return a binary CIDv1 of ``content``."""
    return bytes((1, codec, 0x12, 0x20)) + hashlib.sha256(content).digest()


# What a path may hold.
RECORDS = {link(record): record for record in (b"one", b"two")}


def root_of(records: Records) -> bytes:
    """Return the root of a tree with these records."""
    if not records:
        return EMPTY_TREE
    return link(repr(sorted(records.items())).encode())


@dataclass(frozen=True, slots=True)
class Version:
    """A repository at one rev, and the commit that led there."""

    did: str
    rev: str
    since: str | None
    prev_data: bytes
    data: bytes
    records: Records
    ops: tuple[VerifiedOp, ...]

    @property
    def paths(self) -> tuple[str, ...]:
        return tuple(op.path for op in self.ops)

    def as_commit(self) -> VerifiedCommit:
        return VerifiedCommit(
            self.did,
            self.rev,
            self.since,
            self.data,
            self.prev_data,
            link(self.rev.encode()),
            self.ops,
        )

    def as_sync(self) -> VerifiedSync:
        return VerifiedSync(self.did, self.rev, self.data, link(self.rev.encode()))


class Heard(Enum):
    """Whether the lane could hear of an account's newest status by a frame."""

    YES = 0
    LOST = 1  # the frame was lost, and that was noticed
    NO = 2


@dataclass
class Account:
    """One account: its status on its own host, and every version of its repository."""

    did: str
    status: str = "active"
    heard: Heard = Heard.YES
    versions: list[Version] = field(default_factory=list)
    reborn: bool = True  # the next commit starts from nothing

    @property
    def records(self) -> Records:
        return {} if self.reborn else self.versions[-1].records


class ModelNetwork:
    """All accounts, and the clock that revs are taken from."""

    def __init__(self) -> None:
        self.accounts = {did: Account(did) for did in DIDS}
        self._tick = 0

    def write(self, did: str, writes: Writes) -> Version:
        """Commit ``writes`` (path, which of the other things it may hold)."""
        account = self.accounts[did]
        before = account.records
        after = dict(before)
        ops = [_written(after, path, choice) for path, choice in writes]
        self._tick += 1
        version = Version(
            did=did,
            rev=f"{self._tick:04d}",
            since=None if account.reborn else account.versions[-1].rev,
            prev_data=root_of(before),
            data=root_of(after),
            records=after,
            ops=tuple(ops),
        )
        account.versions.append(version)
        account.reborn = False
        return version

    def at(self, did: str, rev: str | None) -> Version | None:
        """Return the version of a repository at exactly ``rev``."""
        versions = self.accounts[did].versions
        return next((v for v in reversed(versions) if v.rev == rev), None)


def _written(records: dict[str, bytes], path: str, choice: int) -> VerifiedOp:
    prev = records.get(path)
    others = [cid for cid in (None, *RECORDS) if cid != prev]
    cid = others[choice % len(others)]
    if cid is None:
        del records[path]
        return VerifiedOp(Action.DELETE, path, None, prev, None)
    records[path] = cid
    action = Action.CREATE if prev is None else Action.UPDATE
    return VerifiedOp(action, path, cid, prev, RECORDS[cid])
