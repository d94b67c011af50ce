from __future__ import annotations

import asyncio
import gzip
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from dataclasses import replace
from io import BytesIO
from ipaddress import ip_address
from pathlib import Path
from typing import Any, BinaryIO

import httpcore
import pytest

from consumer.errors import Reason, Refused
from consumer.fetch import guard
from consumer.fetch import http as module
from consumer.fetch.addresses import Address
from consumer.fetch.guard import Resolve, Resolver
from consumer.fetch.http import (
    HostError,
    HostErrorKind,
    HttpClient,
    HttpResponse,
    Timeouts,
    host_of,
)
from tests.support.web import Reply, Web, certified, redirect, response, web, web_of_bad_records
from tests.unit.fetch.test_addresses import NOT_PUBLIC

LIMIT = 1000


@pytest.fixture
async def site() -> AsyncIterator[Web]:
    async with web() as running:
        yield running


@pytest.fixture
async def http() -> AsyncIterator[HttpClient]:
    """Give the client of a development machine."""
    async with HttpClient(allow_loopback=True) as client:
        yield client


@pytest.fixture
async def strict() -> AsyncIterator[HttpClient]:
    """Give the client of a production machine."""
    async with HttpClient(allow_loopback=False) as client:
        yield client


async def refusal(http: HttpClient, url: str) -> Reason:
    with pytest.raises(Refused) as caught:
        await http.get(url, limit=LIMIT, seconds=5)
    return caught.value.reason


async def host_error(http: HttpClient, url: str, seconds: float = 5) -> HostError:
    with pytest.raises(HostError) as caught:
        await http.get(url, limit=LIMIT, seconds=seconds)
    return caught.value


async def fetch(http: HttpClient, url: str) -> HttpResponse:
    return await http.get(url, limit=LIMIT, seconds=5)


SOME = Timeouts(first_byte=5.0, idle=5.0, total=20.0)


async def download(
    http: HttpClient, url: str, file: BinaryIO | None = None, timeouts: Timeouts = SOME
) -> HttpResponse:
    return await http.download(
        url, file or BytesIO(), limit=LIMIT, timeouts=timeouts, progress=lambda _: None
    )


def resolving(*texts: str) -> Resolve:
    """Return a resolver that gives every name the addresses ``texts``."""

    async def resolve(_host: str, _port: int) -> Sequence[Address]:
        return [ip_address(text) for text in texts]

    return resolve


# -- what is asked ----------------------------------------------------------------------------


async def test_an_answer(http: HttpClient, site: Web) -> None:
    site.replies["/a"] = response(200, b"hello")
    answer = await http.get(f"{site.origin}/a", limit=LIMIT, seconds=5)
    assert (answer.status, answer.body) == (200, b"hello")
    head = site.requests[0].lower()
    assert "accept-encoding: identity" in head
    assert "cookie" not in head


async def test_other_statuses_are_answers(http: HttpClient, site: Web) -> None:
    assert (await http.get(f"{site.origin}/none", limit=LIMIT, seconds=5)).status == 404


async def test_cookies_are_not_kept(http: HttpClient, site: Web) -> None:
    site.replies["/a"] = response(200, set_cookie="a=b; path=/")
    for _ in range(2):
        await http.get(f"{site.origin}/a", limit=LIMIT, seconds=5)
    assert "cookie" not in site.requests[1].lower()


async def test_a_proxy_in_the_environment_is_not_used(
    site: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:1")
    site.replies["/a"] = response(200)
    async with HttpClient(allow_loopback=True) as http:
        assert (await http.get(f"{site.origin}/a", limit=LIMIT, seconds=5)).status == 200


# -- where it may go --------------------------------------------------------------------------


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
        self._loopback = httpcore.AnyIOBackend()

    async def resolve(self, host: str, _port: int) -> Sequence[Address]:
        answers = self.names[host]
        texts = answers.pop(0) if len(answers) > 1 else answers[0]
        return [ip_address(text) for text in texts]

    async def connect_tcp(self, host: str, _port: int, *_: Any) -> httpcore.AsyncNetworkStream:
        self.dialled.append(host)
        if host not in self.ports:
            raise httpcore.ConnectError(f"nobody at {host}")
        return await self._loopback.connect_tcp("127.0.0.1", self.ports[host])


PDS = "8.8.8.8"


@pytest.fixture
async def internet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[Internet, Web, HttpClient]]:
    """Give the client of a production machine, and a site at ``https://pds.example``."""
    net = Internet({"pds.example": [[PDS]]})
    server, client = certified(tmp_path, "pds.example", "other.example")
    monkeypatch.setattr(module, "_tls", lambda: client)
    with monkeypatch.context() as patched:
        patched.setattr(httpcore, "AnyIOBackend", lambda: net)
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


# -- redirects --------------------------------------------------------------------------------


async def test_redirects_are_followed(http: HttpClient, site: Web) -> None:
    site.replies |= {
        "/1": redirect("/2"),
        "/2": redirect(f"{site.origin}/3"),
        "/3": redirect("4"),
        "/4": response(200, b"here"),
    }
    assert (await http.get(f"{site.origin}/1", limit=LIMIT, seconds=5)).body == b"here"


async def test_a_fourth_redirect_is_refused(http: HttpClient, site: Web) -> None:
    site.replies |= {f"/{i}": redirect(f"/{i + 1}") for i in range(10)}
    assert await refusal(http, f"{site.origin}/0") == Reason.FETCH_FORBIDDEN
    assert site.paths == ["/0", "/1", "/2", "/3"]


@pytest.mark.parametrize(
    "location",
    [
        "http://169.254.169.254/latest/meta-data/",
        "https://169.254.169.254/latest/meta-data/",
        "https://10.0.0.1/",
        "https://[::ffff:10.0.0.1]/",
        "http://8.8.8.8/",  # not https, and not this machine
        "https://user:secret@example.com/",
        "file:///etc/passwd",
        "gopher://127.0.0.1/",
    ],
)
async def test_redirects_are_judged_like_any_url(
    http: HttpClient, site: Web, location: str
) -> None:
    site.replies["/a"] = redirect(location)
    assert await refusal(http, f"{site.origin}/a") == Reason.FETCH_FORBIDDEN


@pytest.mark.parametrize(
    "location",
    [
        "http:path",
        "mailto:somebody@example.com",
        "data:,x",
        "javascript:1",
        "https:\\\\example.com",
        "https://xn--/",
        "https://xn--a/",
        "https://[::1",
        "https://[::1%25\u00ff]/",
        "https://user@[::1%]25]:1/",
        "https://\u2603.example/",
        "https://example.com:port/",
        "//[",
        "https://example.com/" + "a" * 70_000,
    ],
)
async def test_a_redirect_to_nonsense_is_an_error_of_its_host(
    http: HttpClient, site: Web, location: str
) -> None:
    site.replies["/a"] = redirect(location)
    with pytest.raises((Refused, HostError)):
        await http.get(f"{site.origin}/a", limit=LIMIT, seconds=5)


# -- what comes back --------------------------------------------------------------------------


async def test_a_body_at_the_limit_passes_and_above_it_does_not(
    http: HttpClient, site: Web
) -> None:
    site.replies |= {
        "/fits": response(200, b"x" * LIMIT),
        "/big": response(200, b"x" * (LIMIT + 1)),
    }
    answer = await http.get(f"{site.origin}/fits", limit=LIMIT, seconds=5)
    assert len(answer.body) == LIMIT
    assert await refusal(http, f"{site.origin}/big") == Reason.FETCH_TOO_BIG


def endless(head: bytes, part: bytes, every: float = 0.0) -> Reply:
    """Send ``head``, then ``part`` for ever, ``every`` so many seconds."""

    async def reply(writer: asyncio.StreamWriter) -> None:
        writer.write(head)
        while True:
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(every)

    return reply


CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
CHUNK = b"100\r\n" + b"x" * 256 + b"\r\n"
ENDLESS_BODIES = {
    "chunked": endless(CHUNKED, CHUNK),
    "chunks of one byte": endless(CHUNKED, b"1\r\nx\r\n" * 100),
    "announced": endless(b"HTTP/1.1 200 OK\r\ncontent-length: 99999999999\r\n\r\n", b"x" * 256),
    "until it closes": endless(b"HTTP/1.0 200 OK\r\n\r\n", b"x" * 256),
    "one chunk": endless(CHUNKED + b"FFFFFFFFFFFF\r\n", b"x" * 256),
}


@pytest.mark.parametrize("reply", ENDLESS_BODIES.values(), ids=ENDLESS_BODIES)
async def test_an_endless_body_is_cut(http: HttpClient, site: Web, reply: Reply) -> None:
    site.replies["/a"] = reply
    assert await refusal(http, f"{site.origin}/a") == Reason.FETCH_TOO_BIG


@pytest.mark.parametrize("reply", ENDLESS_BODIES.values(), ids=ENDLESS_BODIES)
async def test_an_endless_download_is_cut(http: HttpClient, site: Web, reply: Reply) -> None:
    site.replies["/a"] = reply
    file = BytesIO()
    with pytest.raises(Refused) as caught:
        await download(http, f"{site.origin}/a", file)
    assert caught.value.reason is Reason.FETCH_TOO_BIG
    assert len(file.getvalue()) <= LIMIT


HEAD = b"HTTP/1.1 200 OK\r\n"
OVERLONG = {
    "header": endless(HEAD + b"x: ", b"y" * 1000),
    "headers": endless(HEAD, b"x: y\r\n" * 200),
    "status line": endless(b"HTTP/1.1 200 ", b"y" * 1000),
    "chunk header": endless(CHUNKED + b"1;", b"x" * 1000),
    "chunk length": endless(CHUNKED, b"0" * 1000),
    "trailers": endless(CHUNKED + b"0\r\n", b"x: y\r\n" * 200),
}


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("reply", OVERLONG.values(), ids=OVERLONG)
async def test_what_surrounds_a_body_has_a_limit(
    http: HttpClient, site: Web, reply: Reply, streamed: bool
) -> None:
    site.replies["/a"] = reply
    with pytest.raises(HostError) as caught:
        await (download if streamed else fetch)(http, f"{site.origin}/a")
    assert caught.value.kind in {HostErrorKind.AWAY, HostErrorKind.CUT_SHORT}


CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
SLOW_HEADS = {
    "silence": endless(b"", b"", 0.02),
    "status line": endless(b"HTTP/1.1 200 ", b"y", 0.02),
    "header": endless(HEAD + b"x: ", b"y", 0.02),
    "headers": endless(HEAD, b"x: y\r\n", 0.02),
    "continue": endless(b"", CONTINUE, 0.02),
    "continue at once": endless(b"", CONTINUE * 100),
    "early hints": endless(b"", b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n" * 10),
}
SLOW_PARTS = {
    "silence": endless(CHUNKED, b"", 0.02),
    "chunk length": endless(CHUNKED, b"0", 0.02),
    "chunk header": endless(CHUNKED + b"1;", b"x", 0.02),
    "trailers": endless(CHUNKED + b"0\r\n", b"x: y\r\n", 0.02),
    "silence behind a part": endless(CHUNKED + CHUNK, b"", 0.02),
    "an error": endless(b"HTTP/1.1 404 Not Found\r\ncontent-length: 9\r\n\r\n", b"", 0.02),
    "a dribbled error": endless(b"HTTP/1.1 404 x\r\ncontent-length: 9999\r\n\r\n", b"x", 0.02),
}
DRIBBLED = {
    "bytes": endless(HEAD + b"content-length: 1000\r\n\r\n", b"x", 0.02),
    "chunks": endless(CHUNKED, b"1\r\nx\r\n", 0.02),
}


@pytest.mark.parametrize("reply", [*SLOW_HEADS.values(), *SLOW_PARTS.values(), *DRIBBLED.values()])
async def test_slowness_of_any_kind_ends_at_the_deadline(
    http: HttpClient, site: Web, reply: Reply
) -> None:
    site.replies["/a"] = reply
    assert (await host_error(http, f"{site.origin}/a", seconds=0.1)).kind is HostErrorKind.SLOW


@pytest.mark.parametrize(
    ("replies", "limit"),
    [(SLOW_HEADS, "first_byte"), (SLOW_PARTS, "idle"), (DRIBBLED, "total")],
    ids=["heads", "parts", "whole"],
)
async def test_a_slow_download_ends_at_its_timeout(
    http: HttpClient, site: Web, replies: dict[str, Reply], limit: str
) -> None:
    """Only the timeout that is meant is short; with the others it would take for ever."""
    little = replace(Timeouts(3600.0, 3600.0, 3600.0), **{limit: 0.1})
    for name, reply in replies.items():
        site.replies["/a"] = reply
        async with asyncio.timeout(30):
            with pytest.raises(HostError) as caught:
                await download(http, f"{site.origin}/a", timeouts=little)
        assert caught.value.kind is HostErrorKind.SLOW, name


@pytest.mark.parametrize("streamed", [False, True])
async def test_the_body_of_a_redirect_is_not_read(
    http: HttpClient, site: Web, streamed: bool
) -> None:
    head = b"HTTP/1.1 302 Found\r\nlocation: /b\r\ntransfer-encoding: chunked\r\n\r\n"
    site.replies |= {"/a": endless(head, CHUNK), "/b": response(200)}
    answer = await (download if streamed else fetch)(http, f"{site.origin}/a")
    assert answer.status == 200


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("status", [200, 404])
@pytest.mark.parametrize(
    "coding",
    [
        "gzip",
        "GZIP",
        "x-gzip",
        "deflate",
        "br",
        "zstd",
        "compress",
        "identity, gzip",
        "gzip, identity",
        "identity\r\ncontent-encoding: gzip",
        "unheard-of",
    ],
)
async def test_compression_is_refused(
    http: HttpClient, site: Web, coding: str, status: int, streamed: bool
) -> None:
    site.replies["/a"] = response(status, gzip.compress(bytes(100)), content_encoding=coding)
    with pytest.raises(Refused, match="compressed") as caught:
        await (download if streamed else fetch)(http, f"{site.origin}/a")
    assert caught.value.reason is Reason.FETCH_FORBIDDEN


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize(
    "coding",
    [
        b"gzip",
        b"deflate",
        b"identity",
        b"gzip, chunked",
        b"chunked, gzip",
        b"chunked\r\ntransfer-encoding: gzip",
        b"gzip\r\ntransfer-encoding: chunked",
        b"chunked;x=y",
    ],
)
async def test_compression_of_the_transfer_is_a_host_error(
    http: HttpClient, site: Web, coding: bytes, streamed: bool
) -> None:
    body = gzip.compress(bytes(100))
    framed = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    site.replies["/a"] = HEAD + b"transfer-encoding: " + coding + b"\r\n\r\n" + framed
    with pytest.raises(HostError) as caught:
        await (download if streamed else fetch)(http, f"{site.origin}/a")
    assert caught.value.kind is HostErrorKind.AWAY


# -- downloads --------------------------------------------------------------------------------


async def test_a_download_is_written_as_it_came_and_told(http: HttpClient, site: Web) -> None:
    body = b"".join(b"%02x\r\n%b\r\n" % (n, b"x" * n) for n in range(1, 40))
    site.replies["/a"] = CHUNKED + body + b"0\r\n\r\n"
    file, told = BytesIO(), list[int]()
    answer = await http.download(
        f"{site.origin}/a", file, limit=LIMIT, timeouts=SOME, progress=told.append
    )
    assert answer == HttpResponse(200, b"")
    assert file.getvalue() == b"x" * 780
    assert told == sorted(told)
    assert told[-1] == 780


async def test_what_is_no_download_is_an_answer_and_writes_nothing(
    http: HttpClient, site: Web
) -> None:
    site.replies["/a"] = response(400, b'{"error":"RepoNotFound"}')
    file = BytesIO()
    answer = await download(http, f"{site.origin}/a", file)
    assert answer == HttpResponse(400, b'{"error":"RepoNotFound"}')
    assert file.getvalue() == b""
    site.replies["/a"] = response(400, bytes(70_000))
    with pytest.raises(Refused):
        await download(http, f"{site.origin}/a", file)


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (b"", HostErrorKind.AWAY),
        (b"garbage\r\n\r\n", HostErrorKind.AWAY),
        (HEAD + b"content-length: 10\r\n\r\nshort", HostErrorKind.CUT_SHORT),
        (CHUNKED + CHUNK, HostErrorKind.CUT_SHORT),
        (CHUNKED + b"-1\r\nx\r\n", HostErrorKind.CUT_SHORT),
        (response(429), HostErrorKind.BUSY),
        (response(503), HostErrorKind.BROKEN),
    ],
)
async def test_what_is_the_matter_with_a_download_has_a_name(
    http: HttpClient, site: Web, reply: bytes, expected: HostErrorKind
) -> None:
    site.replies["/a"] = reply
    with pytest.raises(HostError) as caught:
        await download(http, f"{site.origin}/a")
    assert caught.value.kind is expected


async def test_one_deadline_bounds_the_whole(http: HttpClient, site: Web) -> None:
    async def trickle(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n")
        while True:
            writer.write(b"x")
            await writer.drain()
            await asyncio.sleep(0.05)

    site.replies["/a"] = trickle
    loop = asyncio.get_running_loop()
    began = loop.time()
    await host_error(http, f"{site.origin}/a", seconds=0.3)
    assert loop.time() - began < 3


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
    cut = reply.endswith(b"some")
    assert caught.value.kind is (HostErrorKind.CUT_SHORT if cut else HostErrorKind.AWAY)


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


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("https://pds.example/xrpc", "pds.example"),
        ("https://PDS.example:443/", "pds.example"),
        ("https://pds.example./", "pds.example"),
        ("https://pds.example.:443/", "pds.example"),
        ("https://pds.example.:8443/", "pds.example:8443"),
        ("https://pds.example:8443/", "pds.example:8443"),
        ("http://127.0.0.1:2583", "127.0.0.1:2583"),
    ],
)
def test_host_of(url: str, host: str) -> None:
    assert host_of(url) == host


@pytest.mark.parametrize("host", ["\u2603.example", "xn--a.example", "xn--", "[::1%\u2603]"])
async def test_hosts_that_are_no_names_are_refused(http: HttpClient, host: str) -> None:
    with suppress(Refused):
        host_of(f"https://{host}/")
    assert await refusal(http, f"https://{host}/") is Reason.FETCH_FORBIDDEN
