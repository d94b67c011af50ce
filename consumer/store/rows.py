"""Rows as values, for everything that needs them without a driver.  Pure.

A field is a column of the same name, of the type that the driver gives; only ``epoch`` (of the
relay) is stored as ``session``.  The modules beside this one read and write them; only they
know SQL and psycopg.
"""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from consumer.backfill import Cause
from procedures.operations import Type

RELEASED = UUID(int=0)
"""The token of a lane that its last owner gave up in good order."""

UNPUBLISHED = UUID(int=1)
"""The token of a lane that its last owner gave up while Kafka had not answered for its rows."""

NOBODY = frozenset({RELEASED, UNPUBLISHED})
"""The tokens of lanes without an owner."""

NO_STAMP = UUID(int=0)
"""The stamp of rows and markers that were written before there were stamps."""

Headers = tuple[tuple[str, bytes], ...]
"""Headers of a Kafka record."""

Record = tuple[str, str, bytes | None, str]
"""A row of ``records``: DID, path, binary CID (None: a tombstone), rev."""


@dataclass(frozen=True, slots=True)
class Lane:
    """A row of ``lanes``; offsets are the next to be read, ``token`` proves ownership."""

    lane: int
    token: UUID
    firehose_offset: int = 0
    backfill_offset: int = 0
    control_offset: int = 0
    epoch: int = 0
    last_seq: int = 0
    last_out_seq: int = 0
    stalls: int = 0
    scope: bytes | None = None


@dataclass(frozen=True, slots=True)
class OutRow:
    """One Kafka record of a lane, to be published in ``out_seq`` order.

    ``topic`` is the topic's name without the deployment's prefix.  ``stamp`` is random, the same
    for all rows of one transaction of the lane.
    """

    out_seq: int
    topic: str
    partition: int
    key: bytes | None
    headers: Headers
    value: bytes | None
    stamp: UUID = NO_STAMP


@dataclass(frozen=True, slots=True)
class Identity:
    """A row of ``identities``: what a DID document said when it was last resolved.

    ``signing_key`` is a ``did:key``, ``pds`` an origin, ``fetched_at`` in Unix seconds by the
    fetcher's clock.  Without a usable key ``error`` says why, and ``signing_key`` is None.
    """

    did: str
    signing_key: str | None
    pds: str | None
    handle: str | None
    error: str | None
    fetched_at: float


@dataclass(frozen=True, slots=True)
class ParkedFrame:
    """A row of ``parked``: a frame as it was read.

    ``log_offset`` is its offset in ``chive.firehose``, ``log_time`` its log-append time in Unix
    milliseconds.
    """

    did: str
    log_offset: int
    log_time: int
    seq: int
    epoch: int
    relay: str
    frame: bytes


@dataclass(frozen=True, slots=True)
class Parking:
    """A row of ``parking``, with the number and the bytes of the DID's parked frames.

    ``ready``: an answer about its identity has come since; the frames are to be tried again.
    ``doubted``: frames of the account may be missing behind them.
    """

    did: str
    ready: bool
    frames: int
    size: int
    doubted: bool = False


@dataclass(frozen=True, slots=True)
class LookupRequest:
    """A lookup that a worker wants: ``kind`` is a ``LookupKind``, ``cause`` a ``Cause``.

    ``epoch`` and ``seq`` are those of the newest ``#account`` frame (0 for identities); ``delay``
    is in seconds from now, ``every`` the seconds that must lie between two answers about one
    account (0: no bound).
    """

    did: str
    kind: str
    lane: int
    epoch: int = 0
    seq: int = 0
    delay: float = 0.0
    cause: str = Cause.FRAME
    every: float = 0.0


@dataclass(frozen=True, slots=True)
class LeasedLookup:
    """A row of ``lookups`` that a fetcher has leased; ``attempts`` counts those that failed.

    ``at_directory``: it goes to the PLC directory only, and to no account's host.
    """

    did: str
    kind: str
    lane: int
    epoch: int
    seq: int
    version: int
    attempts: int
    at_directory: bool
    cause: str = Cause.FRAME


@dataclass(frozen=True, slots=True)
class RefreshWanted:
    """An automatic refresh of the record at ``path`` to be queued."""

    did: str
    path: str


@dataclass(frozen=True, slots=True)
class WantedOperations:
    """What may be claimed of a type: automatic operations too, those asked for with many too."""

    type: Type
    automatic: bool = True
    behind: bool = True


@dataclass(frozen=True, slots=True)
class DueOperation:
    """An operation that could be claimed; ``host`` is empty if none is asked, or none is known."""

    type: Type
    id: str
    did: str | None
    uri: str | None
    automatic: bool
    behind: bool
    host: str
