"""Looking at a deployment from outside, beside the PDS it follows: is it done, and right."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from consumer.config.settings import Settings
from consumer.kafka.client import Client
from consumer.kafka.topics import Topics
from consumer.scope import Scope
from consumer.store import lanes
from consumer.store.database import Database
from consumer.store.rows import RELEASED
from demo.catch_up import Behind, behind, caught_up
from demo.compare import Comparison, compare, fold_events, read_rows
from demo.listing import list_pds
from demo.local_network import LocalNetwork
from demo.schemas import judged

_POLL = 0.3  # seconds


@dataclass(frozen=True, slots=True)
class Observer:
    """The local network and one deployment that follows it."""

    network: LocalNetwork
    client: Client
    topics: Topics
    database: Database
    scope: Scope

    async def started(self) -> None:
        """Wait until the deployment has topics, and every lane an owner."""
        topics = {spec.name for spec in self.topics.specs()}
        async with self.client.admin() as admin:
            while not topics <= set(await admin.list_topics()):  # noqa: ASYNC110  polled
                await asyncio.sleep(_POLL)
        while await self._owned() < self.topics.partitions:  # noqa: ASYNC110  polled
            await asyncio.sleep(_POLL)

    async def _owned(self) -> int:
        async with self.database.transaction() as connection:
            found = await lanes.read_all(connection)
        return sum(lane.token != RELEASED for lane in found)

    async def behind(self) -> Behind:
        """Return how far the deployment is behind the PDS."""
        relay, newest = self.network.endpoints.firehose, await self.network.newest_seq()
        return await behind(self.client, self.topics, self.database, relay, newest)

    async def caught_up(self, deadline: float) -> Behind:
        """Wait up to ``deadline`` seconds until nothing is left; return the last look."""
        return await caught_up(self.behind, deadline)

    async def compared(self) -> Comparison:
        """Compare what the PDS lists, the rows and the fold of the events."""
        listing = await list_pds(self.network.endpoints, self.scope)
        rows = await read_rows(self.database)
        fold = await fold_events(self.client, self.topics)
        others = await judged(self.client, self.topics)
        return compare(listing, rows, fold, self.scope, others)


@asynccontextmanager
async def observing(network: LocalNetwork, settings: Settings) -> AsyncIterator[Observer]:
    """Observe the deployment of ``settings``, which name its servers."""
    prefix, partitions = settings.kafka.topic_prefix, settings.kafka.partitions
    database = Database(settings.postgres, prefix)
    await database.open()
    try:
        yield Observer(
            network,
            Client(settings.kafka),
            Topics(prefix, partitions),
            database,
            Scope(settings.scope.collections),
        )
    finally:
        await database.close()
