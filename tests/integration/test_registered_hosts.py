"""Hosts that a command makes sources of discovery, on a real PostgreSQL."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace

import orjson
import pytest

from consumer.control.commands import carry_out
from consumer.gateway.known_hosts import StoredHosts
from consumer.scope import History, Repos, Scope
from consumer.store import searches
from procedures.messages import RegisterHost
from procedures.register_pds import HostState
from procedures.retries import DEFAULT
from tests.support.deployment import Deployment
from tests.support.discovery import (
    RULES,
    VOTES,
    DiscoveryHarness,
    did,
    harnessed,
    lists,
    page,
)
from tests.support.eventually import eventually
from tests.support.web import response

pytestmark = pytest.mark.services


@pytest.fixture
async def site(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[DiscoveryHarness]:
    """Give a relay that lists no accounts, beside a host that it does not know."""
    async with harnessed(deployment, monkeypatch) as opened:
        lists(opened.relay, VOTES, None, page([]))
        yield opened


async def register(site: DiscoveryHarness, identifier: str, host: str | None = None) -> None:
    told = RegisterHost(
        id=identifier, host=host or f"127.0.0.1:{site.other.port}", requested_at=1.0
    )
    async with site.database.transaction() as connection:
        for _ in range(2):  # a repeated command is the same
            await carry_out(connection, [told], site.topics, site.scope, DEFAULT, 1.0)


async def ended(site: DiscoveryHarness, identifier: str) -> tuple[str, str | None, str | None]:
    """Return status, failure and error of the operation at its end."""
    sql = "SELECT status, failure, error FROM operations WHERE id = %s"

    async def look() -> tuple[str, str | None, str | None] | None:
        ((status, failure, error),) = await site.rows(sql, [identifier])
        return None if status in ("queued", "running") else (status, failure, error)

    found = await eventually(look, what="the command ends")
    assert found is not None
    return found


async def state_of(site: DiscoveryHarness, host: str | None = None) -> HostState:
    settings = site.deployment.settings(
        network={"allow_loopback": True}, discovery={"registered_hosts": site.registered_hosts}
    )
    known = StoredHosts(settings, site.scope, site.database)
    return await known.state_of(host or f"127.0.0.1:{site.other.port}")


async def test_its_repositories_are_found_and_it_is_read_again_after_a_restart(
    site: DiscoveryHarness,
) -> None:
    lists(site.other, "*", None, page([1], "b"))
    lists(site.other, "*", "b", page([2]))
    assert await state_of(site) is HostState.NEW
    await register(site, "mine")
    async with site.discovering():
        assert await ended(site, "mine") == ("completed", None, None)
        await eventually(site.both, what="both are fed")
    assert await state_of(site) is HostState.KNOWN
    # Only documents that name the host confirm what it lists.
    rows = await site.rows("SELECT did, host FROM found ORDER BY did")
    assert rows == [(did(1), site.other.origin), (did(2), site.other.origin)]

    read = len(site.other.requests)
    async with site.discovering():  # a new process reads it when it is due, not before
        await register(site, "again")
        assert await ended(site, "again") == ("completed", None, None)
    assert len(site.other.requests) == read
    site.rules = replace(RULES, repeat_every=0.1)
    await site.execute("UPDATE searches SET due = now() WHERE named_by = 'registered'")
    async with site.discovering():
        await eventually(lambda: len(site.other.requests) > read + 2, what="it is read again")


async def test_a_host_that_the_relay_reads_is_not_read_here(site: DiscoveryHarness) -> None:
    path = f"/xrpc/com.atproto.sync.getHostStatus?hostname=127.0.0.1%3A{site.other.port}"
    body = {"hostname": f"127.0.0.1:{site.other.port}", "status": "active"}
    site.relay.replies[path] = response(200, orjson.dumps(body))
    await register(site, "mine")
    async with site.discovering():
        assert await ended(site, "mine") == ("completed", None, None)
    assert not site.other.requests
    assert await state_of(site) is HostState.KNOWN
    async with site.database.transaction() as connection:
        assert await searches.places_taken(connection) == 0


async def test_a_host_that_lists_nothing_is_forgotten(site: DiscoveryHarness) -> None:
    lists(site.other, "*", None, response(404, b'{"error":"NotFound","message":"a web page"}'))
    await register(site, "mine")
    async with site.discovering():
        status, failure, error = await ended(site, "mine")
    assert (status, failure) == ("failed", "HostError")
    assert error is not None
    assert "a web page" in error
    assert await state_of(site) is HostState.NEW


async def test_a_large_host_is_read_in_part(site: DiscoveryHarness) -> None:
    site.rules = replace(RULES, registered_repos=2)
    lists(site.other, "*", None, page([1, 2], "b"))
    lists(site.other, "*", "b", page([3]))
    await register(site, "mine")
    async with site.discovering():
        status, _, error = await ended(site, "mine")
        await eventually(site.both, what="what was read is fed")
    assert status == "failed"
    assert error == "it has more than 2 repositories: a relay should read it"
    assert not any("cursor" in path for path in site.other.paths)
    assert await state_of(site) is HostState.KNOWN


async def test_a_bounded_number_is_registered(site: DiscoveryHarness) -> None:
    site.registered_hosts = 1
    lists(site.other, "*", None, page([1]))
    await register(site, "one")
    async with site.discovering():
        assert (await ended(site, "one"))[0] == "completed"
        await register(site, "two", "pds.example")
        assert await ended(site, "two") == (
            "failed",
            "OutOfScope",
            "1 hosts are registered: see discovery.registered_hosts",
        )
    assert await state_of(site, "pds.example") is HostState.FULL


@pytest.mark.parametrize(
    "scope", [Scope((VOTES,), Repos.LISTED), Scope((VOTES,), history=History.LIVE)]
)
async def test_where_nothing_is_searched_it_is_said(site: DiscoveryHarness, scope: Scope) -> None:
    site.scope = scope
    assert await state_of(site) is HostState.OFF
    if scope.repos is Repos.LISTED:
        await register(site, "mine")
        async with site.discovering():
            assert (await ended(site, "mine"))[1] == "OutOfScope"
    assert not site.other.requests


async def test_a_host_that_a_source_names_too_stays_registered(site: DiscoveryHarness) -> None:
    lists(site.other, "*", None, page([1]))
    await register(site, "mine")
    async with site.discovering():
        await ended(site, "mine")
    async with site.database.transaction() as connection:
        (known,) = await searches.registered(connection)
        await searches.open_hosts(connection, replace(known, source="https://r"), [known.source])
        await searches.forget(connection, [], [], hosts=False, registered=True)
        assert [each.source for each in await searches.registered(connection)] == [known.source]
        await searches.forget(connection, [], [], hosts=False, registered=False)
        assert not await searches.registered(connection)


async def test_this_machine_is_no_source_but_in_development(site: DiscoveryHarness) -> None:
    site.allow_loopback = False
    await register(site, "mine")
    async with site.discovering():
        assert (await ended(site, "mine"))[:2] == ("failed", "HostForbidden")
    assert not site.other.requests
    settings = site.deployment.settings()
    known = StoredHosts(settings, site.scope, site.database)
    assert await known.state_of("localhost") is HostState.FORBIDDEN
    assert await known.state_of(f"127.0.0.1:{site.other.port}") is HostState.FORBIDDEN
    assert await known.state_of("pds.example") is HostState.NEW
