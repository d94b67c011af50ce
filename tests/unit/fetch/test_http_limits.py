"""What comes back has limits: its size, what surrounds it, its time, its coding."""

from __future__ import annotations

import asyncio
import gzip
from dataclasses import replace
from io import BytesIO

import pytest

from consumer.errors import Reason, Refused
from consumer.fetch.http import HostError, HostErrorKind, HttpClient, Timeouts
from tests.support.web import Reply, Web, response
from tests.unit.fetch.requests import (
    CHUNK,
    CHUNKED,
    HEAD,
    LIMIT,
    download,
    fetch,
    host_error,
    refusal,
)


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
    """Send ``head``, then ``part`` again and again, one each ``every`` seconds."""

    async def reply(writer: asyncio.StreamWriter) -> None:
        writer.write(head)
        while True:
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(every)

    return reply


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
    """Only the timeout that is meant is short; with the others the test would hang."""
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
