"""Discovery on a real PostgreSQL, with a scripted relay that lists repositories."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import orjson
import pytest

from consumer.config.settings import DiscoverySettings, NetworkSettings, RelaySettings
from consumer.fetch import discovery
from consumer.fetch.discovery import discover
from consumer.kafka.topics import Topics
from consumer.scope import Repos, Scope
from consumer.store.database import Database
from tests.support.deployment import PARTITIONS, Deployment
from tests.support.eventually import eventually
from tests.support.web import Web, response, web

pytestmark = pytest.mark.services

VOTES, NOTES = "pub.chive.eprint.vote", "pub.chive.eprint.note"
OLD, OLDER = "3l6oveex3ii2l", "3k6oveex3ii2l"


def did(number: int) -> str:
    return f"did:web:n{number}.example"


def page(numbers: Sequence[int], cursor: str | None = None, **more: Any) -> bytes:
    repos = [{"did": did(number), **more} for number in numbers]
    return response(200, orjson.dumps({"repos": repos} | ({"cursor": cursor} if cursor else {})))


@dataclass
class World:
    deployment: Deployment
    database: Database
    relay: Web
    topics: Topics
    scope: Scope = field(default_factory=lambda: Scope((VOTES,)))
    sweep_every: float = 0.0
    queued: int = 1_000

    def lists(self, collection: str, cursor: str | None, reply: bytes) -> None:
        more = f"&cursor={cursor}" if cursor else ""
        path = "/xrpc/com.atproto.sync."
        if collection == "*":
            path += f"listRepos?limit=1000{more}"
        else:
            path += f"listReposByCollection?collection={collection}&limit=2000{more}"
        self.relay.replies[path] = reply

    @asynccontextmanager
    async def discovering(self) -> AsyncIterator[None]:
        settings = self.deployment.settings(
            relay=RelaySettings(url=self.relay.origin.replace("http", "ws")),
            network=NetworkSettings(allow_loopback=True),
            discovery=DiscoverySettings(sweep_every=self.sweep_every, queued=self.queued),
        )
        stop = asyncio.Event()
        task = asyncio.create_task(discover(settings, self.scope, self.topics, self.database, stop))
        try:
            yield
            stop.set()
            await asyncio.wait_for(task, 30)
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    async def rows(self, sql: str) -> list[tuple[Any, ...]]:
        async with self.database.transaction() as connection:
            return await (await connection.execute(sql)).fetchall()

    async def synced(self) -> list[str]:
        """Return the DIDs whose sync is queued."""
        sql = "SELECT did FROM operations WHERE type = 'didSync' AND automatic ORDER BY did"
        return [found for (found,) in await self.rows(sql)]

    async def searched(self, listing: str, status: str = "completed") -> bool:
        sql = "SELECT reason, status FROM operations WHERE type = 'discovery'"
        return (listing, status) in await self.rows(sql)

    async def know(self, number: int, rev: str, status: str = "active") -> None:
        async with self.database.transaction() as connection:
            await connection.execute(
                "INSERT INTO repos (did, lane, sync_state, rev, status)"
                " VALUES (%s, 0, 'active', %s, %s)",
                [did(number), rev, status],
            )


@pytest.fixture
async def world(deployment: Deployment, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    monkeypatch.setattr(discovery, "_POLL_SECONDS", 0.1)
    database = Database(deployment.postgres(), deployment.prefix)
    await database.open()
    async with web() as relay:
        yield World(deployment, database, relay, Topics(deployment.prefix, PARTITIONS))
    await database.close()


async def test_every_page_is_gone_through_and_every_stranger_synced(world: World) -> None:
    await world.know(2, OLD)
    world.lists(VOTES, None, page([1, 2], "b"))
    world.lists(VOTES, "b", page([3], "c", active=False))  # only inactive ones: not the end
    world.lists(VOTES, "c", page([4, 1]))
    async with world.discovering():
        await eventually(lambda: world.searched(VOTES), what="the search ends")
    assert await world.synced() == [did(1), did(4)]
    (found,) = await world.rows(
        "SELECT records_processed, progress, phase FROM operations WHERE type = 'discovery'"
    )
    assert found[1:] == (100, "applied")
    async with world.discovering():  # once is enough
        pass
    assert len(world.relay.requests) == 3


async def test_a_collection_that_is_added_is_searched(world: World) -> None:
    world.lists(VOTES, None, page([1]))
    async with world.discovering():
        await eventually(lambda: world.searched(VOTES), what="the search ends")
    world.scope = Scope((VOTES, NOTES))
    world.lists(NOTES, None, page([2]))
    async with world.discovering():
        await eventually(lambda: world.searched(NOTES), what="the search ends")
    assert await world.synced() == [did(1), did(2)]
    assert len(world.relay.requests) == 2


async def test_it_goes_on_at_its_cursor(world: World) -> None:
    world.lists(VOTES, None, page([1], "b"))
    world.lists(VOTES, "b", response(503, retry_after="1"))
    async with world.discovering():
        await eventually(lambda: world.searched(VOTES, "queued"), what="it is postponed")
    world.lists(VOTES, "b", page([2]))
    async with world.discovering():
        await eventually(lambda: world.searched(VOTES), what="the search ends")
    assert await world.synced() == [did(1), did(2)]
    assert sum("cursor" not in path for path in world.relay.paths) == 1


async def test_a_crowd_of_waiting_syncs_holds_it_up(world: World) -> None:
    world.queued = 1
    world.lists(VOTES, None, page([1], "b"))
    world.lists(VOTES, "b", page([2]))
    async with world.discovering():
        await eventually(world.synced, what="the first page")
        assert not await world.searched(VOTES)
        async with world.database.transaction() as connection:
            await connection.execute(
                "UPDATE operations SET status = 'completed', completed_at = now(),"
                " version = version + 1 WHERE type = 'didSync'"
            )
        await eventually(lambda: world.searched(VOTES), what="the search ends")
    assert await world.synced() == [did(1), did(2)]


async def test_a_relay_without_listings(world: World) -> None:
    async with world.discovering():
        await eventually(lambda: world.searched(VOTES, "failed"), what="it gives up")
    ((error, due),) = await world.rows(
        "SELECT o.error, d.due > now() + interval '1 hour' FROM discoveries AS d"
        " JOIN operations AS o ON o.id = d.operation"
    )
    assert "404" in error
    assert due


async def test_a_listing_that_stands_still_is_no_endless_loop(world: World) -> None:
    world.lists(VOTES, None, page([1], "b"))
    world.lists(VOTES, "b", page([1], "b"))
    async with world.discovering():
        await eventually(lambda: world.searched(VOTES, "queued"), what="it is postponed")
        assert await world.synced() == [did(1)]


async def test_a_sweep_finds_those_that_we_are_behind(world: World) -> None:
    world.scope, world.sweep_every = Scope((VOTES,), Repos.LISTED), 3_600.0
    await world.know(1, OLDER)
    await world.know(2, OLD)
    await world.know(3, OLDER, "deactivated")
    world.lists("*", None, page([1, 2, 3, 4], rev=OLD))
    async with world.discovering():
        await eventually(lambda: world.searched("#sweep"), what="the sweep ends")
    assert await world.synced() == [did(1)]
    assert await world.rows("SELECT reason FROM operations WHERE type = 'didSync'") == [
        ("listed_newer",)
    ]


async def test_listed_repositories_are_synced_without_a_relay(world: World) -> None:
    world.scope = Scope((VOTES,), Repos.LISTED, dids=frozenset({did(1), did(2)}))
    await world.know(2, OLD)
    async with world.discovering():
        await eventually(world.synced, what="the sync is queued")
    assert await world.synced() == [did(1)]
    assert world.relay.requests == []
