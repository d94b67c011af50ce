"""Why an attempt of an operation came to nothing, in the words of ``procedures.failures``."""

from __future__ import annotations

import sqlite3

from consumer.errors import ChiveError, Reason, Refused
from consumer.fetch.hosts import Resting
from consumer.fetch.http import HostTrouble, Trouble
from consumer.fetch.identity import Unclear
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
_BY_TROUBLE = {
    Trouble.AWAY: Failure.HOST_UNREACHABLE,
    Trouble.SLOW: Failure.HOST_TIMEOUT,
    Trouble.BUSY: Failure.RATE_LIMITED,
    Trouble.BROKEN: Failure.HOST_ERROR,
    Trouble.CUT_SHORT: Failure.REPO_TRUNCATED,
}
# What com.atproto.sync.getRepo and getRecord say, by the name of the error.
BY_ERROR = {
    "RepoNotFound": Failure.REPO_NOT_FOUND,
    "RepoTakendown": Failure.REPO_TAKENDOWN,
    "RepoSuspended": Failure.REPO_SUSPENDED,
    "RepoDeactivated": Failure.REPO_DEACTIVATED,
}


class FetchFailed(ChiveError):
    """An attempt failed.

    ``retry_after``: seconds that the host asked for, or rests.  ``held`` is False if it was not
    the repository's turn: nothing was tried.
    """

    def __init__(
        self, failure: Failure, detail: str, retry_after: float | None = None, *, held: bool = True
    ) -> None:
        super().__init__(f"{failure}: {detail}")
        self.failure = failure
        self.detail = detail
        self.retry_after = retry_after
        self.held = held


def of_fetching(error: Exception) -> FetchFailed:
    """Return what an error of a request or of verification means for the operation."""
    match error:
        case FetchFailed():
            return error
        case Refused():
            return FetchFailed(_BY_REASON.get(error.reason, Failure.REPO_INVALID), str(error))
        case Resting():
            trouble = error.__cause__
            if not isinstance(trouble, HostTrouble):  # others had found it in trouble, or busy
                return FetchFailed(Failure.HOST_ERROR, str(error), error.seconds, held=False)
            return FetchFailed(_BY_TROUBLE[trouble.trouble], str(error), error.seconds)
        case Unclear():
            return FetchFailed(Failure.HOST_ERROR, str(error))
        case OSError() | sqlite3.Error():  # our own disk is full, say: no fault of the host
            return FetchFailed(Failure.INTERNAL, f"{type(error).__name__}: {error}")
    raise error


def of_resolving(error: Exception) -> FetchFailed:
    """Return what an error of resolving the DID means for the operation."""
    failed = of_fetching(error)
    if isinstance(error, Refused):
        return failed
    return FetchFailed(Failure.DID_UNRESOLVED, failed.detail, failed.retry_after, held=failed.held)
