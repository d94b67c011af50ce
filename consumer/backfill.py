"""Messages on ``chive.backfill``: what the fetcher learnt, on its way to the worker.  Pure.

One message per Kafka record, keyed by DID.  Everything in it was verified by the fetcher; the
worker trusts the topic and decides only whether the message still applies.

Each is one DAG-CBOR map: ``v`` (the version), ``kind`` and the fields of its dataclass, with
intervals and entries as arrays.  Missing, unknown and mistyped fields are refused, so a change
of a field needs another version.  Version 2 is written; version 1 is read, with defaults for the
fields that it lacks (``_SINCE_2``).  ``Forget`` alone is of version 3, so that a process that does
not know it stops in place of passing over it.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Any, get_type_hints

import cbor2

from consumer.errors import Fatal, Reason, Refused
from consumer.scope import Interval

VERSION = 3
"""The newest version that is read."""
ROWS = "rows"
"""A header: how many known records a chunk may speak of beside those in it, in decimal."""


class LookupKind(StrEnum):
    """What a worker asks the fetcher; the answer is a message of the same kind."""

    IDENTITY = "identity"
    ACCOUNT = "account"


class AnswerSource(StrEnum):
    """Who answered a question about an account."""

    HOST = "host"
    DIRECTORY = "directory"


class Cause(StrEnum):
    """Which sign made an account's status a question."""

    FRAME = "frame"  # an #account frame says that the account is deleted
    RELAY = "relay"  # another relay states another status
    COMMIT = "commit"  # a newer signed commit of an account that is not active
    REFUSAL = "refusal"  # its host refused a request by name
    DIRECTORY = "directory"  # the directory has no such DID any more
    LISTING = "listing"  # a listing states another status
    PERSON = "person"  # a person requested a sync or refresh
    SWEEP = "sweep"  # the sweep asks regularly about accounts that are not active
    LOSS = "loss"  # frames that state it may have been lost
    CONFIRM = "confirm"  # a host's word on a deletion needs a second answer
    OVERTAKEN = "overtaken"  # a newer frame overtook an answer that states another status


class Via(StrEnum):
    """What a record proof was read from: getRecord, or the whole repository."""

    RECORD = "record"
    REPOSITORY = "repository"


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
    """What the DID's current PDS, or the directory, says about the account.

    ``epoch`` and ``seq`` are those of the ``#account`` frame that asked; ``status`` is
    ``active`` or one of the lexicon's statuses (``deleted``, ``deactivated``, …).  The epoch
    travels as ``session``.

    ``source`` tells who answered; ``host`` is the host that was asked, ``asked_at`` the Unix
    seconds before the request, ``cause`` why it was made, ``name`` what the host called its error.
    """

    did: str
    epoch: int
    seq: int
    status: str
    source: str = AnswerSource.HOST
    host: str | None = None
    asked_at: float = 0.0
    cause: str = ""
    name: str | None = None


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

    ``unknown`` are the wanted paths that the tree names and whose bytes the host did not send:
    such a record is neither present nor absent.  ``warnings`` counts, on the last chunk, what was
    left out of the whole repository, by the value of its ``Reason``.
    """

    did: str
    operation: str
    attempt: int
    rev: str
    data: bytes
    commit: bytes
    scope: bytes
    resync_generation: int
    after: str | None
    through: str | None
    last: bool
    intervals: tuple[Interval, ...]
    entries: tuple[Entry, ...]
    emit_all: bool = False
    unknown: tuple[str, ...] = ()
    warnings: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Proof:
    """A verified getRecord proof: the record at ``path``, or its absence (``entry`` None).

    ``attempt`` is the operation's, as in a chunk; ``via`` tells what the host sent.
    """

    did: str
    operation: str
    attempt: int
    rev: str
    path: str
    entry: Entry | None
    via: str = Via.RECORD


@dataclass(frozen=True, slots=True)
class Forget:
    """The command of an operator to forget ``did``; ``attempt`` is the operation's."""

    did: str
    operation: str
    attempt: int


Message = IdentityAnswer | AccountAnswer | Chunk | Proof | Forget

_KINDS: dict[str, type[Message]] = {
    "identity": IdentityAnswer,
    "account": AccountAnswer,
    "chunk": Chunk,
    "proof": Proof,
    "forget": Forget,
}
_NAMES = {shape: kind for kind, shape in _KINDS.items()}
# Fields are sent under their own names, but for these.
_SENT = {"epoch": "session", "resync_generation": "want"}
_FIELDS = {
    shape: {_SENT.get(field.name, field.name): field.name for field in fields(shape)}
    for shape in _KINDS.values()
}
_SINCE_2: dict[type[Message], frozenset[str]] = {
    IdentityAnswer: frozenset(),
    AccountAnswer: frozenset({"source", "host", "asked_at", "cause", "name"}),
    Chunk: frozenset({"unknown", "warnings"}),
    Proof: frozenset({"via"}),
}
_SENT_BY: dict[int, dict[type[Message], set[str]]] = {
    1: {shape: set(_FIELDS[shape]) - since for shape, since in _SINCE_2.items()},
    2: {shape: set(_FIELDS[shape]) for shape in _SINCE_2},
    3: {Forget: set(_FIELDS[Forget])},
}
_WRITTEN = {shape: version for version, shapes in _SENT_BY.items() for shape in shapes}
_TYPES = {shape: get_type_hints(shape) for shape in _KINDS.values()}


def encode(message: Message) -> bytes:
    """Return the value of the Kafka record that carries ``message``."""
    members: dict[str, object] = {
        "v": _WRITTEN[type(message)],
        "kind": _NAMES[type(message)],
    }
    for sent, name in _FIELDS[type(message)].items():
        members[sent] = _plain(getattr(message, name))
    in_order = sorted(members, key=lambda name: (len(name), name))  # as DAG-CBOR wants it
    return cbor2.dumps({name: members[name] for name in in_order})


def decode(data: bytes) -> Message:
    """Return the message that ``encode`` of this or an earlier version wrote.

    Raises ``Refused(BACKFILL_MALFORMED)`` for anything else, and ``Fatal`` for a version newer
    than this process: dropping such a message would lose what its sender takes for delivered.
    """
    members = _members(data)
    version = members.pop("v", None)
    if isinstance(version, int) and version > VERSION:
        raise Fatal(f"chive.backfill holds messages of version {version}: upgrade this process")
    shape = _KINDS.get(str(members.pop("kind", None)))
    if type(version) is not int or version not in _SENT_BY or shape is None:
        raise _malformed("unknown version or kind")
    names, types = _FIELDS[shape], _TYPES[shape]
    if members.keys() != _SENT_BY[version].get(shape):
        raise _malformed(f"wrong fields for {shape.__name__}")
    return shape(
        **{names[sent]: _typed(value, sent, types[names[sent]]) for sent, value in members.items()}
    )


def _malformed(detail: str) -> Refused:
    return Refused(Reason.BACKFILL_MALFORMED, detail)


def _members(data: bytes) -> dict[Any, Any]:
    try:
        value = cbor2.loads(data)
    except (cbor2.CBORDecodeError, ValueError) as error:
        raise _malformed(f"not CBOR: {error}") from error
    if not isinstance(value, dict):
        raise _malformed("not a map")
    return value


def _plain(value: object) -> object:
    match value:
        case Entry(path=path, cid=cid, record=record):
            return [path, cid, record]
        case Interval(lower=lower, upper=upper):
            return [lower, upper]
        case tuple():
            return [_plain(item) for item in value]
    return value


def _typed(value: Any, name: str, expected: Any) -> Any:
    """Return ``value`` as the type of the field ``name``, or refuse it."""
    try:
        if name == "intervals":
            return tuple(_interval(*item) for item in value)
        if name == "entries":
            return tuple(_entry(*item) for item in value)
        if name == "unknown":
            return tuple(_path(item) for item in value)
        if name == "warnings":
            return tuple(_warning(*item) for item in value)
        if name == "entry":
            return None if value is None else _entry(*value)
    except TypeError as error:
        raise _malformed(f"{name}: {error}") from error
    if not isinstance(value, int | float if expected is float else expected):
        raise _malformed(f"{name} is {type(value).__name__}")
    return value


def _interval(lower: object, upper: object) -> Interval:
    if not isinstance(lower, str) or not isinstance(upper, str | None):
        raise TypeError("an interval is two texts")
    return Interval(lower, upper)


def _entry(path: object, cid: object, record: object) -> Entry:
    if not (isinstance(path, str) and isinstance(cid, bytes) and isinstance(record, bytes)):
        raise TypeError("an entry is a path, a CID and a record")
    return Entry(path, cid, record)


def _path(path: object) -> str:
    if not isinstance(path, str):
        raise TypeError("a path is a text")
    return path


def _warning(reason: object, count: object) -> tuple[str, int]:
    if not isinstance(reason, str) or type(count) is not int:
        raise TypeError("a warning is a reason and a number")
    return reason, count
