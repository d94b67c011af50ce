"""The whole consumer behind a proxy, whose environment names a dead one."""

from __future__ import annotations

import pytest
from pydantic import SecretStr

from consumer.config.settings import NetworkSettings
from tests.field.network import Network
from tests.field.product import Product
from tests.support.deployment import Deployment
from tests.support.environment import set_proxies
from tests.support.proxy import LOOPBACK, TcpProxy, reserve
from tests.support.web_proxy import CREDENTIALS, IN_URL, web_proxy

pytestmark = [pytest.mark.services, pytest.mark.timeout(300)]


@pytest.mark.parametrize("scheme", ["http", "socks5"])
async def test_all_that_comes_from_outside_comes_through_the_proxy(
    deployment: Deployment, network: Network, scheme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    dead = reserve(0)
    set_proxies(monkeypatch, "http", dead.getsockname()[1])
    host, repo = await network.account("behind a proxy")
    async with web_proxy(CREDENTIALS) as way, TcpProxy(way.port) as before:
        url = f"{scheme}://{IN_URL}@{LOOPBACK}:{before.port}"
        settings = NetworkSettings(proxy=SecretStr(url), allow_loopback=True)
        opened = Product.opened(deployment, network=network, changed={"network": settings})
        async with opened as product, product.running():
            operation = await product.done(type="didSync", did=repo.account.did)
            assert operation["status"] == "completed"
            await network.commit(repo)
            await product.agrees(repo)
            assert {address for address, _ in way.asked} == {LOOPBACK}
            ports = {str(port) for _, port in way.asked}
            reached = [network.relay.url, network.directory.origin, host.site.origin]
            reached.append(network.sources[0].origin)
            assert {url.rpartition(":")[2] for url in reached} <= ports

            # Nothing comes any other way; and it goes on when the proxy is back.
            await before.stop()
            await product.eventually(lambda: not network.relay.connections, what="the relay is cut")
            await network.commit(repo, lost=True)
            await network.commit(repo)
            downloads = host.downloads(repo)
            await before.start()
            await product.agrees(repo)
            assert host.downloads(repo) > downloads
    dead.close()
