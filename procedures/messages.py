"""Commands on ``chive.control``: decode, encode.  Pure.

A command is one JSON object of at most 16 KiB (``config/control.schema.json`` says the same in
JSON Schema).  Only ``type`` and its subject are required, so that a bare line from
``kafka-console-producer`` works; an optional field may be null, which means absent:

    {"type": "didSync", "did": "did:plc:…", "emit": "changes" | "all"}
    {"type": "didSync", "dids": ["did:plc:…", …]}, {"type": "didSync", "select": {"all": true}}
    {"type": "reconcile", "did" | "dids" | "select": as in didSync}
    {"type": "recordRefresh", "uri": "at://did:plc:…/collection/rkey"}
    {"type": "cancel", "operationId": "…"}
    {"type": "discover", "collection": "…", "source": "https://…"}
    {"type": "registerHost", "host": "pds.example"}
    {"type": "forget", "did": "did:plc:…"}

beside ``v`` (1), ``id``, ``requestedBy`` and ``requestedAt``.

- Decoding never raises: it gives a command or a ``Refusal`` with a reason of a closed set.
- It is a function of the message and its place alone, so that a replay gives the same command.
  A missing id is derived from offset and timestamp; the prefix of derived ids is reserved, so
  that no producer can take one beforehand.
- An unknown field is refused: a misspelt ``emit`` must not quietly do something else.
- A command for many repositories (``BulkCommand``) has a selection in place of its DID: see
  ``procedures/selections.py``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, ClassVar, TypeVar

import orjson

from procedures import hosts, selections, strict_json, syntax, times
from procedures.selections import By, DidInvalid, Selection, SelectionInvalid
from procedures.strict_json import shown

VERSION = 1
MAX_BYTES = 16 * 1024
DERIVED_PREFIX = "control-"

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:~-]{0,127}")
_REQUESTER = re.compile(r"[\x20-\x7e]{1,2048}")
_ORIGIN = re.compile(r"https?://[a-z0-9.-]{1,253}(:[0-9]{1,5})?")
_SHOWN = 128  # of a field's name or a parser's words, in a message for people

_COMMON = frozenset({"v", "id", "type", "requestedBy", "requestedAt"})


class CommandType(StrEnum):
    """The values of ``type``."""

    DID_SYNC = "didSync"
    RECORD_REFRESH = "recordRefresh"
    CANCEL = "cancel"
    DISCOVER = "discover"
    REGISTER_HOST = "registerHost"
    RECONCILE = "reconcile"
    FORGET = "forget"


class Emit(StrEnum):
    """What a sync publishes: what changed, or every record (for a consumer that lost its index)."""

    CHANGES = "changes"
    ALL = "all"


_TYPES = frozenset(kind.value for kind in CommandType)
_EMITS = frozenset(emit.value for emit in Emit)


class RefusalReason(StrEnum):
    """Why a command was not carried out; the last two are the controller's."""

    TOO_BIG = "command_too_big"
    NOT_JSON = "command_not_json"
    DUPLICATE_KEY = "command_duplicate_key"
    NOT_OBJECT = "command_not_object"
    UNKNOWN_VERSION = "command_unknown_version"
    UNKNOWN_TYPE = "command_unknown_type"
    UNKNOWN_FIELD = "command_unknown_field"
    MISSING_FIELD = "command_missing_field"
    INVALID_FIELD = "command_invalid_field"
    INVALID_ID = "command_invalid_id"
    INVALID_DID = "command_invalid_did"
    INVALID_URI = "command_invalid_uri"
    INVALID_SELECTION = "command_invalid_selection"
    ID_TAKEN = "command_id_taken"
    UNKNOWN_OPERATION = "command_unknown_operation"


@dataclass(frozen=True, slots=True)
class Refusal:
    """A message that is no command; ``detail`` is for people and may quote the message."""

    reason: RefusalReason
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Common:
    """What every command has; ``requested_at`` is Unix seconds."""

    id: str
    requested_by: str | None = None
    requested_at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class DidSync(_Common):
    """Make the index of ``did`` equal to its repository."""

    kind: ClassVar = CommandType.DID_SYNC
    uri: ClassVar[str | None] = None
    did: str
    emit: Emit = Emit.CHANGES

    @property
    def subject(self) -> str:
        return self.did

    @classmethod
    def _decode(cls, fields: Mapping[str, Any], common: _Common) -> DidSync | BulkSync:
        _known(fields, "did", "dids", "select", "emit")
        emit = Emit(_text(fields, "emit", _EMIT) or Emit.CHANGES)
        selection = _selection(fields, "did")
        if selection is not None:
            return BulkSync(**_values(common), selection=selection, emit=emit)
        did = _required(_text(fields, "did", _DID), "did")
        return cls(**_values(common), did=did, emit=emit)

    def _encode(self) -> dict[str, Any]:
        return {"did": self.did, "emit": self.emit}


@dataclass(frozen=True, slots=True, kw_only=True)
class BulkSync(_Common):
    """Make the index of many repositories equal to them: a ``didSync`` with a selection."""

    kind: ClassVar = CommandType.DID_SYNC
    selection: Selection
    emit: Emit = Emit.CHANGES

    @property
    def subject(self) -> str:
        return self.selection.text

    def _encode(self) -> dict[str, Any]:
        return selections.to_fields(self.selection) | {"emit": self.emit}


@dataclass(frozen=True, slots=True, kw_only=True)
class Reconcile(_Common):
    """Ask the hosts of repositories for their latest commits, and sync those that are behind."""

    kind: ClassVar = CommandType.RECONCILE
    emit: ClassVar = Emit.CHANGES
    selection: Selection

    @property
    def subject(self) -> str:
        return self.selection.text

    @classmethod
    def _decode(cls, fields: Mapping[str, Any], common: _Common) -> Reconcile:
        _known(fields, "did", "dids", "select")
        selection = _selection(fields, "did")
        if selection is None:
            did = _required(_text(fields, "did", _DID), "did")
            selection = Selection(By.DIDS, dids=(did,))
        return cls(**_values(common), selection=selection)

    def _encode(self) -> dict[str, Any]:
        return selections.to_fields(self.selection)


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordRefresh(_Common):
    """Make the index of one record, ``at://did/collection/rkey``, equal to its repository."""

    kind: ClassVar = CommandType.RECORD_REFRESH
    emit: ClassVar = Emit.CHANGES
    uri: str

    @property
    def did(self) -> str:
        return self.uri.removeprefix("at://").partition("/")[0]

    @property
    def subject(self) -> str:
        return self.uri

    @classmethod
    def _decode(cls, fields: Mapping[str, Any], common: _Common) -> RecordRefresh:
        _known(fields, "uri")
        uri = _required(_text(fields, "uri", _URI), "uri")
        return cls(**_values(common), uri=uri)

    def _encode(self) -> dict[str, Any]:
        return {"uri": self.uri}


@dataclass(frozen=True, slots=True, kw_only=True)
class Forget(_Common):
    """Delete everything that is known of ``did``.  Its next frame or listing brings it in again."""

    kind: ClassVar = CommandType.FORGET
    uri: ClassVar[str | None] = None
    emit: ClassVar = Emit.CHANGES
    did: str

    @property
    def subject(self) -> str:
        return self.did

    @classmethod
    def _decode(cls, fields: Mapping[str, Any], common: _Common) -> Forget:
        _known(fields, "did")
        did = _required(_text(fields, "did", _DID), "did")
        return cls(**_values(common), did=did)

    def _encode(self) -> dict[str, Any]:
        return {"did": self.did}


@dataclass(frozen=True, slots=True, kw_only=True)
class Cancel(_Common):
    """Stop an operation that has not ended."""

    kind: ClassVar = CommandType.CANCEL
    operation_id: str

    @property
    def subject(self) -> str:
        return self.operation_id

    @classmethod
    def _decode(cls, fields: Mapping[str, Any], common: _Common) -> Cancel:
        _known(fields, "operationId")
        target = _text(fields, "operationId", _OPERATION)
        return cls(**_values(common), operation_id=_required(target, "operationId"))

    def _encode(self) -> dict[str, Any]:
        return {"operationId": self.operation_id}


@dataclass(frozen=True, slots=True, kw_only=True)
class Discover(_Common):
    """Read the listings again: of one collection or all, at one source or from the first on."""

    kind: ClassVar = CommandType.DISCOVER
    collection: str | None = None
    source: str | None = None

    @property
    def subject(self) -> str:
        return f"collection={self.collection or '*'} source={self.source or '*'}"

    @classmethod
    def _decode(cls, fields: Mapping[str, Any], common: _Common) -> Discover:
        _known(fields, "collection", "source")
        collection = _text(fields, "collection", _COLLECTION)
        return cls(
            **_values(common), collection=collection, source=_text(fields, "source", _SOURCE)
        )

    def _encode(self) -> dict[str, Any]:
        fields = {"collection": self.collection, "source": self.source}
        return {name: value for name, value in fields.items() if value is not None}


@dataclass(frozen=True, slots=True, kw_only=True)
class RegisterHost(_Common):
    """Make ``host`` a source of discovery: the repositories that it lists are found there."""

    kind: ClassVar = CommandType.REGISTER_HOST
    host: str

    @property
    def subject(self) -> str:
        return hosts.subject(self.host)

    @classmethod
    def _decode(cls, fields: Mapping[str, Any], common: _Common) -> RegisterHost:
        _known(fields, "host")
        return cls(**_values(common), host=_required(_text(fields, "host", _HOST), "host"))

    def _encode(self) -> dict[str, Any]:
        return {"host": self.host}


WorkCommand = DidSync | RecordRefresh | Forget
"""Commands that become operations: ``operations.Type`` has the value of their ``kind``."""

BulkCommand = BulkSync | Reconcile
"""Commands for many repositories: each becomes one operation with children."""

SearchCommand = Discover | RegisterHost
"""Commands that become operations of the type discovery, with ``subject`` as their reason."""

Command = WorkCommand | BulkCommand | Cancel | SearchCommand

_Decodable = type[DidSync | Reconcile | RecordRefresh | Forget | Cancel | SearchCommand]
_CLASSES: Mapping[CommandType, _Decodable] = {
    each.kind: each
    for each in (DidSync, Reconcile, RecordRefresh, Forget, Cancel, Discover, RegisterHost)
}


def _values(common: _Common) -> dict[str, Any]:
    return {
        "id": common.id,
        "requested_by": common.requested_by,
        "requested_at": common.requested_at,
    }


class _Refused(Exception):
    def __init__(self, reason: RefusalReason, detail: str) -> None:
        super().__init__(detail)
        self.refusal = Refusal(reason, detail)


def is_operation_id(text: str) -> bool:
    """Tell whether ``text`` can name an operation: 1 to 128 characters, no blanks."""
    return _ID.fullmatch(text) is not None


def is_origin(text: str) -> bool:
    """Tell whether ``text`` is ``https://host[:port]``, or the same with http."""
    return _ORIGIN.fullmatch(text) is not None


def is_record_uri(text: str) -> bool:
    """Tell whether ``text`` names a record of a DID: ``at://did/collection/rkey``, no handle."""
    did, _, path = text.removeprefix("at://").partition("/")
    return (
        text.startswith("at://")
        and len(did) <= syntax.MAX_DID
        and len(path) <= syntax.MAX_PATH
        and syntax.is_did(did)
        and syntax.is_path(path)
    )


def _is_did(text: str) -> bool:
    return len(text) <= syntax.MAX_DID and syntax.is_did(text)


def _is_free_id(text: str) -> bool:
    return is_operation_id(text) and not text.startswith(DERIVED_PREFIX)


def _is_datetime(text: str) -> bool:
    try:
        times.from_text(text)
    except ValueError:
        return False
    return True


@dataclass(frozen=True, slots=True)
class _Syntax:
    """What the text of a field must be: ``words`` say it to who wrote another."""

    valid: Callable[[str], bool]
    words: str
    reason: RefusalReason = RefusalReason.INVALID_FIELD


_EMIT = _Syntax(_EMITS.__contains__, "one of changes, all")
_DID = _Syntax(_is_did, "a DID", RefusalReason.INVALID_DID)
_URI = _Syntax(is_record_uri, "at://DID/collection/rkey", RefusalReason.INVALID_URI)
_OPERATION = _Syntax(
    is_operation_id, "1 to 128 letters, digits and ._:~-", RefusalReason.INVALID_ID
)
_FREE_ID = _Syntax(
    _is_free_id,
    f"{_OPERATION.words}, not beginning with {DERIVED_PREFIX}",
    RefusalReason.INVALID_ID,
)
_COLLECTION = _Syntax(syntax.is_nsid, "a collection such as pub.chive.eprint.submission")
_SOURCE = _Syntax(is_origin, "https://host[:port] in lower case")
_HOST = _Syntax(
    hosts.is_host, "a domain in lower case, with its port if it has one, such as pds.example:8443"
)
_DATETIME = _Syntax(_is_datetime, "a time such as 2026-07-04T14:39:14.123Z")
_REQUESTED_BY = _Syntax(
    lambda text: _REQUESTER.fullmatch(text) is not None, "1 to 2048 printable characters of ASCII"
)


def _text(fields: Mapping[str, Any], name: str, must_be: _Syntax) -> str | None:
    value = fields.get(name)
    if value is None:
        return None
    if not isinstance(value, str) or not must_be.valid(value):
        raise _Refused(must_be.reason, f"{name} must be {must_be.words}, not {shown(value)}")
    return value


_T = TypeVar("_T")


def _required(value: _T | None, name: str) -> _T:
    if value is None:
        raise _Refused(RefusalReason.MISSING_FIELD, f"{name} is missing")
    return value


def _known(fields: Mapping[str, Any], *subject: str) -> None:
    unknown = sorted(fields.keys() - _COMMON - set(subject))
    if unknown:
        raise _Refused(RefusalReason.UNKNOWN_FIELD, f"{unknown[0][:_SHOWN]!r} is not a field")


def _selection(fields: Mapping[str, Any], single: str) -> Selection | None:
    """Return the selection in ``fields``; None: they have the field ``single``, or nothing."""
    given = [name for name in (single, "dids", "select") if fields.get(name) is not None]
    if len(given) > 1:
        detail = f"exactly one of {single}, dids and select, not {' and '.join(given)}"
        raise _Refused(RefusalReason.INVALID_SELECTION, detail)
    if not given or given == [single]:
        return None
    try:
        return selections.of_fields(fields)
    except DidInvalid as error:
        raise _Refused(RefusalReason.INVALID_DID, str(error)) from error
    except SelectionInvalid as error:
        raise _Refused(RefusalReason.INVALID_SELECTION, str(error)) from error


def _fields(value: bytes | None) -> dict[str, Any]:
    if value is None or len(value) > MAX_BYTES:
        size = "no value" if value is None else f"{len(value)} bytes"
        reason = RefusalReason.NOT_JSON if value is None else RefusalReason.TOO_BIG
        raise _Refused(reason, f"{size}; a command is JSON of at most {MAX_BYTES} bytes")
    try:
        fields = strict_json.loads(value)
    except strict_json.DuplicateKey as error:
        raise _Refused(RefusalReason.DUPLICATE_KEY, str(error)[:_SHOWN]) from error
    except strict_json.NotJson as error:
        raise _Refused(RefusalReason.NOT_JSON, str(error)[:_SHOWN]) from error
    if not isinstance(fields, dict):
        raise _Refused(RefusalReason.NOT_OBJECT, f"{shown(fields)} is not an object")
    return fields


def _type(fields: Mapping[str, Any]) -> CommandType:
    version = fields.get("v")
    if version is not None and (isinstance(version, bool) or version != VERSION):
        raise _Refused(RefusalReason.UNKNOWN_VERSION, f"v is {shown(version)}, not {VERSION}")
    name = fields.get("type")
    if not isinstance(name, str) or name not in _TYPES:
        known = ", ".join(CommandType)
        given = "missing" if name is None else shown(name)
        raise _Refused(RefusalReason.UNKNOWN_TYPE, f"type is {given}; there are {known}")
    return CommandType(name)


def _command(fields: Mapping[str, Any], offset: int, timestamp: int) -> Command:
    kind = _type(fields)
    identifier = _text(fields, "id", _FREE_ID)
    when = _text(fields, "requestedAt", _DATETIME)
    identifier = identifier or f"{DERIVED_PREFIX}{offset}-{timestamp}"
    by = _text(fields, "requestedBy", _REQUESTED_BY)
    at = timestamp / 1000 if when is None else times.from_text(when)
    common = _Common(id=identifier, requested_by=by, requested_at=at)
    return _CLASSES[kind]._decode(fields, common)  # noqa: SLF001 - of this module


def decode(value: bytes | None, offset: int, timestamp: int) -> Command | Refusal:
    """Return the command in a message, or why it is none.

    ``offset`` and ``timestamp`` (milliseconds, the broker's) are the message's own: they give
    the id and the time that the message does not carry.
    """
    try:
        return _command(_fields(value), offset, timestamp)
    except _Refused as refused:
        return refused.refusal


def encode(command: Command) -> bytes:
    """Return the message of a command; ``requested_at`` is rounded to milliseconds."""
    fields: dict[str, object] = {"v": VERSION, "id": command.id, "type": command.kind}
    fields |= command._encode()  # noqa: SLF001 - of this module
    if command.requested_by is not None:
        fields["requestedBy"] = command.requested_by
    fields["requestedAt"] = times.to_text(command.requested_at)
    return orjson.dumps(fields)


def key(command: Command) -> bytes | None:
    """Return the Kafka key of a command: its DID, None for commands that name none."""
    return command.did.encode() if isinstance(command, WorkCommand) else None
