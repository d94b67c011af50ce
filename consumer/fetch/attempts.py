"""One attempt at an operation: fetch, verify, inject into ``chive.backfill``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from consumer.backfill import Chunk, Entry, Proof
from consumer.errors import Refused
from consumer.fetch.documents import Document
from consumer.fetch.failed import FetchFailed, of_resolving
from consumer.fetch.hosts import HostUnavailable
from consumer.fetch.identity import Directory, Inconclusive
from consumer.fetch.inject import Injector
from consumer.fetch.repos import RepoSource
from consumer.scope import Scope
from consumer.store import records
from consumer.store.database import Database
from consumer.store.operations.claims import Claim
from procedures.failures import Failure
from procedures.messages import Emit
from procedures.operations import Phase, Type

# Progress in percent at which a phase begins; the worker's part is the rest.
_DOWNLOADING, _VERIFYING, _INJECTING = 1, 30, 40
_MEBIBYTE = 1024 * 1024
_ROWS = 1_000  # known records of a repository that one chunk may cover

Report = Callable[[Phase, int, int | None], None]
"""Takes the phase, the progress in percent, and the number of records once it is known."""


@dataclass(frozen=True, slots=True)
class Attempts:
    """Makes the attempts of the process."""

    directory: Directory
    source: RepoSource
    injector: Injector
    database: Database
    scope: Scope

    async def carry_out(self, claim: Claim, report: Report) -> int:
        """Attempt the claimed operation; return the offset behind what it injected.

        ``report`` is called with the progress.  Raises ``FetchFailed``, and ``Transient`` when
        Kafka or Postgres is away.
        """
        match claim.operation.type:
            case Type.DID_SYNC:
                return await self.sync(claim, report)
            case Type.RECORD_REFRESH:
                return await self.refresh(claim, report)
            case Type.DISCOVERY:  # claims of its own: see consumer.fetch.discovery
                raise AssertionError(claim.operation.id)

    async def sync(self, claim: Claim, report: Report) -> int:
        """Inject the repository of the claim's DID; return the offset behind the last chunk.

        ``report`` is called with the progress.  Raises ``FetchFailed``, and ``Transient`` when
        Kafka or Postgres is away.
        """
        operation, did = claim.operation, claim.operation.did or ""
        document = await self._document(did)
        report(Phase.DOWNLOADING, _DOWNLOADING, None)

        def downloaded(size: int) -> None:
            report(Phase.DOWNLOADING, min(_VERIFYING, _DOWNLOADING + size // _MEBIBYTE), None)

        def verifying() -> None:
            report(Phase.VERIFYING, _VERIFYING, None)

        async with self.source.snapshot(
            did, document, self.scope.intervals, progress=downloaded, verifying=verifying
        ) as found:
            snapshot = found.snapshot
            _check_age(snapshot.rev, claim)
            report(Phase.INJECTING, _INJECTING, snapshot.records)
            async with self.database.transaction() as connection:
                rows = await records.count(connection, did, _ROWS)
                boundaries = (
                    await records.boundaries(connection, did, _ROWS) if rows == _ROWS else []
                )
            offset = 0
            async for content in found.chunks(boundaries):
                chunk = Chunk(
                    did=did,
                    operation=operation.id,
                    attempt=operation.attempts,
                    rev=snapshot.rev,
                    data=snapshot.data,
                    commit=snapshot.commit,
                    scope=self.scope.digest,
                    resync_generation=claim.resync_generation,
                    after=content.after,
                    through=content.through,
                    last=content.last,
                    intervals=content.intervals,
                    entries=content.entries,
                    emit_all=operation.emit is Emit.ALL,
                )
                offset = await self.injector.put(chunk, rows=rows)
        return offset

    async def refresh(self, claim: Claim, report: Report) -> int:
        """Inject what the repository has at the claim's URI; return the offset behind it.

        ``report`` is called with the progress.  Raises ``FetchFailed``, and ``Transient`` when
        Kafka or Postgres is away.
        """
        operation, did = claim.operation, claim.operation.did or ""
        path = (operation.uri or "").removeprefix(f"at://{did}/")
        document = await self._document(did)
        report(Phase.DOWNLOADING, _DOWNLOADING, None)
        proven = await self.source.proof(did, document, path)
        entry = None
        if proven.cid is not None and proven.record is not None:
            entry = Entry(path, proven.cid, proven.record)
        proof = Proof(did, operation.id, operation.attempts, proven.rev, path, entry)
        return await self.injector.put(proof)

    async def _document(self, did: str) -> Document:
        try:
            return await self.directory.document(did)
        except (Refused, HostUnavailable, Inconclusive) as error:
            raise of_resolving(error) from error


def _check_age(rev: str, claim: Claim) -> None:
    """Refuse a snapshot that the worker would refuse, before anything is injected.

    With ``emit: all``, refuse one that is older than the known rev, too: the newer records cannot
    be published again, because only their CIDs are stored.  Raises ``FetchFailed``.
    """
    known = claim.rev if claim.operation.emit is Emit.ALL else claim.floor
    if known is not None and rev < known:
        detail = f"the host sent the repository at rev {rev}, but rev {known} is already known"
        raise FetchFailed(Failure.OLDER_THAN_KNOWN, detail)
