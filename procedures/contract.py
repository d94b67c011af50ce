"""The XRPC methods: their input and output, callers and errors.  Pure.

The lexicons in ``lexicons/`` define input and output.  Errors are ``{"error": Name, "message":
…}`` with the statuses of https://atproto.com/specs/xrpc; ``ErrorName`` has all their names.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from procedures import lexicon
from procedures.lexicon import Schema

TRIGGER_DID_SYNC = "pub.chive.admin.triggerDIDSync"
REFRESH_RECORD = "pub.chive.sync.refreshRecord"
INDEX_RECORD = "pub.chive.sync.indexRecord"
GET_BACKFILL_STATUS = "pub.chive.admin.getBackfillStatus"
GET_BACKFILL_HISTORY = "pub.chive.admin.getBackfillHistory"
REGISTER_PDS = "pub.chive.sync.registerPDS"
VERIFY = "pub.chive.sync.verify"
CHECK_STALENESS = "pub.chive.sync.checkStaleness"
CANCEL_BACKFILL = "pub.chive.admin.cancelBackfill"
TRIGGER_BACKFILL = "pub.chive.admin.triggerBackfill"
GET_FIREHOSE_STATUS = "pub.chive.admin.getFirehoseStatus"
LIST_DLQ_ENTRIES = "pub.chive.admin.listDLQEntries"
RETRY_DLQ_ENTRY = "pub.chive.admin.retryDLQEntry"

_ADMIN_ONLY = "pub.chive.admin."


class ErrorName(StrEnum):
    """The names of errors that a caller can get."""

    AUTHENTICATION_REQUIRED = "AuthenticationRequired"
    ADMIN_REQUIRED = "AdminRequired"
    INVALID_REQUEST = "InvalidRequest"
    INVALID_BACKFILL_TYPE = "InvalidBackfillType"
    NOT_FOUND = "NotFound"
    METHOD_NOT_ALLOWED = "MethodNotAllowed"
    METHOD_NOT_IMPLEMENTED = "MethodNotImplemented"
    REQUEST_TIMEOUT = "RequestTimeout"
    PAYLOAD_TOO_LARGE = "PayloadTooLarge"
    OTHER_SHARD = "OtherShard"
    RATE_LIMIT_EXCEEDED = "RateLimitExceeded"
    INTERNAL_SERVER_ERROR = "InternalServerError"
    SERVICE_UNAVAILABLE = "ServiceUnavailable"


STATUSES: Mapping[ErrorName, int] = {
    ErrorName.INVALID_REQUEST: 400,
    ErrorName.INVALID_BACKFILL_TYPE: 400,
    ErrorName.AUTHENTICATION_REQUIRED: 401,
    ErrorName.ADMIN_REQUIRED: 403,
    ErrorName.NOT_FOUND: 404,
    ErrorName.METHOD_NOT_ALLOWED: 405,
    ErrorName.REQUEST_TIMEOUT: 408,
    ErrorName.PAYLOAD_TOO_LARGE: 413,
    ErrorName.OTHER_SHARD: 421,
    ErrorName.RATE_LIMIT_EXCEEDED: 429,
    ErrorName.INTERNAL_SERVER_ERROR: 500,
    ErrorName.METHOD_NOT_IMPLEMENTED: 501,
    ErrorName.SERVICE_UNAVAILABLE: 503,
}


class XrpcError(Exception):
    """An answer that is an error; ``message`` is for the caller and holds no secrets."""

    def __init__(
        self, name: ErrorName, message: str, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(f"{name}: {message}")
        self.name = name
        self.message = message
        self.headers = dict(headers or {})

    @property
    def status(self) -> int:
        """The HTTP status."""
        return STATUSES[self.name]


class Verb(StrEnum):
    """How a method is called over HTTP: queries by GET, procedures by POST."""

    GET = "GET"
    POST = "POST"


@dataclass(frozen=True, slots=True)
class Method:
    """One XRPC method; with ``admin`` only callers on the allow-list may call it.

    ``repeatable``: the same request is carried out again once it was answered.
    """

    nsid: str
    verb: Verb
    admin: bool
    repeatable: bool
    _lexicons: lexicon.Lexicons = field(repr=False, compare=False)
    _main: Schema = field(repr=False, compare=False)

    def input(self, value: object) -> dict[str, Any]:
        """Return the checked body of a procedure.  Raises ``XrpcError``: InvalidRequest."""
        try:
            self._lexicons.check(self._main["input"]["schema"], value, "the body")
        except lexicon.Invalid as error:
            raise XrpcError(ErrorName.INVALID_REQUEST, str(error)) from error
        assert isinstance(value, dict)  # noqa: S101  # every input schema is an object
        return value

    def parameters(self, pairs: Iterable[tuple[str, str]]) -> dict[str, Any]:
        """Return the typed parameters of a call, with defaults.

        Raises ``XrpcError``: InvalidRequest.
        """
        try:
            return self._lexicons.parameters(self._main.get("parameters"), pairs)
        except lexicon.Invalid as error:
            raise XrpcError(ErrorName.INVALID_REQUEST, str(error)) from error

    def check_output(self, value: object) -> None:
        """Check a result.  Raises ``lexicon.Invalid``, a fault of ours, if it does not fit."""
        self._lexicons.check(self._main["output"]["schema"], value, "the output")


def _method(lexicons: lexicon.Lexicons, nsid: str) -> Method:
    main = lexicons.main(nsid)
    verb = Verb.GET if main["type"] == "query" else Verb.POST
    admin, repeatable = nsid.startswith(_ADMIN_ONLY), nsid == INDEX_RECORD
    return Method(nsid, verb, admin, repeatable, lexicons, main)


def _methods(lexicons: lexicon.Lexicons) -> dict[str, Method]:
    nsids = (
        TRIGGER_DID_SYNC,
        REFRESH_RECORD,
        INDEX_RECORD,
        REGISTER_PDS,
        VERIFY,
        CHECK_STALENESS,
        GET_BACKFILL_STATUS,
        GET_BACKFILL_HISTORY,
        CANCEL_BACKFILL,
        TRIGGER_BACKFILL,
        GET_FIREHOSE_STATUS,
        LIST_DLQ_ENTRIES,
        RETRY_DLQ_ENTRY,
    )
    return {nsid: _method(lexicons, nsid) for nsid in nsids}


METHODS: Mapping[str, Method] = _methods(lexicon.load())
