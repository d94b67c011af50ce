"""Discovery on a real PostgreSQL, with a scripted relay that lists repositories."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import orjson
import pytest

from consumer.config.settings import DiscoverySettings, NetworkSettings, RelaySettings
from consumer.fetch import discovery
from consumer.fetch.discovery import discover
from consumer.scope import Repos, Scope
from tests.support.deployment import Deployment
from tests.support.eventually import eventually
from tests.support.harness import Harness, running
from tests.support.web import Web, response, web

pytestmark = pytest.mark.services

VOTES, NOTES = "pub.chive.graph.vote", "pub.chive.review.comment"
OLD, OLDER = "3l6oveex3ii2l", "3k6oveex3ii2l"


def did(number: int) -> str:
    return f"did:web:n{number}.example"


def page(numbers: Sequence[int], cursor: str | None = None, **more: Any) -> bytes:
    repos = [{"did": did(number), **more} for number in numbers]
    return response(200, orjson.dumps({"repos": repos} | ({"cursor": cursor} if cursor else {})))


@dataclass
class DiscoveryHarness(Harness):
    """A scripted relay that lists repositories."""

    relay: Web
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
        async with running(partial(discover, settings, self.scope, self.topics, self.database)):
            yield

    async def synced(self) -> list[str]:
        """Return the DIDs whose sync is queued."""
        sql = "SELECT did FROM operations WHERE type = 'didSync' AND automatic ORDER BY did"
        return [found for (found,) in await self.rows(sql)]

    async def searched(self, listing: str, status: str = "completed") -> bool:
        sql = "SELECT reason, status FROM operations WHERE type = 'discovery'"
        return (listing, status) in await self.rows(sql)

    async def know(self, number: int, rev: str, status: str = "active") -> None:
        await self.execute(
            "INSERT INTO repos (did, lane, sync_state, rev, status)"
            " VALUES (%s, 0, 'active', %s, %s)",
            [did(number), rev, status],
        )


@pytest.fixture
async def harness(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[DiscoveryHarness]:
    monkeypatch.setattr(discovery, "_POLL_SECONDS", 0.1)
    async with (
        web() as relay,
        DiscoveryHarness.opened(deployment, relay=relay) as harness,
    ):
        yield harness


async def test_every_page_is_gone_through_and_every_stranger_synced(
    harness: DiscoveryHarness,
) -> None:
    await harness.know(2, OLD)
    harness.lists(VOTES, None, page([1, 2], "b"))
    harness.lists(VOTES, "b", page([3], "c", active=False))  # only inactive ones: not the end
    harness.lists(VOTES, "c", page([4, 1]))
    async with harness.discovering():
        await eventually(lambda: harness.searched(VOTES), what="the search ends")
    assert await harness.synced() == [did(1), did(4)]
    (found,) = await harness.rows(
        "SELECT records_processed, progress, phase FROM operations WHERE type = 'discovery'"
    )
    assert found[1:] == (100, "applied")
    async with harness.discovering():  # once is enough
        pass
    assert len(harness.relay.requests) == 3


async def test_a_collection_that_is_added_is_searched(harness: DiscoveryHarness) -> None:
    harness.lists(VOTES, None, page([1]))
    async with harness.discovering():
        await eventually(lambda: harness.searched(VOTES), what="the search ends")
    harness.scope = Scope((VOTES, NOTES))
    harness.lists(NOTES, None, page([2]))
    async with harness.discovering():
        await eventually(lambda: harness.searched(NOTES), what="the search ends")
    assert await harness.synced() == [did(1), did(2)]
    assert len(harness.relay.requests) == 2


async def test_it_goes_on_at_its_cursor(harness: DiscoveryHarness) -> None:
    harness.lists(VOTES, None, page([1], "b"))
    harness.lists(VOTES, "b", response(503, retry_after="1"))
    async with harness.discovering():
        await eventually(lambda: harness.searched(VOTES, "queued"), what="it is postponed")
    harness.lists(VOTES, "b", page([2]))
    async with harness.discovering():
        await eventually(lambda: harness.searched(VOTES), what="the search ends")
    assert await harness.synced() == [did(1), did(2)]
    assert sum("cursor" not in path for path in harness.relay.paths) == 1


async def test_a_crowd_of_waiting_syncs_holds_it_up(harness: DiscoveryHarness) -> None:
    harness.queued = 1
    harness.lists(VOTES, None, page([1], "b"))
    harness.lists(VOTES, "b", page([2]))
    async with harness.discovering():
        await eventually(harness.synced, what="the first page")
        assert not await harness.searched(VOTES)
        async with harness.database.transaction() as connection:
            await connection.execute(
                "UPDATE operations SET status = 'completed', completed_at = now(),"
                " version = version + 1 WHERE type = 'didSync'"
            )
        await eventually(lambda: harness.searched(VOTES), what="the search ends")
    assert await harness.synced() == [did(1), did(2)]


async def test_a_relay_without_listings(harness: DiscoveryHarness) -> None:
    async with harness.discovering():
        await eventually(lambda: harness.searched(VOTES, "failed"), what="it gives up")
    ((error, due),) = await harness.rows(
        "SELECT o.error, d.due > now() + interval '1 hour' FROM discoveries AS d"
        " JOIN operations AS o ON o.id = d.operation"
    )
    assert "404" in error
    assert due


async def test_a_listing_that_stands_still_is_no_endless_loop(harness: DiscoveryHarness) -> None:
    harness.lists(VOTES, None, page([1], "b"))
    harness.lists(VOTES, "b", page([1], "b"))
    async with harness.discovering():
        await eventually(lambda: harness.searched(VOTES, "queued"), what="it is postponed")
        assert await harness.synced() == [did(1)]


async def test_a_sweep_finds_those_that_we_are_behind(harness: DiscoveryHarness) -> None:
    harness.scope, harness.sweep_every = Scope((VOTES,), Repos.LISTED), 3_600.0
    await harness.know(1, OLDER)
    await harness.know(2, OLD)
    await harness.know(3, OLDER, "deactivated")
    harness.lists("*", None, page([1, 2, 3, 4], rev=OLD))
    async with harness.discovering():
        await eventually(lambda: harness.searched("#sweep"), what="the sweep ends")
    assert await harness.synced() == [did(1)]
    assert await harness.rows("SELECT reason FROM operations WHERE type = 'didSync'") == [
        ("listed_newer",)
    ]


async def test_listed_repositories_are_synced_without_a_relay(harness: DiscoveryHarness) -> None:
    harness.scope = Scope((VOTES,), Repos.LISTED, dids=frozenset({did(1), did(2)}))
    await harness.know(2, OLD)
    async with harness.discovering():
        await eventually(harness.synced, what="the sync is queued")
    assert await harness.synced() == [did(1)]
    assert harness.relay.requests == []
