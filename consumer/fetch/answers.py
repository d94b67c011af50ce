"""One question, answered: what goes to ``chive.backfill`` for a row of ``lookups``."""

from __future__ import annotations

import asyncio
import time

from consumer import metrics
from consumer.backfill import AccountAnswer, IdentityAnswer, LookupKind
from consumer.errors import Refused
from consumer.fetch.account import Accounts
from consumer.fetch.hosts import HostBusy
from consumer.fetch.identity import Directory, Inconclusive
from consumer.metrics import Stage
from consumer.store.rows import LeasedLookup

_SECONDS = 45.0  # for a whole answer, waiting for a host's turn included
_PAUSE = 1.0  # when that was not enough

LookupAnswer = IdentityAnswer | AccountAnswer


class Answers:
    """Answers of both kinds."""

    def __init__(self, directory: Directory, accounts: Accounts) -> None:
        self._directory = directory
        self._accounts = accounts

    async def to(self, question: LeasedLookup) -> LookupAnswer:
        """Return the answer; raise ``HostUnavailable`` or ``Inconclusive`` if there is none."""
        try:
            async with asyncio.timeout(_SECONDS):
                if question.kind == LookupKind.IDENTITY:
                    return await self._identity(question.did)
                return await self._account(question)
        except TimeoutError as error:
            raise HostBusy("too many lookups wait for the same host", _PAUSE) from error

    async def _identity(self, did: str) -> IdentityAnswer:
        # Before the request: frames that arrive while it is under way may need a newer answer.
        fetched_at = time.time()
        try:
            document = await self._directory.document(did)
        except Refused as refused:
            metrics.REFUSED.labels(refused.reason, Stage.FETCHER).inc()
            return IdentityAnswer(did, fetched_at, error=str(refused))
        return IdentityAnswer(did, fetched_at, document.signing_key, document.pds, document.handle)

    async def _account(self, question: LeasedLookup) -> AccountAnswer:
        try:
            status = await self._accounts.status(question.did)
        except Refused as refused:
            metrics.REFUSED.labels(refused.reason, Stage.FETCHER).inc()
            raise Inconclusive(str(refused)) from refused
        return AccountAnswer(question.did, question.epoch, question.seq, status)
