"""Why an attempt of an operation came to nothing, in the words of ``procedures.failures``."""

from __future__ import annotations

import sqlite3

from consumer.errors import ChiveError, Reason, Refused
from consumer.fetch.hosts import HostUnavailable
from consumer.fetch.http import HostError, HostErrorKind
from consumer.fetch.identity import Inconclusive
from consumer.printable import MAX_TEXT, escape
from procedures.failures import Failure

_BY_REASON = {
    Reason.FETCH_FORBIDDEN: Failure.HOST_FORBIDDEN,
    Reason.FETCH_TOO_BIG: Failure.REPO_TOO_BIG,
    Reason.CAR_TOO_BIG: Failure.REPO_TOO_BIG,
    Reason.CAR_TRUNCATED: Failure.REPO_TRUNCATED,
    Reason.COMMIT_MISMATCH: Failure.REPO_FOREIGN,
    Reason.SIGNATURE_INVALID: Failure.SIGNATURE_INVALID,
    Reason.DID_NOT_FOUND: Failure.DID_NOT_FOUND,
    Reason.DID_INVALID: Failure.DID_DOCUMENT,
    Reason.DID_UNSUPPORTED: Failure.DID_METHOD,
}
_BY_KIND = {
    HostErrorKind.AWAY: Failure.HOST_UNREACHABLE,
    HostErrorKind.SLOW: Failure.HOST_TIMEOUT,
    HostErrorKind.BUSY: Failure.RATE_LIMITED,
    HostErrorKind.BROKEN: Failure.HOST_ERROR,
    HostErrorKind.CUT_SHORT: Failure.REPO_TRUNCATED,
}
# What com.atproto.sync.getRepo and getRecord say, by the name of the error.
BY_ERROR = {
    "RepoNotFound": Failure.REPO_NOT_FOUND,
    "RepoTakendown": Failure.REPO_TAKENDOWN,
    "RepoSuspended": Failure.REPO_SUSPENDED,
    "RepoDeactivated": Failure.REPO_DEACTIVATED,
}


def printable(trouble: object) -> str:
    """Return what ``trouble`` says, as tables and topics can hold it: hosts have a part in it."""
    return escape(str(trouble)[:MAX_TEXT])


class FetchFailed(ChiveError):
    """An attempt failed; ``retry_after`` are the seconds that the host asked for.

    ``detail`` is printable and not long, whatever the host has said.
    """

    def __init__(self, failure: Failure, detail: str, retry_after: float | None = None) -> None:
        self.detail = printable(detail)
        super().__init__(f"{failure}: {self.detail}")
        self.failure = failure
        self.retry_after = retry_after


class NotAttempted(FetchFailed):
    """Nothing was tried: the host rests, or is busy with others, for ``seconds``."""

    def __init__(self, failure: Failure, unavailable: HostUnavailable) -> None:
        super().__init__(failure, str(unavailable))
        self.seconds = unavailable.seconds
        self.host = unavailable.host


def of_fetching(error: Exception) -> FetchFailed:
    """Return what an error of a request or of verification means for the operation."""
    match error:
        case FetchFailed():
            return error
        case Refused():
            return FetchFailed(_BY_REASON.get(error.reason, Failure.REPO_INVALID), str(error))
        case HostUnavailable():
            return _of_unavailable(error)
        case OSError() | sqlite3.Error():  # our own disk is full, say: no fault of the host
            return FetchFailed(Failure.INTERNAL, f"{type(error).__name__}: {error}")
    raise error


def of_resolving(error: Refused | HostUnavailable | Inconclusive) -> FetchFailed:
    """Return what an error of resolving the DID means for the operation."""
    match error:
        case Refused():
            return of_fetching(error)
        case HostUnavailable(tried=False):
            return NotAttempted(Failure.DID_UNRESOLVED, error)
        case HostUnavailable():
            return FetchFailed(Failure.DID_UNRESOLVED, str(error), error.seconds)
        case Inconclusive():
            return FetchFailed(Failure.DID_UNRESOLVED, str(error))


def _of_unavailable(unavailable: HostUnavailable) -> FetchFailed:
    trouble = unavailable.__cause__
    if isinstance(trouble, HostError):
        return FetchFailed(_BY_KIND[trouble.kind], str(unavailable), unavailable.seconds)
    return NotAttempted(Failure.HOST_ERROR, unavailable)
