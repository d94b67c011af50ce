"""Discovery on a real PostgreSQL, with scripted sources of listings."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from dataclasses import replace
from functools import partial
from typing import Any

import orjson
import pytest

from consumer.config.settings import (
    IdentitySettings,
    NetworkSettings,
)
from consumer.fetch.discovery import reader
from consumer.fetch.role import Fetcher
from consumer.scope import Repos, Scope
from consumer.state.discovery import HOSTS
from consumer.store import found
from tests.support.deployment import Deployment
from tests.support.discovery import (
    COMMENTS,
    OLD,
    RULES,
    VOTES,
    DiscoveryHarness,
    did,
    failed_once,
    harnessed,
    lists,
    page,
)
from tests.support.eventually import eventually
from tests.support.harness import running
from tests.support.web import response
from tests.unit.fetch.test_documents import document, method, service

pytestmark = pytest.mark.services


@pytest.fixture
async def harness(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[DiscoveryHarness]:
    async with harnessed(deployment, monkeypatch) as opened:
        yield opened


BAD_REQUEST = response(400, b'{"error":"BadRequest","message":"failed to proxy to upstream relay"}')


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


async def test_all_repositories_of_a_relay_without_hosts(harness: DiscoveryHarness) -> None:
    harness.scope = Scope((VOTES,), Repos.ALL)
    lists(harness.relay, "*", None, page([1, 2]))
    async with harness.discovering():
        await eventually(lambda: harness.searched("*"), what="the search ends")
        assert await harness.operations() == [(HOSTS, "completed")]
        await eventually(harness.both, what="both are fed")


async def test_repositories_that_the_settings_name_are_synced(harness: DiscoveryHarness) -> None:
    harness.scope = Scope((VOTES,), Repos.LISTED, dids=frozenset({did(1), did(2)}))
    await harness.know(2, OLD)
    async with harness.discovering():
        await eventually(harness.synced, what="the sync is queued")
        await harness.end_syncs("DidNotFound")
        await eventually(lambda: failed_once(harness), what="it is never forgotten")
    assert await harness.synced() == [did(1)]
    assert harness.relay.requests == []
