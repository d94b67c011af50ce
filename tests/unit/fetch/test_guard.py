"""Where requests may go: public addresses, judged as they are dialled."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Sequence
from ipaddress import ip_address
from pathlib import Path

import pytest

from consumer.errors import Reason, Refused
from consumer.fetch import guard
from consumer.fetch import http as module
from consumer.fetch.addresses import Address
from consumer.fetch.guard import ConnectionBroken
from consumer.fetch.http import HttpClient
from tests.support.web import Web, certified, redirect, response, web
from tests.unit.fetch.requests import LIMIT, download, fetch, host_error, refusal, resolving
from tests.unit.fetch.test_addresses import NOT_PUBLIC


@pytest.fixture
async def strict() -> AsyncIterator[HttpClient]:
    """Give the client of a production machine."""
    async with HttpClient(allow_loopback=False) as client:
        yield client


@pytest.mark.parametrize(
    "url",
    [
        "",
        "https://",
        "ftp://example.com/",
        "file:///etc/passwd",
        "//example.com/",
        "https://user@example.com/",
        "https://user:secret@example.com/",
        "https://example.com:99999/",
        "https://example.com/" + "a" * 9000,
    ],
)
async def test_urls_that_are_refused(http: HttpClient, url: str) -> None:
    assert await refusal(http, url) == Reason.FETCH_FORBIDDEN


async def test_plain_http_is_refused(strict: HttpClient, site: Web) -> None:
    assert await refusal(strict, f"{site.origin}/a") == Reason.FETCH_FORBIDDEN
    assert site.requests == []


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "127.1",
        "2130706433",
        "0x7f000001",
        "017700000001",
        "0",
        "0.0.0.0",  # noqa: S104
        "0x7f.0.0.1",
        "0177.0.0.1",
        "127.0.1",
        "0xa9fea9fe",
        "2852039166",
        "127\u30020\u30020\u30021",  # dots of another script
        "localhost",
        "LOCALHOST",
        "[::]",
        "[::1]",
        "[0:0:0:0:0:0:0:1]",
        "[::127.0.0.1]",
        "[::ffff:0:127.0.0.1]",
        "[64:ff9b::7f00:1]",
        "[64:ff9b:1::a00:1]",
        "[2001:0:7f00:1::]",
        "[2002:7f00:1::]",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "10.0.0.1",
        "169.254.169.254",
        "100.64.0.1",
        "[fe80::1]",
        "[fd00:ec2::254]",
    ],
)
async def test_addresses_that_are_not_public_are_refused(strict: HttpClient, host: str) -> None:
    assert await refusal(strict, f"https://{host}:1/") == Reason.FETCH_FORBIDDEN


@pytest.mark.parametrize("name", ["innocent.example", "innocent.example.", "localhost.", "intern"])
async def test_names_are_judged_by_their_addresses(name: str) -> None:
    net = Internet({name: [[text] for text in NOT_PUBLIC]})
    async with HttpClient(allow_loopback=False, resolve=net.resolve) as http:
        for _ in NOT_PUBLIC:
            assert await refusal(http, f"https://{name}/") == Reason.FETCH_FORBIDDEN


class Internet:
    """Sites of loopback at public addresses, by name; ``dialled`` are all that were tried.

    ``names`` has what the name server says, one answer after the other; the last one stays.
    """

    def __init__(self, names: dict[str, list[list[str]]]) -> None:
        self.names = names
        self.ports: dict[str, int] = {}
        self.dialled: list[str] = []
        self._loopback = guard.connect

    async def resolve(self, host: str, _port: int) -> Sequence[Address]:
        answers = self.names[host]
        texts = answers.pop(0) if len(answers) > 1 else answers[0]
        return [ip_address(text) for text in texts]

    async def connect(self, address: Address, _port: int) -> socket.socket:
        host = str(address)
        self.dialled.append(host)
        if host not in self.ports:
            raise ConnectionBroken(f"no server at {host}")
        return await self._loopback(ip_address("127.0.0.1"), self.ports[host])


PDS = "8.8.8.8"


@pytest.fixture
async def internet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[Internet, Web, HttpClient]]:
    """Give the client of a production machine, and a site at ``https://pds.example``."""
    net = Internet({"pds.example": [[PDS]]})
    server, client = certified(tmp_path, "pds.example", "other.example")
    monkeypatch.setattr(module, "_tls", lambda: client)
    monkeypatch.setattr(guard, "connect", net.connect)
    http = HttpClient(allow_loopback=False, resolve=net.resolve)
    async with web(server) as site, http:
        net.ports[PDS] = site.port
        yield net, site, http


async def test_the_addresses_of_a_name_that_are_not_public_are_never_dialled(
    internet: tuple[Internet, Web, HttpClient],
) -> None:
    net, site, http = internet
    site.replies["/a"] = response(200)
    for text in NOT_PUBLIC:
        net.names["pds.example"] = [[text, PDS, text]]
        assert (await http.get("https://pds.example/a", limit=LIMIT, seconds=5)).status == 200
    assert set(net.dialled) == {PDS}


async def test_of_a_name_with_many_addresses_only_a_few_are_dialled(
    internet: tuple[Internet, Web, HttpClient],
) -> None:
    net, _, http = internet
    net.names["pds.example"] = [[f"1.1.1.{n}" for n in range(200)]]
    await host_error(http, "https://pds.example/a")
    assert len(net.dialled) == 4


async def test_each_connection_is_judged_anew(
    internet: tuple[Internet, Web, HttpClient],
) -> None:
    """A name that was public a moment ago, and is private now."""
    net, site, http = internet
    site.replies["/a"] = response(200)
    net.names["pds.example"] = [[PDS], ["10.0.0.1"]]
    assert (await http.get("https://pds.example/a", limit=LIMIT, seconds=5)).status == 200
    assert await refusal(http, "https://pds.example/a") is Reason.FETCH_FORBIDDEN
    assert net.dialled == [PDS]


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize(
    "location",
    [
        "http://pds.example/b",
        "http://8.8.8.8/b",
        "http://169.254.169.254/latest/meta-data/",
        "https://169.254.169.254/latest/meta-data/",
        "https://[fd00:ec2::254]/latest/meta-data/",
        "https://100.100.100.200/",
        "https://metadata.internal/computeMetadata/v1/",
        "https://mixed.example/",
        "//metadata.internal/",
        "https://127.0.0.1/",
        "https://localhost./",
        "ws://pds.example/",
    ],
)
async def test_a_public_host_cannot_redirect_to_a_private_one(
    internet: tuple[Internet, Web, HttpClient], location: str, streamed: bool
) -> None:
    net, site, http = internet
    net.names |= {"metadata.internal": [["169.254.169.254"]], "localhost.": [["127.0.0.1"]]}
    net.names["mixed.example"] = [["10.0.0.1", "::1", "fe80::1"]]
    for text in ("169.254.169.254", "fd00:ec2::254", "100.100.100.200", "127.0.0.1"):
        net.names[text] = [[text]]
    site.replies |= {"/a": redirect(location), "/b": response(200)}
    asking = download if streamed else fetch
    with pytest.raises(Refused) as caught:
        await asking(http, "https://pds.example/a")
    assert caught.value.reason is Reason.FETCH_FORBIDDEN
    assert net.dialled == [PDS]
    assert site.paths == ["/a"]


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_name_that_turns_private_between_two_requests_is_refused(
    internet: tuple[Internet, Web, HttpClient], streamed: bool
) -> None:
    net, site, http = internet
    net.names["other.example"] = [[PDS], ["169.254.169.254"]]
    site.replies["/a"] = redirect("https://other.example/b")
    site.replies["/b"] = redirect("https://other.example/c")
    with pytest.raises(Refused) as caught:
        await (download if streamed else fetch)(http, "https://pds.example/a")
    assert caught.value.reason is Reason.FETCH_FORBIDDEN
    assert net.dialled == [PDS, PDS]
    assert site.paths == ["/a", "/b"]


async def test_the_judged_address_is_the_dialled_one(site: Web) -> None:
    """A name that resolves differently the second time gains nothing: there is no second time."""
    calls = 0

    async def rebinding(_host: str, _port: int) -> Sequence[Address]:
        nonlocal calls
        calls += 1
        return [ip_address("127.0.0.1" if calls == 1 else "10.0.0.1")]

    site.replies["/a"] = response(200)
    async with HttpClient(allow_loopback=True, resolve=rebinding) as http:
        url = f"http://innocent.example:{site.port}/a"
        assert (await http.get(url, limit=LIMIT, seconds=5)).status == 200
    assert calls == 1


async def test_only_the_permitted_addresses_of_a_name_are_dialled(site: Web) -> None:
    site.replies["/a"] = response(200)
    mixed = resolving("10.0.0.1", "169.254.169.254", "127.0.0.1")
    async with HttpClient(allow_loopback=True, resolve=mixed) as http:
        url = f"http://innocent.example:{site.port}/a"
        assert (await http.get(url, limit=LIMIT, seconds=5)).status == 200


@pytest.mark.parametrize("text", ["8.8.8.8", "10.0.0.1", "169.254.169.254", "0.0.0.0"])  # noqa: S104
async def test_the_development_switch_allows_http_to_this_machine_only(text: str) -> None:
    async with HttpClient(allow_loopback=True, resolve=resolving(text)) as http:
        assert await refusal(http, "http://innocent.example:1/") == Reason.FETCH_FORBIDDEN


async def test_the_development_switch_allows_no_private_networks() -> None:
    async with HttpClient(allow_loopback=True, resolve=resolving("10.0.0.1")) as http:
        assert await refusal(http, "https://innocent.example:1/") == Reason.FETCH_FORBIDDEN
