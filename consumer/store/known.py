"""Everything that is known of one repository, for people, read in one snapshot."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar
from urllib.parse import urlsplit

from psycopg.rows import class_row

from consumer.state.repo_state import Repo
from consumer.store import answers, identities
from consumer.store.answers import HeldHost
from consumer.store.arrays import Texts
from consumer.store.database import Connection
from consumer.store.operations import history
from consumer.store.repos import Repos
from consumer.store.rows import Identity
from procedures.failures import Failure
from procedures.operations import Operation

_repos = Repos(Repo)

# READ ONLY: what only looks must not be able to change anything.
_SNAPSHOT = "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY"
_SEEN = "SELECT first_seen, updated_at FROM repos WHERE did = %s"
_COUNTS = """
SELECT split_part(path, '/', 1) AS collection, count(cid) AS live,
    count(*) FILTER (WHERE cid IS NULL) AS tombstones
FROM records WHERE did = %s GROUP BY 1 ORDER BY 1
"""
_ANSWER = "SELECT asked_at, status, source, host, name FROM account_answers WHERE did = %s"
_QUESTIONS = """
SELECT kind, cause, attempts, run_after, coalesce(lease_until > now(), false) AS asking, error
FROM lookups WHERE did = %s ORDER BY kind
"""
_PARKED = """
SELECT count(*) AS frames, sum(octet_length(frame))::int8 AS size,
    to_timestamp(min(log_time) / 1000.0) AS oldest,
    coalesce((SELECT ready FROM parking WHERE parking.did = parked.did), false) AS ready
FROM parked WHERE did = %s GROUP BY did
"""
_FOUND = """
SELECT source, listing, found_at, tries, next_try, failure, confirmed FROM found WHERE did = %s
"""
# Each fetcher has the circuits of its hosts in memory; this is what they leave in the tables.
_WAITING = """
SELECT count(*) AS operations, min(o.run_after) AS next_try,
    (array_agg(o.failure ORDER BY o.run_after))[1] AS failure,
    (array_agg(o.error ORDER BY o.run_after))[1] AS error
FROM operations AS o JOIN repos AS r ON r.did = o.did
WHERE o.status = 'queued' AND o.same_as IS NULL AND o.run_after > now()
    AND o.failure = ANY(%s) AND substring(r.pds FROM '//(.*)') = %s
HAVING count(*) > 0
"""
_OF_HOST = (
    Failure.HOST_UNREACHABLE,
    Failure.HOST_TIMEOUT,
    Failure.HOST_ERROR,
    Failure.RATE_LIMITED,
)


_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Counts:
    """The records of one collection, and the paths of it that are known to be gone."""

    collection: str
    live: int
    tombstones: int


@dataclass(frozen=True, slots=True)
class LastAnswer:
    """What was last said about the account: ``source`` is the host or the directory."""

    asked_at: datetime
    status: str
    source: str
    host: str | None
    name: str | None


@dataclass(frozen=True, slots=True)
class OpenQuestion:
    """A lookup that waits, or is ``asking`` right now; ``error`` of its last try."""

    kind: str
    cause: str
    attempts: int
    run_after: datetime
    asking: bool
    error: str | None


@dataclass(frozen=True, slots=True)
class ParkedFrames:
    """The frames that wait for a key: ``size`` in bytes; ``ready``: they are tried again now."""

    frames: int
    size: int
    oldest: datetime
    ready: bool


@dataclass(frozen=True, slots=True)
class Listed:
    """The listing that named a repository which is not synced yet."""

    source: str
    listing: str
    found_at: datetime
    tries: int
    next_try: datetime
    failure: str | None
    confirmed: bool


@dataclass(frozen=True, slots=True)
class WaitingAtHost:
    """How many operations wait because a host fails; the first of them, and why it waits."""

    operations: int
    next_try: datetime
    failure: str
    error: str | None


@dataclass(frozen=True, slots=True)
class KnownRepo:
    """What the tables hold about one DID; ``repo`` None: the repository is not tracked.

    ``waiting`` and ``held`` are about its host; ``operations`` are the newest.
    """

    did: str
    repo: Repo | None
    first_seen: datetime | None
    updated_at: datetime | None
    identity: Identity | None
    answer: LastAnswer | None
    waiting: WaitingAtHost | None
    held: HeldHost | None
    counts: list[Counts]
    questions: list[OpenQuestion]
    parked: ParkedFrames | None
    listed: Listed | None
    operations: list[Operation]

    @property
    def host(self) -> str | None:
        """The origin of the PDS, of the repo or of the DID's document; None: not known."""
        own = self.repo.pds if self.repo is not None else None
        return own or (self.identity.pds if self.identity is not None else None)

    @property
    def unknown(self) -> bool:
        """Nothing at all is known of the DID."""
        rest = (self.repo, self.identity, self.answer, self.parked, self.listed)
        return not (any(rest) or self.counts or self.questions or self.operations)


async def read(connection: Connection, did: str, operations: int) -> KnownRepo:
    """Return what is known of ``did``, with its newest ``operations``.

    The first statement of the transaction, which becomes a read-only snapshot.
    """
    await connection.execute(_SNAPSHOT)
    repos = await _repos.read(connection, [did])
    seen = await (await connection.execute(_SEEN, [did])).fetchone()
    known_identities = await identities.read(connection, [did])
    repo = repos[0] if repos else None
    identity = known_identities[0] if known_identities else None
    first_seen, updated_at = seen or (None, None)
    pds = (repo.pds if repo else None) or (identity.pds if identity else None)
    host = urlsplit(pds).netloc if pds else ""
    of_host = [Texts([failure.value for failure in _OF_HOST]), host]
    held = {one.host: one for one in await answers.held_hosts(connection)}
    return KnownRepo(
        did,
        repo,
        first_seen,
        updated_at,
        identity,
        await _first(connection, LastAnswer, _ANSWER, [did]),
        await _first(connection, WaitingAtHost, _WAITING, of_host),
        held.get(host),
        await _all(connection, Counts, _COUNTS, [did]),
        await _all(connection, OpenQuestion, _QUESTIONS, [did]),
        await _first(connection, ParkedFrames, _PARKED, [did]),
        await _first(connection, Listed, _FOUND, [did]),
        await history.newest(connection, did, operations),
    )


async def _all(
    connection: Connection, shape: type[_T], sql: str, parameters: list[Any]
) -> list[_T]:
    async with connection.cursor(row_factory=class_row(shape)) as cursor:
        await cursor.execute(sql, parameters)
        return await cursor.fetchall()


async def _first(
    connection: Connection, shape: type[_T], sql: str, parameters: list[Any]
) -> _T | None:
    found = await _all(connection, shape, sql, parameters)
    return found[0] if found else None
