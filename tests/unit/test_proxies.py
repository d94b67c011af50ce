"""No connection of the consumer's own goes through a proxy that the environment names.

The proxies are dead: a port that refuses.  Each test shows first that the library fails with this
environment when it is not told to ignore it.
"""

from __future__ import annotations

from collections.abc import Iterator
from urllib.request import getproxies

import httpx
import pytest
from websockets.asyncio.client import connect

from consumer.config.settings import IdentitySettings, Settings
from consumer.fetch.hosts import Hosts
from consumer.fetch.http import HttpClient
from consumer.fetch.identity import Directory
from consumer.tail.subscription import endpoint, subscribe
from tests.support.environment import set_proxies
from tests.support.proxy import reserve
from tests.support.relay import ScriptedRelay
from tests.support.web import response, web
from tests.unit.fetch.test_documents import DID, document


@pytest.fixture(params=["http", "https", "socks5", "socks5h", "socks4"])
def dead_proxy(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    reserved = reserve(0)
    set_proxies(monkeypatch, request.param, reserved.getsockname()[1])
    assert getproxies()["https"].startswith(f"{request.param}://")
    yield request.param
    reserved.close()


@pytest.mark.usefixtures("dead_proxy")
async def test_the_relay_is_reached_without_a_proxy() -> None:
    async with ScriptedRelay() as relay:
        with pytest.raises((OSError, ImportError)):  # as the library does by itself
            await connect(endpoint(relay.url, None))
        connection = await subscribe(relay.url, 7, limit=100_000, silence=30.0)
        await connection.close()
        assert relay.cursors == [7]


@pytest.mark.usefixtures("dead_proxy")
async def test_hosts_and_directories_are_reached_without_a_proxy() -> None:
    async with web() as site, HttpClient(allow_loopback=True) as http:
        site.replies = {"/page": response(200, b"page"), f"/{DID}": response(200, document())}
        with pytest.raises((httpx.TransportError, ImportError, ValueError)):
            async with httpx.AsyncClient() as unguarded:
                await unguarded.get(f"{site.origin}/page")
        assert (await http.get(f"{site.origin}/page", limit=100, seconds=10)).body == b"page"
        directory = Directory(
            IdentitySettings(plc_url=site.origin),
            http,
            Hosts.of(Settings()),
            allow_loopback=True,
        )
        assert (await directory.document(DID)).pds == "https://pds.example"
        assert site.paths == ["/page", f"/{DID}"]
