"""Failed attempts: errors of fetching and verifying, as ``procedures.failures`` names them."""

from __future__ import annotations

import sqlite3

from consumer.errors import ChiveError, Reason, Refused
from consumer.fetch.hosts import CircuitOpen, HostUnavailable
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


def printable(error: object) -> str:
    """Return the text of ``error``, cut and escaped: parts of it were written by a host."""
    return escape(str(error)[:MAX_TEXT])


class FetchFailed(ChiveError):
    """An attempt failed; ``retry_after`` are seconds before which it makes no sense to retry.

    ``detail`` is printable and has at most 2,000 characters, whatever the host has sent.
    """

    def __init__(self, failure: Failure, detail: str, retry_after: float | None = None) -> None:
        self.detail = printable(detail)
        super().__init__(f"{failure}: {self.detail}")
        self.failure = failure
        self.retry_after = retry_after


class NoProof(FetchFailed):
    """The host answers for the repository, but sends no proof of the record."""


class NotAttempted(FetchFailed):
    """Nothing was sent: ``host`` is unavailable for ``seconds``; ``away``: because it failed."""

    def __init__(self, failure: Failure, unavailable: HostUnavailable) -> None:
        super().__init__(failure, str(unavailable))
        self.seconds = unavailable.seconds
        self.host = unavailable.host
        self.away = isinstance(unavailable, CircuitOpen)


def of_fetching(error: Exception) -> FetchFailed:
    """Return the failure that an error of a request or of verification stands for.

    Raises ``error`` itself if it is none of these: Kafka or Postgres is away, or the code is wrong.
    """
    match error:
        case FetchFailed():
            return error
        case Refused():
            return FetchFailed(_BY_REASON.get(error.reason, Failure.REPO_INVALID), str(error))
        case HostUnavailable():
            return _of_unavailable(error)
        case OSError() | sqlite3.Error():  # a local one, such as a full disk
            return FetchFailed(Failure.INTERNAL, f"{type(error).__name__}: {error}")
    raise error


def of_resolving(error: Refused | HostUnavailable | Inconclusive) -> FetchFailed:
    """Return the failure that an error of resolving the DID stands for."""
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
    error = unavailable.__cause__
    if isinstance(error, HostError):
        return FetchFailed(_BY_KIND[error.kind], str(unavailable), unavailable.seconds)
    return NotAttempted(Failure.HOST_ERROR, unavailable)
