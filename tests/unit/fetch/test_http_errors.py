"""What a host does wrong is an error of the host, not of the repository."""

from __future__ import annotations

import asyncio
import threading
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from consumer.fetch import guard
from consumer.fetch import http as module
from consumer.fetch.guard import Resolver
from consumer.fetch.http import HostError, HostErrorKind, HttpClient
from tests.support.web import Web, certified, response, web, web_of_bad_records
from tests.unit.fetch.requests import LIMIT, download, host_error, resolving


@pytest.mark.parametrize(
    "reply",
    [
        b"",
        b"garbage\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nshort",
        b"HTTP/1.1 200 OK\r\n" + b"x: " + b"y" * 300_000,
    ],
)
async def test_a_broken_response_is_a_host_error(http: HttpClient, site: Web, reply: bytes) -> None:
    site.replies["/a"] = reply
    await host_error(http, f"{site.origin}/a")


@pytest.mark.parametrize(
    "garbage",
    [b"no record" * 50, b"\x17\x03\x03\0\x40" + bytes(64)],
    ids=["no record", "a forged record"],
)
@pytest.mark.parametrize(
    "reply",
    [b"", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nsome"],
    ids=["no answer", "half a head", "half a body"],
)
async def test_tls_that_breaks_is_a_host_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reply: bytes, garbage: bytes
) -> None:
    server, client = certified(tmp_path, "localhost")
    monkeypatch.setattr(module, "_tls", lambda: client)
    async with (
        web_of_bad_records(server, reply, garbage) as origin,
        HttpClient(allow_loopback=True) as http,
    ):
        assert (await host_error(http, f"{origin}/a")).kind is HostErrorKind.AWAY
        with pytest.raises(HostError) as caught:
            await download(http, f"{origin}/a")
    # What came just before a bad record may be lost with it.
    cut = {HostErrorKind.CUT_SHORT} if reply.endswith(b"some") else set()
    assert caught.value.kind in {HostErrorKind.AWAY, *cut}


async def test_an_untrusted_certificate_is_a_host_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, trusting = certified(tmp_path, "localhost")
    async with web(server) as site, HttpClient(allow_loopback=True) as http:
        assert "certificate" in str(await host_error(http, f"https://localhost:{site.port}/a"))
        monkeypatch.setattr(module, "_tls", lambda: trusting)
        async with HttpClient(allow_loopback=True, resolve=resolving("127.0.0.1")) as another:
            url = f"https://localhost:{site.port}/none"
            assert (await another.get(url, limit=LIMIT, seconds=5)).status == 404
            url = url.replace("localhost", "other")
            assert "certificate" in str(await host_error(another, url))


async def test_a_refused_connection_is_a_host_error(http: HttpClient) -> None:
    async with web() as gone:
        url = f"{gone.origin}/a"
    await host_error(http, url)


async def test_a_domain_whose_name_servers_hang_holds_up_no_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    released = threading.Event()

    def getaddrinfo(host: str, port: int) -> list[Any]:
        if host.endswith("slow.example"):
            released.wait(30)
        return [(0, 0, 0, "", ("127.0.0.1", port))]

    monkeypatch.setattr(guard, "_getaddrinfo", getaddrinfo)
    resolver = Resolver()
    slow = [asyncio.create_task(resolver(f"{n}.slow.example", 1)) for n in range(200)]
    try:
        await asyncio.sleep(0)
        async with asyncio.timeout(10):
            assert await resolver("innocent.example", 1) == [ip_address("127.0.0.1")]
        assert not any(task.done() for task in slow)
    finally:
        released.set()
        await asyncio.gather(*slow)
        resolver.close()


async def test_a_name_without_addresses_is_a_host_error() -> None:
    async with HttpClient(allow_loopback=False, resolve=resolving()) as http:
        await host_error(http, "https://nowhere.example/")


@pytest.mark.parametrize("status", [429, 500, 503])
async def test_statuses_that_are_host_errors(http: HttpClient, site: Web, status: int) -> None:
    site.replies["/a"] = response(status, retry_after="17")
    assert (await host_error(http, f"{site.origin}/a")).retry_after == 17
    site.replies["/a"] = response(status)
    assert (await host_error(http, f"{site.origin}/a")).retry_after is None
