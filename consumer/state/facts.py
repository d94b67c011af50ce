"""Facts: what a verified source says about single paths of one repository.  Pure.

A fact says: in this repo, at ``rev``, the keys in this interval are exactly these.  Spread over
the paths concerned it is a stream of statements: at ``rev`` the record at ``path`` was ``cid``,
or was absent.  ``docs/decisions/0001-facts.md`` has the reasons.

- A commit states one path per op.
- A proof states one path.
- A chunk states every entry it carries, and the absence of every other known path within
  its intervals.

An *unknown* path, whose record the tree has and whose bytes are missing, is never absent: nothing
is stated of it.

Statements are about wanted paths only; the caller says which paths are wanted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from consumer.backfill import Chunk, Entry, Proof
from consumer.verify.verified import Action, VerifiedCommit, VerifiedOp

Wants = Callable[[str], bool]


@dataclass(frozen=True, slots=True)
class Row:
    """What is known of a path: its record at ``rev``, or a tombstone (``cid`` None)."""

    cid: bytes | None
    rev: str


@dataclass(frozen=True, slots=True)
class ClaimedChange:
    """The change that an op claims to be: its action, and the CID that it replaces.

    The signature of a commit covers neither its ops nor ``prevData``.  A relay can change both
    together, and so claim anything about the past of a path that is not known here.
    """

    action: Action
    prev: bytes | None


@dataclass(frozen=True, slots=True)
class Statement:
    """At ``rev``, ``path`` held ``cid`` (whose DAG-CBOR is ``record``), or nothing.

    ``single``: an op or a proof names the path; else a chunk covers it.
    """

    path: str
    rev: str
    cid: bytes | None
    record: bytes | None
    single: bool
    claimed: ClaimedChange | None = None


def of_commit(commit: VerifiedCommit, wants: Wants) -> Iterator[Statement]:
    """Return what the wanted ops of ``commit`` state."""
    return (_of_op(commit.rev, op) for op in commit.ops if wants(op.path))


def _of_op(rev: str, op: VerifiedOp) -> Statement:
    return Statement(op.path, rev, op.cid, op.record, True, ClaimedChange(op.action, op.prev))


def of_proof(proof: Proof) -> Statement:
    """Return what ``proof`` states of its path."""
    entry = proof.entry
    if entry is None:
        return Statement(proof.path, proof.rev, None, None, single=True)
    return Statement(proof.path, proof.rev, entry.cid, entry.record, single=True)


def of_chunk(chunk: Chunk, known: Iterable[str]) -> Iterator[Statement]:
    """Return what ``chunk`` states, in key order, given the ``known`` paths in its intervals."""
    entries = {entry.path: entry for entry in chunk.entries}
    for path in sorted(entries.keys() | set(known).difference(chunk.unknown)):
        yield _of_entry(chunk.rev, path, entries.get(path))


def _of_entry(rev: str, path: str, entry: Entry | None) -> Statement:
    if entry is None:
        return Statement(path, rev, None, None, single=False)
    return Statement(path, rev, entry.cid, entry.record, single=False)
