"""Events as values, and their envelope on ``chive.events``.  Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Action(StrEnum):
    CREATE = "create"
    UPDATE = "update"
    DELETE = "delete"


class Source(StrEnum):
    """Where the fact behind an event came from; ``live`` means ``FIREHOSE``."""

    FIREHOSE = "firehose"
    BACKFILL = "backfill"
    REFRESH = "refresh"
    ACCOUNT = "account"


@dataclass(frozen=True, slots=True)
class Origin:
    """The part of the envelope that the input decides: shared by all events of one input.

    ``seq`` is the frame's, or the newest seen on the lane; ``time`` the frame's own time, or
    the message's log-append time (ISO 8601, UTC, milliseconds); ``relay`` the relay's URL.
    """

    source: Source
    seq: int
    time: str
    relay: str | None
    operation: str | None = None


@dataclass(frozen=True, slots=True)
class RecordEvent:
    """A record was created, updated or deleted; ``cid`` and ``prev`` are binary CIDs."""

    origin: Origin
    did: str
    incarnation: int
    pds: str | None
    rev: str
    path: str
    action: Action
    cid: bytes | None
    prev: bytes | None
    record: bytes | None  # DAG-CBOR; None for deletes


@dataclass(frozen=True, slots=True)
class AccountEvent:
    """The account's status changed; ``rev`` is the newest known, None before the first."""

    origin: Origin
    did: str
    incarnation: int
    pds: str | None
    rev: str | None
    active: bool
    status: str
    session: int


@dataclass(frozen=True, slots=True)
class IdentityEvent:
    """The relay announced a change of identity; ``handle`` is unverified, None if absent."""

    origin: Origin
    did: str
    incarnation: int
    pds: str | None
    rev: str | None
    handle: str | None
    session: int


@dataclass(frozen=True, slots=True)
class SyncEvent:
    """The repo's sync state changed: ``active``, or ``desynchronized`` with a reason."""

    origin: Origin
    did: str
    incarnation: int
    pds: str | None
    rev: str | None
    state: str
    reason: str | None


Event = RecordEvent | AccountEvent | IdentityEvent | SyncEvent
