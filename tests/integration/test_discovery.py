"""Discovery on a real PostgreSQL, with scripted sources of listings."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import orjson
import pytest

from consumer.config.settings import (
    DiscoverySettings,
    IdentitySettings,
    NetworkSettings,
    RelaySettings,
    RetrySettings,
)
from consumer.control.commands import carry_out
from consumer.fetch.discovery import feeder, planner, reader
from consumer.fetch.discovery.role import discover
from consumer.fetch.role import Fetcher
from consumer.scope import Repos, Scope
from consumer.state.discovery import HOSTS, SWEEP, SearchRules
from consumer.state.sweep import Choice
from consumer.store import found, searches
from procedures.messages import Discover
from procedures.retries import DEFAULT, Backoff
from tests.support.deployment import Deployment
from tests.support.eventually import eventually
from tests.support.harness import Harness, running
from tests.support.web import Reply, Web, response, web
from tests.unit.fetch.test_documents import document, method, service

pytestmark = pytest.mark.services

VOTES, COMMENTS = "pub.chive.graph.vote", "pub.chive.review.comment"
OLD, OLDER = "3l6oveex3ii2l", "3k6oveex3ii2l"
BAD_REQUEST = response(400, b'{"error":"BadRequest","message":"failed to proxy to upstream relay"}')
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


@pytest.fixture
async def harness(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[DiscoveryHarness]:
    async with harnessed(deployment, monkeypatch) as opened:
        yield opened


async def test_every_page_is_gone_through_and_every_stranger_synced(
    harness: DiscoveryHarness,
) -> None:
    await harness.know(2, OLD)
    lists(harness.relay, VOTES, None, page([1, 2], "b"))
    lists(harness.relay, VOTES, "b", page([3], "c", active=False))  # only inactive: not the end
    lists(harness.relay, VOTES, "c", page([4, 1]))
    async with harness.discovering():
        await eventually(lambda: harness.searched(VOTES), what="the search ends")
        assert await harness.operations() == [(VOTES, "completed")]
        await eventually(lambda: _first_and_fourth(harness), what="they are fed")
    (found,) = await harness.rows(
        "SELECT records_processed, progress, phase FROM operations WHERE type = 'discovery'"
    )
    assert found == (5, 100, "applied")
    async with harness.discovering():  # once is enough
        pass
    assert len(harness.relay.requests) == 3


async def _first_and_fourth(harness: DiscoveryHarness) -> bool:
    return await harness.synced() == [did(1), did(4)]


async def test_a_collection_that_is_added_is_searched(harness: DiscoveryHarness) -> None:
    lists(harness.relay, VOTES, None, page([1]))
    lists(harness.relay, COMMENTS, None, page([2]))
    async with harness.discovering():
        await eventually(lambda: harness.searched(VOTES), what="the search ends")
    harness.scope = Scope((VOTES, COMMENTS))
    async with harness.discovering():
        await eventually(lambda: harness.searched(COMMENTS), what="the search ends")
        await eventually(harness.both, what="both are fed")
    assert len(harness.relay.requests) == 2


async def test_a_collection_that_is_taken_out_and_put_back_is_searched_again(
    harness: DiscoveryHarness,
) -> None:
    lists(harness.relay, VOTES, None, page([1]))
    lists(harness.relay, COMMENTS, None, page([]))
    for collection in (VOTES, COMMENTS, VOTES):
        harness.scope = Scope((collection,))
        async with harness.discovering():
            await eventually(partial(harness.searched, collection), what="the search ends")
    assert sum(VOTES in path for path in harness.relay.paths) == 2


async def test_it_goes_on_at_its_cursor(harness: DiscoveryHarness) -> None:
    lists(harness.relay, VOTES, None, page([1], "b"))
    lists(harness.relay, VOTES, "b", response(503, retry_after="1"))
    async with harness.discovering():
        await eventually(lambda: len(harness.relay.requests) > 1, what="it is postponed")
    lists(harness.relay, VOTES, "b", page([2]))
    async with harness.discovering():
        await eventually(lambda: harness.searched(VOTES), what="the search ends")
        await eventually(harness.both, what="both are fed")
    assert sum("cursor" not in path for path in harness.relay.paths) == 1


@pytest.mark.parametrize(
    "refusal",
    [
        BAD_REQUEST,
        response(404),
        response(501, b'{"error":"MethodNotImplemented"}'),
        response(200, b"<html>hello"),
    ],
    ids=["bad-request", "404", "501", "html"],
)
async def test_a_relay_that_does_not_serve_gives_way_to_another_source(
    harness: DiscoveryHarness, refusal: bytes
) -> None:
    harness.sources = ("relay", harness.other.origin)
    lists(harness.relay, VOTES, None, refusal)
    lists(harness.other, VOTES, None, page([1, 2]))
    async with harness.discovering():
        await eventually(lambda: harness.searched(VOTES, source=harness.other), what="found")
        assert await harness.operations() == [(VOTES, "completed")]
        await eventually(harness.both, what="both are fed")
    assert await harness.searched(VOTES, "unsupported")
    assert "status" in await harness.detail(VOTES)
    asked = len(harness.relay.requests)
    async with harness.discovering():  # remembered
        pass
    assert len(harness.relay.requests) == asked <= 20


async def test_a_source_without_the_method_is_asked_once_for_all_collections(
    harness: DiscoveryHarness,
) -> None:
    many = [f"pub.chive.test.kind{number}" for number in range(6)]
    harness.scope = Scope(tuple(many))
    harness.sources = ("relay", harness.other.origin)
    lists(harness.other, many[0], None, page([1, 2]))
    for listing in many[1:]:
        lists(harness.other, listing, None, response(200, b'{"repos":null}'))
    async with harness.discovering():
        assert sorted(await harness.operations()) == [(one, "completed") for one in many]
    assert len([path for path in harness.relay.paths if "listReposByCollection" in path]) == 1
    assert {await harness.state(one) for one in many} == {"unsupported"}
    assert {await harness.state(one, harness.other) for one in many} == {"completed"}
    told = "SELECT sum(records_processed) FROM operations WHERE type = 'discovery'"
    assert await harness.rows(told) == [(2,)]


async def test_a_listing_that_no_source_serves_says_so(harness: DiscoveryHarness) -> None:
    harness.sources = ("relay", harness.other.origin)
    async with harness.discovering():
        await eventually(lambda: harness.searched(VOTES, "unsupported", harness.other), what="end")
        assert await harness.operations() == [(VOTES, "failed")]
    ((error,),) = await harness.rows("SELECT error FROM operations WHERE type = 'discovery'")
    assert VOTES in error
    assert "404" in error


async def test_a_page_that_always_fails_is_named_and_the_next_source_asked(
    harness: DiscoveryHarness,
) -> None:
    harness.sources = ("relay", harness.other.origin)
    harness.scope = Scope((VOTES, COMMENTS))
    lists(harness.relay, VOTES, None, page([1], "b"))
    lists(harness.relay, VOTES, "b", response(500))
    lists(harness.relay, COMMENTS, None, page([3]))
    lists(harness.other, VOTES, None, page([1, 2]))
    async with harness.discovering():
        await eventually(lambda: harness.searched(VOTES, source=harness.other), what="found")
        await eventually(lambda: harness.searched(COMMENTS), what="another listing goes on")
    assert await harness.searched(VOTES, "incomplete")
    assert "cursor 'b'" in await harness.detail(VOTES)
    limits = [re.findall(r"limit=(\d+)", path)[0] for path in harness.relay.paths if "=b" in path]
    assert list(dict.fromkeys(limits)) == ["2000", "200", "20", "2", "1"]
    assert len(limits) == 15


async def test_cursors_in_a_circle_end_the_search(harness: DiscoveryHarness) -> None:
    harness.sources = ("relay", harness.other.origin)
    lists(harness.relay, VOTES, None, page([1], "x"))
    lists(harness.relay, VOTES, "x", page([1], "y"))
    lists(harness.relay, VOTES, "y", page([1], "x"))
    lists(harness.other, VOTES, None, page([2]))
    async with harness.discovering():
        await eventually(lambda: harness.searched(VOTES, source=harness.other), what="found")
        await eventually(harness.both, what="both are fed")
    assert await harness.searched(VOTES, "incomplete")
    assert len(harness.relay.requests) == 3


async def test_a_source_that_is_down_gives_way(harness: DiscoveryHarness) -> None:
    harness.sources = ("relay", harness.other.origin)
    harness.rules = replace(RULES, down_after=0.5)
    lists(harness.relay, VOTES, None, response(503))
    lists(harness.other, VOTES, None, page([1]))
    async with harness.discovering():
        await eventually(lambda: harness.searched(VOTES, source=harness.other), what="found")
        assert await harness.operations() == [(VOTES, "completed")]
    assert await harness.searched(VOTES, "incomplete")


async def test_another_relay_is_searched_anew(harness: DiscoveryHarness) -> None:
    lists(harness.relay, VOTES, None, page([1], "b"))
    lists(harness.relay, VOTES, "b", response(503, retry_after="9"))
    async with harness.discovering():
        await eventually(lambda: len(harness.relay.requests) > 1, what="it is half read")
    harness.relay, left = harness.other, harness.relay
    lists(harness.relay, VOTES, None, page([2]))
    async with harness.discovering():
        await eventually(lambda: harness.searched(VOTES), what="the search ends")
    assert "cursor" not in harness.relay.paths[0]
    assert await harness.state(VOTES, left) is None


async def test_a_new_epoch_opens_the_listings_again(harness: DiscoveryHarness) -> None:
    await harness.epoch(1)
    lists(harness.relay, VOTES, None, page([1]))
    async with harness.discovering():
        await eventually(lambda: harness.searched(VOTES), what="the search ends")
        lists(harness.relay, VOTES, None, page([1, 2]))
        await harness.epoch(2)
        await eventually(harness.both, what="the one that came in between is found")


async def test_the_timer_opens_the_listings_again(harness: DiscoveryHarness) -> None:
    harness.rules = replace(RULES, repeat_every=0.3)
    lists(harness.relay, VOTES, None, page([1]))
    async with harness.discovering():
        await eventually(lambda: len(harness.relay.requests) > 2, what="it is repeated")


async def test_a_command_opens_the_listings_again(harness: DiscoveryHarness) -> None:
    harness.scope = Scope((VOTES, COMMENTS))
    harness.sources = ("relay", harness.other.origin)
    for source in (harness.relay, harness.other):
        lists(source, VOTES, None, page([1]))
        lists(source, COMMENTS, None, page([2]))

    async def command(identifier: str, collection: str | None, source: str | None) -> str:
        told = Discover(
            id=identifier, collection=collection, source=source, requested_by="me", requested_at=1.0
        )
        async with harness.database.transaction() as connection:
            for _ in range(2):  # a repeated command is the same
                await carry_out(connection, told, harness.topics, harness.scope, DEFAULT, 1.0)

        async def ended() -> str | None:
            sql = "SELECT status FROM operations WHERE id = %s"
            ((status,),) = await harness.rows(sql, [identifier])
            return str(status) if status not in ("queued", "running") else None

        return await eventually(ended, what="the command ends") or ""

    async with harness.discovering():
        await harness.operations()
        await eventually(lambda: harness.searched(COMMENTS), what="the first searches")
        await harness.operations()
        assert len(harness.relay.requests) == 2
        assert await command("one", VOTES, None) == "completed"
        assert len(harness.relay.requests) == 3
        assert await command("two", None, harness.other.origin) == "completed"
        assert len(harness.other.requests) == 2
        assert await command("three", "org.example.none", None) == "failed"
        assert await command("four", None, "https://elsewhere.example") == "failed"


async def test_a_command_takes_over_a_search_whose_page_is_being_read(
    harness: DiscoveryHarness,
) -> None:
    harness.sources = ("relay", harness.other.origin)
    asked, go_on = asyncio.Event(), asyncio.Event()

    async def late(writer: asyncio.StreamWriter) -> None:
        asked.set()
        await go_on.wait()
        writer.write(response(404))

    lists(harness.relay, VOTES, None, late)
    lists(harness.other, VOTES, None, page([1, 2]))
    told = Discover(id="mine", collection=VOTES, source=None, requested_at=1.0)

    async def taken_over() -> bool:
        return await harness.rows("SELECT operation FROM searches") == [("mine",)]

    async with harness.discovering():
        await asyncio.wait_for(asked.wait(), 30)
        async with harness.database.transaction() as connection:
            await carry_out(connection, told, harness.topics, harness.scope, DEFAULT, 1.0)
        await eventually(taken_over, what="the command has the search")
        async with harness.database.transaction() as plan:  # that is being made elsewhere
            await searches.one_by_one(plan)
            go_on.set()
            await asyncio.sleep(0.5)
            assert await harness.state(VOTES) == "open"
        await eventually(harness.both, what="both are fed")
        await harness.operations()
    rows = await harness.rows("SELECT status FROM operations WHERE id = 'mine'")
    assert rows == [("completed",)]


async def test_a_discovery_that_is_cancelled_stops(harness: DiscoveryHarness) -> None:
    lists(harness.relay, VOTES, None, response(503, retry_after="1"))
    async with harness.discovering():
        await eventually(lambda: harness.relay.requests, what="it has begun")
        await harness.execute(
            "UPDATE operations SET status = 'cancelled', completed_at = now(),"
            " version = version + 1 WHERE type = 'discovery'"
        )
        await eventually(lambda: harness.searched(VOTES, "incomplete"), what="it stops")


async def test_only_what_is_due_is_a_crowd(harness: DiscoveryHarness) -> None:
    harness.queued = 2
    lists(harness.relay, VOTES, None, page([1, 2], "b"))
    lists(harness.relay, VOTES, "b", page([3, 4]))
    async with harness.discovering():
        await eventually(lambda: harness.searched(VOTES), what="no page waits for the crowd")
        await eventually(harness.both, what="two are fed")
        # Their hosts are away: they are due again tomorrow, and hold up no other.
        await harness.execute(
            "UPDATE operations SET run_after = now() + interval '1 day', attempts = 1,"
            " version = version + 1 WHERE type = 'didSync'"
        )
        await eventually(
            lambda: _four(harness), what="the others are fed though two wait for their hosts"
        )


async def _four(harness: DiscoveryHarness) -> bool:
    return len(await harness.synced()) == 4


async def test_a_stranger_whose_sync_fails_is_remembered(harness: DiscoveryHarness) -> None:
    lists(harness.relay, VOTES, None, page([1]))
    async with harness.discovering():
        await eventually(harness.synced, what="it is fed")
        await harness.end_syncs("RepoInvalid")
        await eventually(lambda: _failed_once(harness), what="the failure is seen")
        assert await harness.found() == [(did(1), 1, "RepoInvalid")]
        await harness.execute("UPDATE found SET next_try = now()")
        await eventually(lambda: _queued_again(harness), what="it is fed again")
        await harness.know(1, OLD)
        await harness.end_syncs(None, "completed")
        await eventually(lambda: _nothing(harness), what="it is known now")


async def _failed_once(harness: DiscoveryHarness) -> bool:
    return any(tries for _, tries, _ in await harness.found())


async def _queued_again(harness: DiscoveryHarness) -> bool:
    return len(await harness.synced()) == 2


async def _nothing(harness: DiscoveryHarness) -> bool:
    return not await harness.found()


async def test_what_is_gone_is_forgotten(harness: DiscoveryHarness) -> None:
    lists(harness.relay, VOTES, None, page([1]))
    async with harness.discovering():
        await eventually(harness.synced, what="it is fed")
        await harness.end_syncs("DidNotFound")
        await eventually(lambda: _nothing(harness), what="it is forgotten")


async def test_a_host_that_knows_nothing_is_asked_before_it_is_believed(
    harness: DiscoveryHarness,
) -> None:
    lists(harness.relay, VOTES, None, page([1]))
    async with harness.discovering():
        await eventually(harness.synced, what="it is fed")
        await harness.end_syncs("RepoNotFound")
        # Its document cannot be read now, so nothing is known of it.
        await eventually(lambda: _failed_once(harness), what="it is tried again")
    assert await harness.found() == [(did(1), 1, "RepoNotFound")]


async def test_a_source_of_inventions_is_bounded(
    harness: DiscoveryHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader, "_FULL_SECONDS", 0.1)
    harness.sources = ("relay", harness.other.origin)
    harness.unconfirmed = 2
    harness.rules = replace(RULES, down_after=0.5)
    lists(harness.relay, VOTES, None, page([1, 2], "b"))
    lists(harness.relay, VOTES, "b", page([3]))
    lists(harness.other, VOTES, None, page([4]))
    async with harness.discovering():
        await eventually(harness.both, what="the first page")
        await harness.end_syncs("DidUnresolved")
        await eventually(lambda: harness.searched(VOTES, source=harness.other), what="the next")
    assert len(harness.relay.requests) == 1
    assert did(3) not in await harness.synced()


async def test_all_repositories_are_found_at_their_hosts(harness: DiscoveryHarness) -> None:
    harness.scope = Scope(("*",))
    hosts = {"hosts": [{"hostname": harness.other.origin.removeprefix("http://")}]}
    lists(harness.relay, HOSTS, None, response(200, orjson.dumps(hosts)))
    lists(harness.other, "*", None, page([1], "b"))
    lists(harness.other, "*", "b", page([2]))
    async with harness.discovering():
        await eventually(lambda: harness.searched("*", source=harness.other), what="the host")
        assert await harness.operations() == [(HOSTS, "completed")]
        await eventually(harness.both, what="both are fed")
    rows = await harness.rows("SELECT DISTINCT source, host FROM found")
    assert rows == [(harness.other.origin, harness.other.origin)]
    assert len(harness.relay.requests) == 1


async def test_what_a_host_lists_of_another_is_not_synced(harness: DiscoveryHarness) -> None:
    strange, liar = "did:plc:" + "a" * 24, "https://liar.example"
    key = method() | {"id": "#atproto"}
    known = document(id=strange, verificationMethod=[key], service=[service(harness.other.origin)])
    harness.relay.replies[f"/{strange}"] = response(200, known)
    lane = harness.topics.partition_of(strange)
    async with harness.database.transaction() as connection:
        await found.note(connection, [(strange, lane)], liar, "*", liar)
        assert await found.feed(connection, 1) == 1
    settings = harness.deployment.settings(
        network=NetworkSettings(allow_loopback=True),
        identity=IdentitySettings(plc_url=harness.relay.origin),
    )
    fetcher = Fetcher(settings, harness.client, harness.topics, harness.database, harness.scope)

    async def failed() -> list[tuple[Any, ...]]:
        return await harness.rows("SELECT failure, error FROM operations WHERE status = 'failed'")

    async with running(fetcher.run):
        ((failure, error),) = await eventually(failed, what="the sync fails") or []
    assert failure == "DidDocumentUnusable"
    assert liar in error
    assert harness.other.requests == []


async def test_a_listing_that_says_otherwise_raises_a_question(harness: DiscoveryHarness) -> None:
    harness.scope = Scope(("*",))
    for number, status in enumerate(["active", "active", "deactivated", "deactivated"], 1):
        await harness.know(number, OLD, status)
    listed = [(1, True), (2, False), (3, True), (4, False)]
    entries = [{"did": did(number), "active": active} for number, active in listed]
    lists(harness.relay, "*", None, response(200, orjson.dumps({"repos": entries})))
    async with harness.discovering():
        await eventually(lambda: harness.searched("*"), what="the search ends")
    assert await harness.rows("SELECT did, kind, cause FROM lookups ORDER BY did") == [
        (did(2), "account", "listing"),
        (did(3), "account", "listing"),
    ]
    assert await harness.rows("SELECT DISTINCT status FROM repos ORDER BY status") == [
        ("active",),
        ("deactivated",),
    ]


async def test_all_repositories_of_a_relay_without_hosts(harness: DiscoveryHarness) -> None:
    harness.scope = Scope((VOTES,), Repos.ALL)
    lists(harness.relay, "*", None, page([1, 2]))
    async with harness.discovering():
        await eventually(lambda: harness.searched("*"), what="the search ends")
        assert await harness.operations() == [(HOSTS, "completed")]
        await eventually(harness.both, what="both are fed")


async def test_a_sweep_finds_those_that_we_are_behind(harness: DiscoveryHarness) -> None:
    harness.scope, harness.sweep_every = Scope((VOTES,), Repos.LISTED), 3_600.0
    await harness.know(1, OLDER)
    await harness.know(2, OLD)
    await harness.know(3, OLDER, "deactivated")
    lists(harness.relay, "*", None, page([1, 2, 3, 4], rev=OLD))
    async with harness.discovering():
        await eventually(lambda: harness.searched(SWEEP), what="the sweep ends")
    assert await harness.synced() == [did(1)]
    assert await harness.rows("SELECT reason FROM operations WHERE type = 'didSync'") == [
        ("listed_newer",)
    ]


async def test_repositories_that_the_settings_name_are_synced(harness: DiscoveryHarness) -> None:
    harness.scope = Scope((VOTES,), Repos.LISTED, dids=frozenset({did(1), did(2)}))
    await harness.know(2, OLD)
    async with harness.discovering():
        await eventually(harness.synced, what="the sync is queued")
        await harness.end_syncs("DidNotFound")
        await eventually(lambda: _failed_once(harness), what="it is never forgotten")
    assert await harness.synced() == [did(1)]
    assert harness.relay.requests == []
