"""Events as values, and their envelope on ``chive.events``.  Pure.

``encode(event)`` gives the Kafka record of an event: JSON of exactly the form that
``config/events.schema.json`` publishes.  Invariants:

- the same event always gives the same bytes, and ``id`` names it: a replay repeats it, and
  nothing else does, not even the same record published again on request;
- the key is what compaction keeps the newest value of: the AT-URI of a record, the DID with
  ``#account``, ``#identity`` or ``#sync`` for the rest;
- headers repeat members of the value, for readers that route or filter without parsing it; one
  whose member has no value is left out;
- no record is ever dropped: one without atproto JSON, or larger than the setting
  ``limits.record`` or than ``MAX_RECORD_JSON``, travels as its DAG-CBOR in ``recordCbor``
  (base64), ``record`` null;
- every value stays below Kafka's maximum of 8 MiB.
"""

from __future__ import annotations

from binascii import b2a_base64
from dataclasses import dataclass
from enum import StrEnum
from hashlib import blake2b
from typing import Any

import orjson

from consumer.events.atproto_json import to_json
from consumer.verify.verified import Action
from procedures.syntax import cid_text

VERSION = 1
MAX_RECORD_JSON = 4 * 1024 * 1024  # bytes: with the rest of the envelope below Kafka's maximum

_ID_BYTES = 16


class Source(StrEnum):
    """Where the fact behind an event came from; ``live`` means ``FIREHOSE``."""

    FIREHOSE = "firehose"
    BACKFILL = "backfill"
    REFRESH = "refresh"
    ACCOUNT = "account"
    OPERATOR = "operator"  # the command to forget an account


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
    """A record was created, updated or deleted; ``cid`` and ``prev`` are binary CIDs.

    ``republished_by`` names the attempt of a sync that publishes a record which did not change, for
    consumers that lost their index: an update whose ``prev`` is its own ``cid``.
    """

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
    republished_by: str | None = None


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
    epoch: int


@dataclass(frozen=True, slots=True)
class IdentityEvent:
    """The relay announced a change of identity; ``handle`` is unverified, None if absent."""

    origin: Origin
    did: str
    incarnation: int
    pds: str | None
    rev: str | None
    handle: str | None
    epoch: int


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

Headers = tuple[tuple[str, bytes], ...]


def _origin_headers(source: Source) -> Headers:
    live = b"true" if source is Source.FIREHOSE else b"false"
    return ("live", live), ("source", source.encode())


# Headers with few values, encoded once.
_ORIGIN = {source: _origin_headers(source) for source in Source}
_ACTION = {action: ("action", action.encode()) for action in Action}
_TYPE = {kind: ("type", kind.encode()) for kind in ("record", "account", "identity", "sync")}


@dataclass(frozen=True, slots=True)
class Form:
    """How events are written.

    A record of more than ``max_record`` bytes of DAG-CBOR is published without JSON.
    ``cloudevents``: every event has the headers of CloudEvents as well.
    """

    max_record: int
    cloudevents: bool = False


@dataclass(frozen=True, slots=True)
class Encoded:
    """The Kafka record of an event.

    ``id`` and ``time`` are those of the value; ``kind`` is its type, of records with the action
    (``record.create``).  With ``tombstone``, a null of the same key and with the same headers
    follows it.
    """

    key: bytes
    value: bytes
    headers: Headers
    id: str
    time: str
    kind: str
    tombstone: bool = False


def encode(event: Event, max_record: int) -> Encoded:
    """Return the Kafka record of ``event``.

    A record of more than ``max_record`` bytes of DAG-CBOR travels as it is, without JSON.
    """
    match event:
        case RecordEvent():
            return _encode_record(event, max_record)
        case AccountEvent():
            fields: dict[str, Any] = {"active": event.active, "status": event.status}
            # A host's answer has no seq of its own; the time of its message tells it from others.
            answer = event.origin.source is not Source.FIREHOSE
            where = (event.origin.source, event.origin.time) if answer else ()
            return _encode_state(event, "account", (event.epoch, *where), fields)
        case IdentityEvent():
            return _encode_state(event, "identity", (event.epoch,), {"handle": event.handle})
        case SyncEvent():
            fields = {"state": event.state, "reason": event.reason}
            stamp = (event.origin.time, event.origin.source, event.origin.operation)
            return _encode_state(event, "sync", stamp, fields)


def _encode_record(event: RecordEvent, max_record: int) -> Encoded:
    uri = f"at://{event.did}/{event.path}"
    collection, _, rkey = event.path.partition("/")
    stamp: tuple[str, ...] = (event.rev, event.path, event.action, (event.cid or b"").hex())
    if event.republished_by is not None:
        stamp = (*stamp, event.republished_by)
    envelope = _opening(event, "record", stamp)
    envelope |= {
        "uri": uri,
        "collection": collection,
        "rkey": rkey,
        "action": event.action,
        "cid": cid_text(event.cid) if event.cid else None,
        "prev": cid_text(event.prev) if event.prev else None,
    }
    envelope |= {"record": None} if event.record is None else _content(event.record, max_record)
    value = _written(envelope | _closing(event))
    headers = (
        _TYPE["record"],
        ("collection", collection.encode()),
        _ACTION[event.action],
        *_ORIGIN[event.origin.source],
        ("did", event.did.encode()),
        ("rev", event.rev.encode()),
    )
    return Encoded(
        uri.encode(),
        value,
        headers,
        id=envelope["id"],
        time=event.origin.time,
        kind=f"record.{event.action}",
        tombstone=event.action is Action.DELETE,
    )


def _content(record: bytes, max_record: int) -> dict[str, object]:
    text = to_json(record, MAX_RECORD_JSON) if len(record) <= max_record else None
    if text is None:
        return {"record": None, "recordCbor": b2a_base64(record, newline=False).decode()}
    return {"record": orjson.Fragment(text)}


def _encode_state(
    event: AccountEvent | IdentityEvent | SyncEvent,
    kind: str,
    stamp: tuple[object, ...],
    fields: dict[str, Any],
) -> Encoded:
    stamp = (event.rev, kind, event.origin.seq, *stamp, *fields.values())
    envelope = _opening(event, kind, tuple(map(str, stamp))) | fields | _closing(event)
    rev = () if event.rev is None else (("rev", event.rev.encode()),)
    headers = (_TYPE[kind], *_ORIGIN[event.origin.source], ("did", event.did.encode()), *rev)
    key = f"{event.did}#{kind}".encode()
    value = _written(envelope)
    return Encoded(key, value, headers, envelope["id"], event.origin.time, kind)


def _opening(event: Event, kind: str, stamp: tuple[str, ...]) -> dict[str, Any]:
    return {
        "v": VERSION,
        "type": kind,
        "id": _identifier(event, stamp),
        "seq": event.origin.seq,
        "time": event.origin.time,
        "did": event.did,
        "repo": event.did,
        "rev": event.rev,
    }


def _closing(event: Event) -> dict[str, Any]:
    origin = event.origin
    return {
        "live": origin.source is Source.FIREHOSE,
        "source": origin.source,
        "operationId": origin.operation,
        "pds": event.pds,
        "relay": origin.relay,
    }


def _identifier(event: Event, stamp: tuple[str, ...]) -> str:
    """Derive an id from what the event says, so that a replay gives the same one."""
    text = "\0".join((event.did, str(event.incarnation), *stamp))
    return blake2b(text.encode(), digest_size=_ID_BYTES).hexdigest()


def _written(envelope: dict[str, Any]) -> bytes:
    """Return the JSON of an envelope, which may wait long for Kafka, in no more memory than it has.

    What orjson returns keeps the buffer it was written to: 4 KiB or more for 700 bytes.
    """
    return b"".join((orjson.dumps(envelope), b""))
