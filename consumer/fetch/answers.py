"""Answers to lookups: what goes to ``chive.backfill`` for a row of ``lookups``."""

from __future__ import annotations

import asyncio
import time

from consumer import metrics
from consumer.backfill import AccountAnswer, IdentityAnswer, LookupKind
from consumer.errors import Refused
from consumer.fetch.account import Accounts, Stated
from consumer.fetch.documents import Document
from consumer.fetch.hosts import HostBusy
from consumer.fetch.identity import Directory, Inconclusive
from consumer.metrics.labels import Stage
from consumer.store.rows import LeasedLookup
from procedures.retries import RetryPolicy

_SECONDS = 45.0  # for a whole answer, the wait for a slot of the host included

LookupAnswer = IdentityAnswer | AccountAnswer


class Answers:
    """Answers both kinds of lookups: identities and accounts."""

    def __init__(self, directory: Directory, accounts: Accounts, retries: RetryPolicy) -> None:
        self._directory = directory
        self._accounts = accounts
        self._retries = retries

    async def to(self, lookup: LeasedLookup) -> LookupAnswer:
        """Return the answer to ``lookup``, within 45 seconds.

        Raises ``HostUnavailable`` when a host cannot be called now, and ``Inconclusive`` when
        its answer states nothing.
        """
        try:
            async with asyncio.timeout(_SECONDS):
                if lookup.kind == LookupKind.IDENTITY:
                    return await self._identity(lookup.did)
                return await self._account(lookup)
        except TimeoutError as error:
            pause = self._retries.busy_host.longest
            raise HostBusy("too many lookups wait for the same host", pause) from error

    async def _identity(self, did: str) -> IdentityAnswer:
        # Before the request: frames that arrive during it may need a newer answer.
        fetched_at = time.time()
        try:
            document = await self._directory.document(did)
        except Refused as refused:
            metrics.REFUSED.labels(refused.reason, Stage.FETCHER).inc()
            return IdentityAnswer(did, fetched_at, error=str(refused))
        return identity_of(did, document, fetched_at)

    async def _account(self, lookup: LeasedLookup) -> AccountAnswer:
        try:
            stated = await self._accounts.ask(lookup.did)
        except Refused as refused:
            metrics.REFUSED.labels(refused.reason, Stage.FETCHER).inc()
            raise Inconclusive(str(refused)) from refused
        return answer_of(lookup.did, lookup.epoch, lookup.seq, stated, lookup.cause)


def identity_of(did: str, document: Document, fetched_at: float) -> IdentityAnswer:
    """Return the message that carries what is known of ``did`` since ``fetched_at``."""
    return IdentityAnswer(did, fetched_at, document.signing_key, document.pds, document.handle)


def answer_of(did: str, epoch: int, seq: int, stated: Stated, cause: str) -> AccountAnswer:
    """Return the message that carries what was stated of ``did``.

    ``epoch`` and ``seq`` are those of the newest ``#account`` frame known when it was asked.
    """
    return AccountAnswer(
        did,
        epoch,
        seq,
        stated.status,
        stated.source,
        stated.host,
        stated.asked_at,
        cause,
        stated.name,
    )
