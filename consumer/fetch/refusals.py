"""What hosts mean by the errors of ``com.atproto.sync.*``: one table for all its methods.

A refusal is a response of status 400 or 404 whose body is ``{"error": …, "message": …}``.
``meaning`` knows the names and messages that hosts were seen to send; the sources are beside them.
Everything else is ``OTHER``: it says nothing of an account or a record.

A vague name is used for other things too.  It counts only together with its message, and of an
account it says something only where the account was asked about (getRepoStatus).
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

import orjson
import structlog

from consumer import metrics
from consumer.fetch.http import HttpResponse
from consumer.printable import escape
from procedures.failures import Failure

_REFUSING = frozenset({400, 404})
_SAMPLE_SECONDS = 60.0
_SHOWN = 200

_log = structlog.get_logger()


class Meaning(StrEnum):
    """What a refusal says: a closed set, and the values of the metric label ``meaning``."""

    GONE = "gone"  # the host has no such account or repository
    TAKENDOWN = "takendown"
    SUSPENDED = "suspended"
    DEACTIVATED = "deactivated"
    RECORD_ABSENT = "record_absent"
    OTHER = "other"


metrics.closed(metrics.HOST_REFUSALS, Meaning)

STATUSES = {
    Meaning.GONE: "deleted",
    Meaning.TAKENDOWN: "takendown",
    Meaning.SUSPENDED: "suspended",
    Meaning.DEACTIVATED: "deactivated",
}
"""The account's status that a meaning stands for."""

_FAILURES = {
    Meaning.GONE: Failure.REPO_NOT_FOUND,
    Meaning.TAKENDOWN: Failure.REPO_TAKENDOWN,
    Meaning.SUSPENDED: Failure.REPO_SUSPENDED,
    Meaning.DEACTIVATED: Failure.REPO_DEACTIVATED,
}

ACCOUNT_FAILURES = frozenset({*_FAILURES.values(), Failure.DID_NOT_FOUND})
"""How an attempt fails that makes the account's status a question."""

# Names that have one meaning wherever they stand.
# Repo*: errors of the lexicons com.atproto.sync.getRepo, getRecord, getLatestCommit, getRepoStatus;
#   the reference PDS sends them with status 400 (assertRepoAvailability in
#   packages/pds/src/api/com/atproto/sync/util.ts of bluesky-social/atproto), others with 404.
# Account*: errors of com.atproto.server.* and of the AppView; hosts of other make send them for a
#   repository too.
# RecordNotFound: lexicon com.atproto.sync.getRecord.
# HeadNotFound: lexicon com.atproto.sync.getHead, whose answer some hosts give for getLatestCommit.
_NAMES = {
    "RepoNotFound": Meaning.GONE,
    "RepoTakendown": Meaning.TAKENDOWN,
    "RepoSuspended": Meaning.SUSPENDED,
    "RepoDeactivated": Meaning.DEACTIVATED,
    "AccountNotFound": Meaning.GONE,
    "AccountTakedown": Meaning.TAKENDOWN,
    "AccountSuspended": Meaning.SUSPENDED,
    "AccountDeactivated": Meaning.DEACTIVATED,
    "RecordNotFound": Meaning.RECORD_ABSENT,
    "HeadNotFound": Meaning.GONE,
}

# Names that say too little by themselves, and the messages that say the rest.
# NotFound "Repo not found": the hosts under host.bsky.network, about 18,000 times on each of two
#   (issue 78 of bluesky-social/jetstream).
# InvalidRequest "Could not find repo for DID: …": the reference PDS when an account has no root
#   (getRepo.ts); older releases for every missing or taken down repository (issue 187 of
#   MarshalX/atproto); "Could not find repo: …" (issue 3314 of bluesky-social/atproto) and
#   "Could not find root for DID: …" (getLatestCommit of older releases) are of the same kind.
_VAGUE: tuple[tuple[str, re.Pattern[str], Meaning], ...] = (
    (
        "NotFound",
        re.compile(r"\s*repo(?:sitory)? (?:was )?not found\b", re.IGNORECASE),
        Meaning.GONE,
    ),
    (
        "InvalidRequest",
        re.compile(r"\s*(?:error: *)?could not find (?:repo|root)\b", re.IGNORECASE),
        Meaning.GONE,
    ),
    (
        "NotFound",
        re.compile(r"\s*record (?:was )?not found\b", re.IGNORECASE),
        Meaning.RECORD_ABSENT,
    ),
    (
        "InvalidRequest",
        re.compile(r"\s*could not (?:find|locate) record\b", re.IGNORECASE),
        Meaning.RECORD_ABSENT,
    ),
)


@dataclass(frozen=True, slots=True)
class Refusal:
    """A refusal of a host: its own ``name`` and ``message`` (empty: it gave none)."""

    meaning: Meaning
    name: str
    message: str

    @property
    def failure(self) -> Failure:
        """How an attempt fails that was refused so."""
        return _FAILURES.get(self.meaning, Failure.HOST_ERROR)

    @property
    def status(self) -> str | None:
        """The account's status that the refusal stands for, None if it says nothing of it."""
        return STATUSES.get(self.meaning)


class _Samples:
    """Lets one through in ``seconds``."""

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds = seconds
        self._clock = clock
        self._next = 0.0

    def take(self) -> bool:
        now = self._clock()
        if now < self._next:
            return False
        self._next = now + self._seconds
        return True


_samples = _Samples(_SAMPLE_SECONDS)


def read(response: HttpResponse, url: str) -> Refusal:
    """Return what a response without a result means; count it, and log a sample of unknown ones.

    ``url`` is what was asked for.
    """
    refusal = meaning(response)
    metrics.HOST_REFUSALS.labels(refusal.meaning).inc()
    if refusal.meaning is Meaning.OTHER and _samples.take():
        _log.info(
            "refusal_unknown",
            status=response.status,
            name=escape(refusal.name[:_SHOWN]),
            text=escape(refusal.message[:_SHOWN]),
            url=url,
        )
    return refusal


def meaning(response: HttpResponse) -> Refusal:
    """Return what a response without a result means."""
    name, message = _texts(response.body)
    if response.status not in _REFUSING:
        return Refusal(Meaning.OTHER, name, message)
    if name in _NAMES:
        return Refusal(_NAMES[name], name, message)
    for known, pattern, found in _VAGUE:
        if name == known and pattern.match(message):
            return Refusal(found, name, message)
    return Refusal(Meaning.OTHER, name, message)


def _texts(body: bytes) -> tuple[str, str]:
    """Return name and message of an error; what is no text is never shown: it may nest deeply."""
    try:
        stated = orjson.loads(body)
    except orjson.JSONDecodeError:
        return "", ""
    if not isinstance(stated, dict):
        return "", ""
    name, message = stated.get("error"), stated.get("message")
    return (
        name if isinstance(name, str) else "",
        message if isinstance(message, str) else "",
    )
