"""What becomes of the repositories that a page names."""

from __future__ import annotations

import time
from dataclasses import replace

from consumer.backfill import Cause, LookupKind
from consumer.fetch.listings import Page
from consumer.kafka.topics import Topics
from consumer.shard import WHOLE, Shard
from consumer.state.accounts import AccountRules
from consumer.state.discovery import SWEEP, Search
from consumer.store import found, lookups, repos
from consumer.store.database import Connection
from consumer.store.operations import queue
from consumer.store.rows import LookupRequest
from procedures.syntax import tid_time

_SETTLED = 600.0  # seconds after which a rev should have arrived by the firehose


class Findings:
    """Keeps what pages name, in the transaction that keeps the search."""

    def __init__(self, topics: Topics, account_rules: AccountRules, shard: Shard = WHOLE) -> None:
        self._topics = topics
        self._shard = shard
        self._account_rules = account_rules

    async def note(self, connection: Connection, search: Search, page: Page) -> int:
        """Remember the repositories of ``page`` that are not known; return how many are new.

        Known ones are compared: with the account's status, and in a sweep with its rev.  Those of
        another shard are passed over.
        """
        page = replace(page, repos=tuple(repo for repo in page.repos if self._shard.has(repo.did)))
        await self._question(connection, page)
        lane_of = self._topics.partition_of
        present = [repo for repo in page.repos if repo.active is not False]
        if search.listing == SWEEP:
            settled = time.time() - _SETTLED
            behind = {
                repo.did: (repo.did, lane_of(repo.did), repo.rev)
                for repo in present
                if repo.rev is not None and tid_time(repo.rev) < settled
            }
            return await queue.add_behind(connection, list(behind.values()))
        listed = [(repo.did, lane_of(repo.did)) for repo in present]
        host = search.source if search.named_by is not None else None
        return await found.note(connection, listed, search.source, search.listing, host)

    async def _question(self, connection: Connection, page: Page) -> None:
        """Ask about accounts whose status the listing states otherwise than it is known.

        The listing decides nothing: the host of today does, at most once an hour per account.
        """
        active = [repo.did for repo in page.repos if repo.active is True]
        inactive = [repo.did for repo in page.repos if repo.active is False]
        wanted = [
            LookupRequest(
                did,
                LookupKind.ACCOUNT,
                lane,
                epoch,
                seq,
                cause=Cause.LISTING,
                every=self._account_rules.pause(Cause.LISTING),
            )
            for did, lane, epoch, seq in await repos.contradicted(connection, active, inactive)
        ]
        await lookups.request(connection, wanted)
