"""Relay, hosts and directories through the proxy of the settings, and through no other.

The environment names a dead proxy in every usual variable.
"""

from __future__ import annotations

import io
import sys
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from http import HTTPStatus
from ipaddress import ip_address
from pathlib import Path

import anyio
import pytest
from pydantic import SecretStr
from websockets.exceptions import InvalidStatus

from consumer.config.settings import IdentitySettings, NetworkSettings, Settings
from consumer.errors import Reason, Refused
from consumer.fetch import http as http_module
from consumer.fetch.addresses import Address
from consumer.fetch.hosts import Hosts
from consumer.fetch.http import HostError, HostErrorKind, HttpClient
from consumer.fetch.identity import Directory
from consumer.metrics.labels import ReconnectCause
from consumer.network.proxy import Proxy, ProxyFailed
from consumer.tail import probe
from consumer.tail.outcomes import classify
from consumer.tail.subscription import subscribe
from tests.support.environment import set_proxies
from tests.support.eventually import eventually
from tests.support.proxy import LOOPBACK, TcpProxy, reserve
from tests.support.relay import ScriptedRelay, idle, sends
from tests.support.web import Web, certified, redirect, response, web
from tests.support.web_proxy import CREDENTIALS, IN_URL, SECRET, WebProxy, web_proxy
from tests.unit.fetch.requests import LIMIT, host_error, refusal, resolving
from tests.unit.fetch.test_documents import DID, document

SCHEMES = ("http", "socks5")
PUBLIC = "8.8.8.8"


@pytest.fixture(autouse=True)
def dead_proxies(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    reserved = reserve(0)
    set_proxies(monkeypatch, "http", reserved.getsockname()[1])
    yield
    reserved.close()


@pytest.fixture(params=SCHEMES)
def scheme(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
async def way() -> AsyncIterator[WebProxy]:
    async with web_proxy() as way:
        yield way


def by(url: str, *, resolves: bool = False) -> Proxy:
    proxy = Proxy.of(NetworkSettings(proxy=SecretStr(url), proxy_resolves=resolves))
    assert proxy is not None
    return proxy


async def ask_relay(url: str, proxy: Proxy) -> None:
    connection = await subscribe(url, 7, limit=100_000, silence=30.0, proxy=proxy)
    await connection.close()


@pytest.mark.parametrize("credentials", [None, CREDENTIALS])
async def test_all_go_through_the_proxy_which_is_asked_for_addresses(
    scheme: str, credentials: tuple[str, str] | None
) -> None:
    async with (
        web_proxy(credentials) as way,
        ScriptedRelay() as relay,
        web() as site,
        HttpClient.of(
            NetworkSettings(
                proxy=SecretStr(way.url(scheme, IN_URL if credentials else "")), allow_loopback=True
            )
        ) as http,
    ):
        proxy = by(way.url(scheme, IN_URL if credentials else ""))
        relay.behave(idle, sends("no frame"))
        await ask_relay(relay.url.replace(LOOPBACK, "localhost"), proxy)
        assert await probe.answers(relay.url, limit=100, silence=30.0, proxy=proxy) is False
        assert relay.cursors == [7, None]
        site.replies = {"/page": response(200, b"page"), f"/{DID}": response(200, document())}
        named = f"http://localhost:{site.port}/page"
        assert (await http.get(named, limit=100, seconds=10)).body == b"page"
        settings = IdentitySettings(plc_url=site.origin)
        directory = Directory(settings, http, Hosts.of(Settings()), allow_loopback=True)
        assert (await directory.document(DID)).pds == "https://pds.example"
        assert site.paths == ["/page", f"/{DID}"]
        asked = {host for host, _ in way.asked}
        assert LOOPBACK in asked
        assert asked <= {LOOPBACK, "::1"}  # localhost may be both
        assert way.refused == 0


@asynccontextmanager
async def public(
    way: WebProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Web]:
    """Serve ``https://pds.example``, which is at ``PUBLIC`` for the proxy."""
    server, client = certified(tmp_path, "pds.example")
    monkeypatch.setattr(http_module, "_tls", lambda: client)
    async with web(server) as site:
        site.replies["/a"] = response(200, b"a")
        way.elsewhere |= {PUBLIC: site.port, "pds.example": site.port}
        yield site


async def test_tls_is_with_the_name_and_the_proxy_is_asked_for_the_judged_address(
    scheme: str, way: WebProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = [["10.0.0.1", PUBLIC], ["10.0.0.1", "127.0.0.1", "169.254.169.254"]]

    async def resolve(_host: str, _port: int) -> Sequence[Address]:
        return [ip_address(text) for text in answers.pop(0)]

    async with (
        public(way, tmp_path, monkeypatch),
        HttpClient(allow_loopback=False, proxy=by(way.url(scheme)), resolve=resolve) as http,
    ):
        assert (await http.get("https://pds.example/a", limit=LIMIT, seconds=10)).body == b"a"
        assert await refusal(http, "https://pds.example/a") is Reason.FETCH_FORBIDDEN
        with pytest.raises(Refused):
            await http.get("http://pds.example/a", limit=LIMIT, seconds=10)
    assert way.asked == [(PUBLIC, 443)]


async def test_a_proxy_that_resolves_is_asked_for_names_and_never_for_private_addresses(
    scheme: str, way: WebProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy = by(way.url(scheme), resolves=True)
    async with (
        public(way, tmp_path, monkeypatch) as site,
        HttpClient(allow_loopback=False, proxy=proxy) as http,
    ):
        assert (await http.get("https://pds.example/a", limit=LIMIT, seconds=10)).body == b"a"
        for host in ("127.0.0.1", "127.1", "2130706433", "0x7f.1", "[::1]", "169.254.169.254"):
            assert await refusal(http, f"https://{host}/") is Reason.FETCH_FORBIDDEN
        for host in ("localhost", "10.0.0.1", "[fd00:ec2::254]"):
            site.replies["/b"] = redirect(f"https://{host}/")
            assert await refusal(http, "https://pds.example/b") is Reason.FETCH_FORBIDDEN
        with pytest.raises((Refused, HostError)):  # not every system resolves it
            await http.get("https://x.localhost./", limit=LIMIT, seconds=10)
        assert set(way.asked) == {("pds.example", 443)}
        way.asked.clear()
    async with ScriptedRelay() as relay:
        way.elsewhere["relay.example"] = int(relay.url.rpartition(":")[2])
        await ask_relay("ws://relay.example", proxy)
        assert relay.cursors == [7]
    assert way.asked == [("relay.example", 80)]


async def test_the_relay_is_known_by_its_name_too(
    scheme: str, way: WebProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, _ = certified(tmp_path, "relay.example")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "certificate.pem"))
    async with web(server) as site:
        way.elsewhere = {"relay.example": site.port, "other.example": site.port}
        proxy = by(way.url(scheme), resolves=True)
        with pytest.raises(InvalidStatus):  # the site is no relay, but TLS is well
            await ask_relay("wss://relay.example", proxy)
        with pytest.raises(OSError, match="certificate") as caught:
            await ask_relay("wss://other.example", proxy)
        assert classify(caught.value, time.time()).cause is ReconnectCause.UNREACHABLE
    assert way.asked == [("relay.example", 443), ("other.example", 443)]


async def test_a_refused_password_is_named_and_not_shown(scheme: str, log: io.StringIO) -> None:
    wrong = IN_URL.replace("us%40r", "other")
    async with (
        web_proxy(CREDENTIALS) as way,
        web() as site,
        HttpClient(allow_loopback=True, proxy=by(way.url(scheme, wrong))) as http,
    ):
        error = await host_error(http, f"{site.origin}/a")
        assert error.kind is HostErrorKind.AWAY
        said = f"proxy {scheme}://{LOOPBACK}:{way.port} refuses user or password"
        assert said in str(error)
        with pytest.raises(ProxyFailed) as caught:
            await ask_relay("ws://127.0.0.1:1", by(way.url(scheme, wrong)))
        outcome = classify(caught.value, time.time())
        assert outcome.cause is ReconnectCause.PROXY
        assert said in outcome.detail
        assert way.refused == 2
        assert site.paths == []
    assert "proxy_unreachable" in log.getvalue()
    for secret in (SECRET, IN_URL, "p%C3%A4"):
        assert secret not in log.getvalue() + str(error) + repr(by(way.url(scheme, wrong)))


async def test_a_password_in_a_file_is_that_of_the_moment(
    scheme: str, tmp_path: Path, log: io.StringIO
) -> None:
    file = tmp_path / "proxy"
    async with web_proxy(CREDENTIALS) as way, web() as site:
        file.write_text(way.url(scheme, "us%40r:before") + "\n")
        proxy = Proxy.of(NetworkSettings(proxy_file=file))
        site.replies["/a"] = response(200, b"a")
        async with HttpClient(allow_loopback=True, proxy=proxy) as http:
            url = f"{site.origin}/a"
            assert "refuses user or password" in str(await host_error(http, url))
            file.unlink()
            assert "network.proxy_file: no such file" in str(await host_error(http, url))
            file.write_text(way.url(scheme, IN_URL).replace(str(way.port), "1"))
            assert "names another one: restart" in str(await host_error(http, url))
            file.write_text(way.url(scheme, IN_URL) + "\n")
            assert (await http.get(url, limit=LIMIT, seconds=10)).body == b"a"
    for secret in (SECRET, IN_URL, "before"):
        assert secret not in log.getvalue()


async def test_a_password_that_is_missing_is_named(scheme: str) -> None:
    async with web_proxy(CREDENTIALS) as way:
        with pytest.raises(ProxyFailed, match="wants a user and a password"):
            await ask_relay("ws://127.0.0.1:1", by(way.url(scheme)))


async def test_a_dead_proxy_is_named_as_the_proxy(scheme: str, log: io.StringIO) -> None:
    reserved = reserve(0)
    dead = f"{scheme}://{LOOPBACK}:{reserved.getsockname()[1]}"
    proxy = by(dead)
    async with web() as site, HttpClient(allow_loopback=True, proxy=proxy) as http:
        error = await host_error(http, f"{site.origin}/a")
        assert f"proxy {dead} cannot be reached" in str(error)
        for ask in (proxy.reach(), ask_relay("ws://127.0.0.1:1", proxy)):
            with pytest.raises(ProxyFailed, match=f"proxy {dead} cannot be reached"):
                await ask
    reserved.close()
    assert log.getvalue().count("proxy_unreachable") == 1


async def test_a_proxy_that_comes_back_says_so(scheme: str, log: io.StringIO) -> None:
    async with web_proxy() as way, TcpProxy(way.port) as before, web() as site:
        proxy = by(f"{scheme}://{LOOPBACK}:{before.port}")
        site.replies["/a"] = response(200, b"a")
        async with HttpClient(allow_loopback=True, proxy=proxy) as http:
            await before.stop()
            await host_error(http, f"{site.origin}/a")
            await before.start()
            assert (await http.get(f"{site.origin}/a", limit=LIMIT, seconds=10)).body == b"a"
    assert "proxy_back" in log.getvalue()


async def test_what_a_proxy_refuses_is_about_the_host(
    scheme: str, way: WebProxy, log: io.StringIO
) -> None:
    way.status, way.reply = HTTPStatus.FORBIDDEN, 2
    said = "HTTP 403" if scheme == "http" else "not allowed by its rules"
    resolve = resolving(PUBLIC, "8.8.4.4")
    async with HttpClient(allow_loopback=False, proxy=by(way.url(scheme)), resolve=resolve) as http:
        error = await host_error(http, "https://pds.example/a")
    assert said in str(error)
    assert str(error).startswith("proxy ")
    assert [host for host, _ in way.asked] == [PUBLIC, "8.8.4.4"]
    with pytest.raises(ProxyFailed, match=said):
        await ask_relay("ws://127.0.0.1:1", by(way.url(scheme)))
    assert "proxy_unreachable" not in log.getvalue()


@pytest.mark.parametrize("raw", [b"220 mail.example ESMTP\r\n\r\n", b""])
async def test_what_is_no_proxy_is_said_to_be_none(scheme: str, way: WebProxy, raw: bytes) -> None:
    way.raw = raw
    with pytest.raises(ProxyFailed, match=r"is no|closes|breaks"):
        await ask_relay("ws://127.0.0.1:1", by(way.url(scheme)))
    async with HttpClient(allow_loopback=True, proxy=by(way.url(scheme))) as http:
        error = await host_error(http, "http://127.0.0.1:1/")
        assert str(error).startswith("proxy ")


async def test_a_redirect_of_the_relay_is_not_followed(scheme: str, way: WebProxy) -> None:
    async with web() as site:
        site.replies["/xrpc/com.atproto.sync.subscribeRepos?cursor=7"] = redirect(
            "ws://127.0.0.1:1"
        )
        with pytest.raises(InvalidStatus, match="302"):
            await ask_relay(site.origin, by(way.url(scheme)))


async def test_a_name_that_cannot_be_resolved_here_says_what_helps(way: WebProxy) -> None:
    with pytest.raises(ProxyFailed, match=r"cannot resolve .* network\.proxy_resolves"):
        await ask_relay("wss://no-such-name.invalid", by(way.url("http")))
    assert way.asked == []


async def test_a_real_proxy_with_a_password(tmp_path: Path) -> None:
    file = tmp_path / "port"
    program = [sys.executable, "-m", "proxy", "--hostname", LOOPBACK, "--port", "0"]
    program += ["--basic-auth", "user:pass", "--port-file", str(file), "--num-workers", "1"]
    program += ["--num-acceptors", "1", "--data-dir", str(tmp_path)]
    async with await anyio.open_process(program, stdout=None, stderr=None) as process:
        try:
            text = await eventually(
                lambda: file.exists() and file.read_text().strip(), what="the proxy listens"
            )
            async with ScriptedRelay() as relay, web() as site:
                site.replies["/a"] = response(200, b"a")
                right = by(f"http://user:pass@{LOOPBACK}:{text}")
                await ask_relay(relay.url, right)
                async with HttpClient(allow_loopback=True, proxy=right) as http:
                    found = await http.get(f"{site.origin}/a", limit=LIMIT, seconds=10)
                    assert found.body == b"a"
                    away = await host_error(http, "http://127.0.0.1:1/")
                    assert str(away).startswith("proxy ")
                assert relay.cursors == [7]
                with pytest.raises(ProxyFailed, match="refuses user or password"):
                    await ask_relay(relay.url, by(f"http://user:wrong@{LOOPBACK}:{text}"))
                with pytest.raises(ProxyFailed, match="wants a user and a password"):
                    await ask_relay(relay.url, by(f"http://{LOOPBACK}:{text}"))
        finally:
            process.terminate()
