"""Discovery on a real PostgreSQL, with two scripted sources of listings."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import orjson
import pytest

from consumer.config.retries import RetrySettings
from consumer.config.settings import (
    DiscoverySettings,
    IdentitySettings,
    NetworkSettings,
    RelaySettings,
)
from consumer.fetch.discovery import feeder, planner, reader
from consumer.fetch.discovery.role import discover
from consumer.scope import Scope
from consumer.state.discovery import HOSTS, SWEEP, SearchRules
from consumer.state.sweep import Choice
from procedures.retries import Backoff
from tests.support.deployment import Deployment
from tests.support.eventually import eventually
from tests.support.harness import Harness, running
from tests.support.web import Reply, Web, response, web

VOTES, COMMENTS = "pub.chive.graph.vote", "pub.chive.review.comment"


OLD, OLDER = "3l6oveex3ii2l", "3k6oveex3ii2l"


_WAITS = Backoff(0.02, 0.05)


RULES = SearchRules(refused_for=0.2, down_after=60.0, waits=_WAITS, page_waits=_WAITS)


_METHODS = {"*": "listRepos", SWEEP: "listRepos", HOSTS: "listHosts"}


class _Replies(dict[str, Reply]):
    """Replies by path, whatever the size of the page."""

    def get(self, path: str, default: Any = None) -> Any:
        return super().get(re.sub(r"limit=\d+&?", "", path).rstrip("?&"), default)


def did(number: int) -> str:
    return f"did:web:n{number}.example"


def page(numbers: Sequence[int], cursor: str | None = None, **more: Any) -> bytes:
    repos = [{"did": did(number), **more} for number in numbers]
    return response(200, orjson.dumps({"repos": repos} | ({"cursor": cursor} if cursor else {})))


def lists(source: Web, listing: str, cursor: str | None, reply: Reply) -> None:
    method = _METHODS.get(listing, "listReposByCollection")
    query = [] if listing in _METHODS else [f"collection={listing}"]
    query += [f"cursor={cursor}"] if cursor else []
    path = f"/xrpc/com.atproto.sync.{method}"
    source.replies[f"{path}?{'&'.join(query)}" if query else path] = reply


@dataclass
class DiscoveryHarness(Harness):
    """Two scripted sources; ``relay`` is the one of the firehose."""

    relay: Web
    other: Web
    scope: Scope = field(default_factory=lambda: Scope((VOTES,)))
    sources: tuple[str, ...] | None = None
    sweep_every: float = 0.0
    sweep: Choice = Choice.LISTING
    queued: int = 1_000
    unconfirmed: int = 1_000
    registered_hosts: int = 2
    allow_loopback: bool = True
    rules: SearchRules = RULES

    @asynccontextmanager
    async def discovering(self) -> AsyncIterator[None]:
        settings = self.deployment.settings(
            relay=RelaySettings(url=self.relay.origin.replace("http", "ws")),
            network=NetworkSettings(allow_loopback=self.allow_loopback),
            identity=IdentitySettings(plc_url=self.relay.origin),
            discovery=DiscoverySettings(
                sources=self.sources,
                sweep_every=self.sweep_every,
                sweep=self.sweep,
                queued=self.queued,
                unconfirmed=self.unconfirmed,
                registered_hosts=self.registered_hosts,
                pace=1_000.0,
            ),
            retries=RetrySettings(renewal_first=3_600.0),
        )
        root = partial(discover, settings, self.scope, self.topics, self.database, rules=self.rules)
        async with running(root):
            yield

    async def synced(self) -> list[str]:
        """Return the DIDs whose sync is queued."""
        sql = "SELECT did FROM operations WHERE type = 'didSync' AND automatic ORDER BY did"
        return [found for (found,) in await self.rows(sql)]

    async def both(self) -> bool:
        return await self.synced() == [did(1), did(2)]

    async def state(self, listing: str, source: Web | None = None) -> str | None:
        sql = "SELECT state FROM searches WHERE listing = %s AND source = %s"
        rows = await self.rows(sql, [listing, (source or self.relay).origin])
        return rows[0][0] if rows else None

    async def searched(
        self, listing: str, state: str = "completed", source: Web | None = None
    ) -> bool:
        return await self.state(listing, source) == state

    async def detail(self, listing: str, source: Web | None = None) -> str:
        sql = "SELECT detail FROM searches WHERE listing = %s AND source = %s"
        ((detail,),) = await self.rows(sql, [listing, (source or self.relay).origin])
        return str(detail)

    async def operations(self) -> list[tuple[str, str]]:
        """Return listing and status of each discovery, when none is open any more."""
        sql = "SELECT reason, status FROM operations WHERE type = 'discovery' ORDER BY requested_at"

        async def ended() -> list[tuple[str, str]] | None:
            rows = await self.rows(sql)
            return rows if all(status != "running" for _, status in rows) else None

        return await eventually(ended, what="every discovery ends") or []

    async def know(self, number: int, rev: str, status: str = "active") -> None:
        await self.execute(
            "INSERT INTO repos (did, lane, sync_state, rev, status)"
            " VALUES (%s, 0, 'active', %s, %s)",
            [did(number), rev, status],
        )

    async def epoch(self, number: int) -> None:
        await self.execute(
            "INSERT INTO cursors (relay, seq, session) VALUES ('wss://r', 1, %s)"
            " ON CONFLICT (relay) DO UPDATE SET session = EXCLUDED.session",
            [number],
        )

    async def end_syncs(self, failure: str | None, status: str = "failed") -> None:
        await self.execute(
            "UPDATE operations SET status = %s, failure = %s, completed_at = now(),"
            " version = version + 1 WHERE type = 'didSync' AND status = 'queued'",
            [status, failure],
        )

    async def found(self) -> list[tuple[str, int, str | None]]:
        return await self.rows("SELECT did, tries, failure FROM found ORDER BY did")


@asynccontextmanager
async def harnessed(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[DiscoveryHarness]:
    monkeypatch.setattr(reader, "_POLL_SECONDS", 0.1)
    monkeypatch.setattr(feeder, "_FEED_SECONDS", 0.05)
    monkeypatch.setattr(planner, "_FIRST_EPOCH_SECONDS", 0.0)
    async with AsyncExitStack() as stack:
        relay, other = [await stack.enter_async_context(web()) for _ in range(2)]
        for source in (relay, other):
            source.replies = _Replies()
        yield await stack.enter_async_context(
            DiscoveryHarness.opened(deployment, relay=relay, other=other)
        )


async def failed_once(harness: DiscoveryHarness) -> bool:
    return any(tries for _, tries, _ in await harness.found())
