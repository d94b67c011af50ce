"""Downloads go to a file as they come; whatever ends one early has a name."""

from __future__ import annotations

import asyncio
from io import BytesIO

import pytest

from consumer.errors import Refused
from consumer.fetch.http import HostError, HostErrorKind, HttpClient, HttpResponse, Timeouts
from tests.support.web import Web, response
from tests.unit.fetch.requests import (
    CHUNK,
    CHUNKED,
    HEAD,
    LIMIT,
    SOME,
    download,
    host_error,
    noting,
)


async def test_a_download_is_written_as_it_came_and_told(http: HttpClient, site: Web) -> None:
    body = b"".join(b"%02x\r\n%b\r\n" % (n, b"x" * n) for n in range(1, 40))
    site.replies["/a"] = CHUNKED + body + b"0\r\n\r\n"
    file, told = BytesIO(), list[int]()
    answer = await http.download(
        f"{site.origin}/a", file, limit=LIMIT, timeouts=SOME, progress=noting(told)
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


async def test_the_time_that_the_caller_takes_counts_for_no_timeout(
    http: HttpClient, site: Web
) -> None:
    site.replies["/a"] = CHUNKED + CHUNK + b"0\r\n\r\n"
    brief = Timeouts(first_byte=5.0, idle=0.5, total=0.5)
    taken = 0

    async def slowly(_size: int) -> None:
        nonlocal taken
        taken += 1
        await asyncio.sleep(0.8)

    answer = await http.download(
        f"{site.origin}/a", BytesIO(), limit=LIMIT, timeouts=brief, progress=slowly
    )
    assert (answer.status, taken) == (200, 1)
