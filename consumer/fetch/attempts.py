"""One attempt at an operation: fetch, verify, inject into ``chive.backfill``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from consumer.backfill import Cause, Chunk, Entry, Proof
from consumer.errors import Refused
from consumer.fetch.account import ACTIVE, Accounts
from consumer.fetch.answers import answer_of
from consumer.fetch.documents import Document
from consumer.fetch.failed import FetchFailed, of_resolving
from consumer.fetch.hosts import HostUnavailable
from consumer.fetch.http import host_of
from consumer.fetch.identity import Directory, Inconclusive
from consumer.fetch.inject import Injector
from consumer.fetch.repos import RepoSource
from consumer.scope import Scope
from consumer.state.accounts import AccountRules
from consumer.store import answers, found, records
from consumer.store.database import Database
from consumer.store.operations import claims
from consumer.store.operations.claims import Claim
from procedures.failures import Failure
from procedures.messages import Emit
from procedures.operations import Phase, Type

# Progress in percent at which a phase begins; the worker's part is the rest.
_DOWNLOADING, _VERIFYING, _INJECTING = 1, 30, 40
_MEBIBYTE = 1024 * 1024
_APPLIED_SECONDS = 30.0  # for the worker to take an answer
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
    accounts: Accounts
    account_rules: AccountRules

    async def carry_out(self, claim: Claim, report: Report) -> int:
        """Attempt the claimed operation; return the offset behind what it injected.

        If somebody asked for it and the account is not active, its host is asked first, and the
        worker is given the answer.  ``report`` is called with the progress.  Raises
        ``FetchFailed``, and ``Transient`` when Kafka or Postgres is away.
        """
        if not (claim.account in (None, ACTIVE) or claim.operation.automatic):
            claim = await self._ask_first(claim)
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
        if operation.automatic and operation.reason == found.DISCOVERED:
            await self._check_listed(did, document)
        report(Phase.DOWNLOADING, _DOWNLOADING, None)

        def downloaded(size: int) -> None:
            report(Phase.DOWNLOADING, min(_VERIFYING, _DOWNLOADING + size // _MEBIBYTE), None)

        def verifying() -> None:
            report(Phase.VERIFYING, _VERIFYING, None)

        async with self.source.snapshot(
            did, document, self.scope.intervals, progress=downloaded, verifying=verifying
        ) as fetched:
            snapshot = fetched.snapshot
            _check_age(snapshot.rev, claim)
            report(Phase.INJECTING, _INJECTING, snapshot.records)
            async with self.database.transaction() as connection:
                rows = await records.count(connection, did, _ROWS)
                boundaries = (
                    await records.boundaries(connection, did, _ROWS) if rows == _ROWS else []
                )
            offset = 0
            async for content in fetched.chunks(boundaries):
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

    async def _ask_first(self, claim: Claim) -> Claim:
        """Ask about the account; return the claim as it is when the worker knows the answer.

        Raises ``FetchFailed`` if the account is not active after all.
        """
        did = claim.operation.did or ""
        async with self.database.transaction() as connection:
            known = await answers.last(connection, did)
        if known is None or known[2] >= self.account_rules.pause(Cause.PERSON):
            try:
                stated = await self.accounts.ask(did)
            except (Refused, HostUnavailable, Inconclusive) as error:
                raise of_resolving(error) from error
            answer = answer_of(did, claim.epoch, claim.seq, stated, Cause.PERSON)
            offset = await self.injector.put(answer)
            async with self.database.transaction() as connection:
                await answers.note(connection, answer)
            if not await self.injector.applied(did, offset, _APPLIED_SECONDS):
                detail = "the worker has not taken the answer about the account yet"
                raise FetchFailed(Failure.INTERNAL, detail)
            known = (stated.status, stated.host, 0.0)
        async with self.database.transaction() as connection:
            claim = await claims.look_again(connection, claim)
        if claim.account != ACTIVE:
            status, host, age = known
            detail = (
                f"the account is {claim.account} here; "
                f"{host or 'the directory'} said {status} {age:.0f} s ago"
            )
            raise FetchFailed(Failure.ACCOUNT_INACTIVE, detail)
        return claim

    async def _check_listed(self, did: str, document: Document) -> None:
        """Refuse what a host listed as its own and the DID's document does not.

        A listing is hearsay.  Raises ``FetchFailed``.
        """
        async with self.database.transaction() as connection:
            host = await found.host_of(connection, did)
        if host is None:
            return
        if document.pds is None or host_of(document.pds) != host_of(host):
            detail = f"{host} lists {did}, whose document names {document.pds or 'no host'}"
            raise FetchFailed(Failure.DID_DOCUMENT, detail)

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
