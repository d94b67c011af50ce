"""One attempt at an operation: fetch, verify, inject into ``chive.backfill``.

A host that writes while it reads sends a commit without all of its blocks.  So blocks that are
missing behind a good signature are fetched again at once, up to ``TRIES`` times in all.  If the
tries agree on the commit and on what is missing, that is the answer: a record without bytes is
unknown, a tree without a node is no tree.  If they do not, the attempt fails and is made again
later.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from consumer import metrics
from consumer.backfill import Cause, Chunk, Entry, Forget, IdentityAnswer, Proof, Via
from consumer.errors import Reason, Refused
from consumer.fetch.account import ACTIVE, Accounts
from consumer.fetch.answers import answer_of, identity_of
from consumer.fetch.checks import Checker
from consumer.fetch.documents import Document
from consumer.fetch.failed import FetchFailed, NoProof, of_resolving
from consumer.fetch.hosts import HostUnavailable
from consumer.fetch.http import host_of
from consumer.fetch.identity import Directory, Inconclusive
from consumer.fetch.inject import Injector
from consumer.fetch.repos import Downloaded, RepoSource
from consumer.metrics.labels import Stage
from consumer.scope import Interval, Scope
from consumer.state import sweep as sweeping
from consumer.state.accounts import AccountRules
from consumer.state.repo_state import SyncState
from consumer.state.sweep import Finding
from consumer.store import answers, found, records, sweep
from consumer.store.database import Database
from consumer.store.operations import claims
from consumer.store.operations.claims import Claim
from consumer.verify.snapshot import Snapshot
from consumer.verify.verified import Evidence, Incomplete
from procedures.failures import Failure
from procedures.messages import Emit
from procedures.operations import Phase, Type

# Progress in percent at which a phase begins; the worker's part is the rest.
_DOWNLOADING, _VERIFYING, _INJECTING = 1, 30, 40
_MEBIBYTE = 1024 * 1024
_APPLIED_SECONDS = 30.0  # for the worker to take an answer

# A newer revision that is younger may be on its way; so long and so often it is waited for.
_YOUNG_SECONDS, _YOUNG_TRIES = 10.0, 3

TRIES = 3
_PAUSE = 0.5  # seconds before the second try, twice that before the third

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
    checker: Checker

    async def carry_out(self, claim: Claim, report: Report) -> int | None:
        """Attempt the claimed operation; return the offset behind what it injected.

        None: it was to check first, and the repository is in step.  If a person requested it and
        the account is not active, its host is asked first, and the worker is given the answer.
        ``report`` is called with the progress.  Raises
        ``FetchFailed``, and ``Transient`` when Kafka or Postgres is away.
        """
        if claim.operation.type is Type.FORGET:  # whatever its host says
            return await self.forget(claim)
        if not (claim.account in (None, ACTIVE) or claim.operation.automatic):
            claim = await self._ask_first(claim)
        if claim.operation.check_first and await self._is_in_step(claim):
            return None
        match claim.operation.type:
            case Type.DID_SYNC:
                return await self.sync(claim, report)
            case Type.RECORD_REFRESH:
                return await self.refresh(claim, report)
            case _:  # a discovery is claimed by discovery, a parent never
                raise AssertionError(claim.operation.id)

    async def forget(self, claim: Claim) -> int:
        """Inject the command to forget the claim's DID; return the offset behind it.

        The lane's owner carries it out, in order with everything else about the account.
        Raises ``Transient`` when Kafka or Postgres is away.
        """
        operation = claim.operation
        return await self.injector.put(
            Forget(operation.did or "", operation.id, operation.attempts)
        )

    async def sync(self, claim: Claim, report: Report) -> int:
        """Inject the repository of the claim's DID; return the offset behind the last chunk.

        ``report`` is called with the progress.  Raises ``FetchFailed``, and ``Transient`` when
        Kafka or Postgres is away.
        """
        operation, did = claim.operation, claim.operation.did or ""
        asked_at = time.time()
        document = await self._document(did)
        if operation.automatic and operation.reason == found.DISCOVERED:
            await self._check_listed(did, document)
        report(Phase.DOWNLOADING, _DOWNLOADING, None)

        again = False

        def downloaded(size: int) -> None:
            if again:
                return  # a phase never goes back
            report(Phase.DOWNLOADING, min(_VERIFYING, _DOWNLOADING + size // _MEBIBYTE), None)

        def verifying() -> None:
            nonlocal again
            again = True
            report(Phase.VERIFYING, _VERIFYING, None)

        async with self._snapshot(
            did, document, self.scope.intervals, downloaded, verifying
        ) as fetched:
            snapshot = fetched.snapshot
            _count(snapshot)
            _check_age(snapshot.rev, claim)
            report(Phase.INJECTING, _INJECTING, snapshot.records)
            boundaries: list[str] = []
            if claim.rows == claims.CHUNK_ROWS:
                async with self.database.transaction() as connection:
                    boundaries = await records.boundaries(connection, did, claims.CHUNK_ROWS)
            offset = 0
            # The lane knows the key with the first chunk: later frames need not wait for a lookup.
            identity: IdentityAnswer | None = identity_of(did, document, asked_at)
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
                    unknown=content.unknown,
                    warnings=_warnings(snapshot) if content.last else (),
                )
                offset = await self.injector.put(chunk, rows=claim.rows, before=identity)
                identity = None
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
        via = Via.RECORD
        try:
            rev, entry = await self._proof(did, document, path)
        except NoProof:
            via = Via.REPOSITORY
            rev, entry = await self._from_repository(did, document, path)
        proof = Proof(did, operation.id, operation.attempts, rev, path, entry, via)
        return await self.injector.put(proof)

    async def _is_in_step(self, claim: Claim) -> bool:
        """Tell whether the host has nothing newer than is known, or may be about to send it.

        Raises ``FetchFailed`` if that is not known, if the newer revision may be on its way, and
        if the account is not active.
        """
        did = claim.operation.did or ""
        async with self.database.transaction() as connection:
            known = await sweep.tracked_one(connection, did)
            firehose_at = await sweep.firehose_at(connection)
        if known is None or known.sync_state != SyncState.ACTIVE:
            return False  # it needs the sync anyway
        told = await self.checker.ask(did, known.pds)
        match sweeping.finding(known, told):
            case Finding.IN_STEP:
                return True
            case Finding.REFUSED:
                await self._ask_first(claim, refused=told.status)
                detail = f"its host refuses it as {told.status}, and says that it is active"
                raise FetchFailed(Failure.HOST_ERROR, detail)
            case Finding.NEWER if told.rev is not None:
                if claim.operation.attempts <= _YOUNG_TRIES and sweeping.is_young(
                    told.rev, firehose_at, time.time(), _YOUNG_SECONDS
                ):
                    detail = f"rev {told.rev} may be on its way"
                    raise FetchFailed(Failure.REPO_INCOMPLETE, detail, _YOUNG_SECONDS)
                return False
        raise FetchFailed(told.failure or Failure.HOST_ERROR, told.detail, told.wait)

    async def _ask_first(self, claim: Claim, refused: str | None = None) -> Claim:
        """Ask about the account; return the claim as it is when the worker knows the answer.

        ``refused``: its host refuses it with this status.  Raises ``FetchFailed`` if the account
        is not active after all.
        """
        did = claim.operation.did or ""
        # What was asked for with many others lifts no bound on deletions.
        cause = Cause.SWEEP if claim.operation.check_first else Cause.PERSON
        async with self.database.transaction() as connection:
            known = await answers.last(connection, did)
        if known is None or known[2] >= self.account_rules.pause(cause):
            try:
                stated = await self.accounts.ask(did)
            except (Refused, HostUnavailable, Inconclusive) as error:
                raise of_resolving(error) from error
            answer = answer_of(did, claim.epoch, claim.seq, stated, cause)
            offset = await self.injector.put(answer)
            async with self.database.transaction() as connection:
                await answers.note(connection, answer)
            if not await self.injector.applied(did, offset, _APPLIED_SECONDS):
                detail = "the worker has not taken the answer about the account yet"
                raise FetchFailed(Failure.INTERNAL, detail)
            known = (stated.status, stated.host, 0.0)
        async with self.database.transaction() as connection:
            claim = await claims.look_again(connection, claim)
        status, host, age = known
        if claim.account != ACTIVE or (refused is not None and status != ACTIVE):
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
            says = f"it names {document.pds}" if document.pds else document.no_pds
            detail = f"{host} lists an account that is not its own; the document of {did}: {says}"
            raise FetchFailed(Failure.DID_DOCUMENT, detail)

    async def _proof(self, did: str, document: Document, path: str) -> tuple[str, Entry | None]:
        """Return the revision and the record at ``path`` as getRecord proves it.

        Raises ``NoProof`` if it does not: an error, or nodes of the tree are missing.
        """
        tries = _Tries()
        while True:
            try:
                proven = await self.source.proof(did, document, path)
            except Incomplete as error:
                if await tries.agree(error.evidence):
                    partial = error.reason is Reason.TREE_PARTIAL
                    kind = NoProof if partial else FetchFailed
                    raise kind(Failure.REPO_INVALID, str(error)) from error
                continue
            if proven.cid is None or proven.record is None:
                return proven.rev, None
            return proven.rev, Entry(path, proven.cid, proven.record)

    async def _from_repository(
        self, did: str, document: Document, path: str
    ) -> tuple[str, Entry | None]:
        """Return the revision and the record at ``path`` as the whole repository proves it."""
        only = (Interval(path, path + "\0"),)
        async with self._snapshot(did, document, only, lambda _size: None, lambda: None) as fetched:
            rev = fetched.snapshot.rev
            async for content in fetched.chunks(()):
                if content.unknown:
                    detail = f"the host has no bytes of the record {path}"
                    raise FetchFailed(Failure.REPO_INVALID, detail)
                for entry in content.entries:
                    return rev, entry
        return rev, None

    @asynccontextmanager
    async def _snapshot(
        self,
        did: str,
        document: Document,
        intervals: Sequence[Interval],
        downloaded: Callable[[int], None],
        verifying: Callable[[], None],
    ) -> AsyncIterator[Downloaded]:
        """Provide the repository of ``did``, complete or as incomplete as several tries agree."""
        tries = _Tries()
        while True:
            try:
                async with self.source.snapshot(
                    did, document, intervals, progress=downloaded, verifying=verifying
                ) as fetched:
                    evidence = fetched.snapshot.evidence
                    if evidence is None or await tries.agree(evidence):
                        yield fetched
                        return
            except Incomplete as error:
                if await tries.agree(error.evidence):
                    raise FetchFailed(Failure.REPO_INVALID, str(error)) from error

    async def _document(self, did: str) -> Document:
        try:
            return await self.directory.document(did)
        except (Refused, HostUnavailable, Inconclusive) as error:
            raise of_resolving(error) from error


class _Tries:
    """The tries of one attempt, and what was missing in them."""

    def __init__(self) -> None:
        self._seen: list[Evidence] = []

    async def agree(self, evidence: Evidence) -> bool:
        """Tell whether all tries agree; if there is to be another one, wait for it.

        Raises ``FetchFailed(REPO_INCOMPLETE)`` if they do not, and it was the last.
        """
        self._seen.append(evidence)
        if len(self._seen) < TRIES:
            await asyncio.sleep(_PAUSE * len(self._seen))
            return False
        if len(set(self._seen)) == 1:
            return True
        detail = f"blocks are missing, others each time: last of all {evidence[1]}"
        raise FetchFailed(Failure.REPO_INCOMPLETE, detail)


def _count(snapshot: Snapshot) -> None:
    for reason, count in snapshot.left_out:
        metrics.REFUSED.labels(reason, Stage.FETCHER).inc(count)


def _warnings(snapshot: Snapshot) -> tuple[tuple[str, int], ...]:
    return tuple((reason.value, count) for reason, count in snapshot.left_out)


def _check_age(rev: str, claim: Claim) -> None:
    """Refuse a snapshot that the worker would refuse, before anything is injected.

    With ``emit: all``, refuse one that is older than the known rev, too: the newer records cannot
    be published again, because only their CIDs are stored.  Raises ``FetchFailed``.
    """
    known = claim.rev if claim.operation.emit is Emit.ALL else claim.floor
    if known is not None and rev < known:
        detail = f"the host sent the repository at rev {rev}, but rev {known} is already known"
        raise FetchFailed(Failure.OLDER_THAN_KNOWN, detail)
