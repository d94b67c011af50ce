"""Messages on ``chive.backfill``: what the fetcher learnt, on its way to the worker.  Pure.

One record per message, keyed by DID, DAG-CBOR.  Everything in it was verified by the
fetcher; the worker trusts the topic and decides only whether the message still applies.
"""

from __future__ import annotations

from dataclasses import dataclass

from consumer.scope import Interval


@dataclass(frozen=True, slots=True)
class IdentityAnswer:
    """The DID document of ``did`` as resolved at ``fetched_at`` (Unix seconds).

    ``signing_key`` is a ``did:key`` string, ``pds`` an origin, ``handle`` unverified.
    ``error`` is set, and the rest None, when resolution failed for good (no such DID,
    tombstoned, a document without a usable key).
    """

    did: str
    fetched_at: float
    signing_key: str | None = None
    pds: str | None = None
    handle: str | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True)
class AccountAnswer:
    """What the DID's own PDS of today says about the account, to confirm a deletion.

    ``session`` and ``seq`` are those of the ``#account`` frame that asked; ``status`` is
    ``active`` or one of the lexicon's statuses (``deleted``, ``deactivated``, …).
    """

    did: str
    session: int
    seq: int
    status: str


@dataclass(frozen=True, slots=True)
class Entry:
    """One record of a snapshot chunk or proof: ``cid`` in binary, ``record`` its DAG-CBOR."""

    path: str
    cid: bytes
    record: bytes


@dataclass(frozen=True, slots=True)
class Chunk:
    """Consecutive key intervals of one verified getRepo snapshot.

    ``after`` and ``through`` bound the chunk in key order (``after`` exclusive, None at the
    start; ``through`` inclusive, None at the end, where ``last`` is true).  ``intervals``
    are the wanted intervals clipped to it; ``entries`` are sorted by path.
    """

    did: str
    operation: str
    attempt: int
    rev: str
    data: bytes
    commit: bytes
    scope: bytes
    want: int
    after: str | None
    through: str | None
    last: bool
    intervals: tuple[Interval, ...]
    entries: tuple[Entry, ...]
    emit_all: bool = False


@dataclass(frozen=True, slots=True)
class Proof:
    """A verified getRecord proof: the record at ``path``, or its absence (``entry`` None)."""

    did: str
    operation: str
    rev: str
    path: str
    entry: Entry | None


Message = IdentityAnswer | AccountAnswer | Chunk | Proof
