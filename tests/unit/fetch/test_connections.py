"""Connections are kept for the next request, and what hosts do with kept ones harms nobody."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from io import BytesIO
from itertools import pairwise
from pathlib import Path

import pytest
import uvloop

from consumer.fetch import connections
from consumer.fetch import http as module
from consumer.fetch.http import HostError, HostErrorKind, HttpClient
from tests.support.eventually import eventually
from tests.support.web import certified, web
from tests.unit.fetch.requests import LIMIT, SOME, fetch, host_error, noting

KEPT = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi"


@dataclass
class Host:
    """A host that keeps connections, for ``most`` requests each.

    ``answered`` counts the requests of each connection, in order.
    """

    port: int = 0
    answered: list[int] = field(default_factory=list)
    writers: list[asyncio.StreamWriter] = field(default_factory=list)
    most: int = 10**9
    reply: bytes = KEPT

    @property
    def origin(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def connected(self) -> int:
        return len(self.writers)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer requests; end the connection at the one that is too many."""
        number = len(self.writers)
        self.writers.append(writer)
        self.answered.append(0)
        try:
            while await reader.readuntil(b"\r\n\r\n") and self.answered[number] < self.most:
                self.answered[number] += 1
                writer.write(self.reply)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


@pytest.fixture
async def host() -> AsyncIterator[Host]:
    async with serving(Host()) as running:
        yield running


@asynccontextmanager
async def serving(host: Host, tls: ssl.SSLContext | None = None) -> AsyncIterator[Host]:
    server = await asyncio.start_server(host.serve, "127.0.0.1", 0, ssl=tls)
    host.port = server.sockets[0].getsockname()[1]
    try:
        yield host
    finally:
        server.close()
        for writer in host.writers:
            writer.close()


Loop = Callable[[], asyncio.AbstractEventLoop]


def run(on: Loop, scenario: Callable[[], Coroutine[None, None, None]]) -> None:
    """Run ``scenario`` on a loop of its own, in a thread."""
    with asyncio.Runner(loop_factory=on) as runner:
        runner.run(scenario())


async def test_requests_one_after_the_other_share_a_connection(
    http: HttpClient, host: Host
) -> None:
    for _ in range(3):
        assert (await fetch(http, f"{host.origin}/a")).body == b"hi"
    assert host.answered == [3]


async def test_requests_at_once_have_connections_of_their_own(http: HttpClient, host: Host) -> None:
    for _ in range(2):
        await asyncio.gather(*(fetch(http, f"{host.origin}/{n}") for n in range(5)))
    assert sum(host.answered) == 10
    assert host.connected == 5


async def test_a_kept_connection_that_the_host_closes_is_forgotten(
    http: HttpClient, host: Host
) -> None:
    await fetch(http, f"{host.origin}/a")
    host.writers[0].close()
    await host.writers[0].wait_closed()
    await fetch(http, f"{host.origin}/a")
    assert host.answered == [1, 1]


async def test_a_host_that_ends_a_kept_connection_at_the_next_request_is_asked_again(
    http: HttpClient, host: Host
) -> None:
    host.most = 1
    for _ in range(3):
        assert (await fetch(http, f"{host.origin}/a")).status == 200
    assert host.answered == [1, 1, 1]
    host.most = 0
    assert (await host_error(http, f"{host.origin}/a")).kind is HostErrorKind.AWAY
    assert host.connected == 4  # a new connection is asked once


async def test_what_comes_without_a_question_is_no_answer(http: HttpClient, host: Host) -> None:
    """A host may send two answers at once, or one of its own accord: neither is believed."""
    host.reply = KEPT + KEPT.replace(b"hi", b"no")
    assert (await fetch(http, f"{host.origin}/a")).body == b"hi"
    host.reply = KEPT
    assert (await fetch(http, f"{host.origin}/a")).body == b"hi"
    assert host.answered == [1, 1]
    host.writers[1].write(KEPT.replace(b"hi", b"no"))
    await host.writers[1].drain()
    await eventually(gone(host.writers[1]), what="the connection is closed")
    assert (await fetch(http, f"{host.origin}/a")).body == b"hi"
    assert host.answered == [1, 1, 1]


def gone(writer: asyncio.StreamWriter) -> Callable[[], Awaitable[bool]]:
    async def is_gone() -> bool:
        return writer.is_closing()

    return is_gone


@pytest.mark.parametrize(
    "reply",
    [
        KEPT.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n"),
        b"HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nhi",
    ],
    ids=["it says so", "an old one"],
)
async def test_a_connection_that_the_host_will_close_is_not_kept(
    http: HttpClient, host: Host, reply: bytes
) -> None:
    host.reply = reply
    for _ in range(2):
        assert (await fetch(http, f"{host.origin}/a")).body == b"hi"
    assert host.answered == [1, 1]


async def test_a_connection_whose_answer_was_not_read_is_not_kept(
    http: HttpClient, host: Host
) -> None:
    host.reply = b"HTTP/1.1 503 Busy\r\ncontent-length: 2\r\n\r\nhi"
    await host_error(http, f"{host.origin}/a")
    host.reply = KEPT
    assert (await fetch(http, f"{host.origin}/a")).status == 200
    assert host.answered == [1, 1]


async def test_idle_connections_are_closed_after_a_while(
    monkeypatch: pytest.MonkeyPatch, host: Host
) -> None:
    monkeypatch.setattr(connections, "_IDLE_SECONDS", 0.1)
    async with HttpClient(allow_loopback=True) as http:
        await asyncio.gather(*(fetch(http, f"{host.origin}/{n}") for n in range(3)))
        for writer in host.writers:
            await eventually(gone(writer), what="the connection is closed")


async def test_only_some_idle_connections_are_kept(
    monkeypatch: pytest.MonkeyPatch, host: Host
) -> None:
    monkeypatch.setattr(connections, "_MAX_IDLE", 2)
    async with HttpClient(allow_loopback=True) as http:
        await asyncio.gather(*(fetch(http, f"{host.origin}/{n}") for n in range(4)))
        closed = [gone(writer) for writer in host.writers]

        async def two_left() -> bool:
            return sum([await one() for one in closed]) == 2

        await eventually(two_left, what="two connections are closed")


async def test_requests_beyond_the_bound_wait(monkeypatch: pytest.MonkeyPatch, host: Host) -> None:
    monkeypatch.setattr(connections, "_MAX_AT_ONCE", 2)
    async with HttpClient(allow_loopback=True) as http:
        await asyncio.gather(*(fetch(http, f"{host.origin}/{n}") for n in range(20)))
        assert host.connected == 2
        host.most = 0
        for number in range(3):  # a place is free again after an error
            await host_error(http, f"{host.origin}/{number}")


async def test_a_cancelled_request_ends_its_connection(http: HttpClient, host: Host) -> None:
    host.reply = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nh"
    with pytest.raises(HostError):
        await http.get(f"{host.origin}/a", limit=LIMIT, seconds=0.1)
    await eventually(gone(host.writers[0]), what="the connection is closed")


async def test_a_large_body_comes_in_parts_as_it_is_taken(http: HttpClient, host: Host) -> None:
    size = 8 * 1024 * 1024
    host.reply = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % size + bytes(size)
    received, seen = BytesIO(), list[int]()
    for _ in range(2):
        await http.download(
            f"{host.origin}/a", received, limit=size, timeouts=SOME, progress=noting(seen)
        )
    assert received.getvalue() == bytes(2 * size)
    parts = [after - before for before, after in pairwise([0, *seen])]
    assert max(parts) <= 2 * 1024 * 1024
    assert host.answered == [2]


@pytest.mark.parametrize("on", [asyncio.new_event_loop, uvloop.new_event_loop])
async def test_tls_connections_are_kept_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, on: Loop
) -> None:
    server, client = certified(tmp_path, "localhost")
    monkeypatch.setattr(module, "_tls", lambda: client)

    async def scenario() -> None:
        async with serving(Host(), server) as host, HttpClient(allow_loopback=True) as http:
            for _ in range(3):
                answer = await fetch(http, f"https://localhost:{host.port}/a")
                assert answer.body == b"hi"
            assert host.answered == [3]

    await asyncio.to_thread(run, on, scenario)


CASES = [
    test_requests_one_after_the_other_share_a_connection,
    test_requests_at_once_have_connections_of_their_own,
    test_a_kept_connection_that_the_host_closes_is_forgotten,
    test_a_host_that_ends_a_kept_connection_at_the_next_request_is_asked_again,
    test_what_comes_without_a_question_is_no_answer,
    test_a_cancelled_request_ends_its_connection,
    test_a_large_body_comes_in_parts_as_it_is_taken,
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
async def test_on_the_loop_of_the_roles_it_is_the_same(
    case: Callable[[HttpClient, Host], Awaitable[None]],
) -> None:
    """The transports of uvloop differ from asyncio's, on which the other tests run."""

    async def scenario() -> None:
        async with serving(Host()) as host, HttpClient(allow_loopback=True) as http:
            await case(http, host)

    await asyncio.to_thread(run, uvloop.new_event_loop, scenario)


async def test_the_host_is_named_as_in_the_url(http: HttpClient) -> None:
    async with web() as site:
        await fetch(http, f"{site.origin}/a?b=c%20d")
        assert site.paths == ["/a?b=c%20d"]
        assert f"host: 127.0.0.1:{site.port}\r\n" in site.requests[0].lower()
