"""A connection over a real socket: what comes out, and how it ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from http import HTTPStatus

import pytest
from websockets.asyncio.server import ServerConnection
from websockets.exceptions import ConnectionClosedError, ConnectionClosedOK, InvalidStatus
from websockets.utils import accept_key

from consumer.errors import Fatal, Reason
from consumer.tail import subscription
from consumer.tail.outcomes import Silent
from consumer.tail.splitter import Message, Unusable, Violation
from consumer.tail.subscription import HIGH_WATER, Connection, endpoint, subscribe
from tests.support.eventually import eventually
from tests.support.proxy import LOOPBACK, TcpProxy
from tests.support.relay import ScriptedRelay, freeze, hang_up, idle, sends

LIMIT = 100_000


@asynccontextmanager
async def connected(
    relay: ScriptedRelay, cursor: int | None = None, silence: float = 30.0
) -> AsyncIterator[Connection]:
    connection = await subscribe(relay.url, cursor, limit=LIMIT, silence=silence)
    try:
        yield connection
    finally:
        await connection.close()


async def drained(connection: Connection) -> tuple[list[Message], Exception]:
    """Return everything that came, and how it ended."""
    messages: list[Message] = []
    try:
        async with asyncio.timeout(10):
            while True:
                messages += await connection.receive(0.05)
    except (ConnectionClosedOK, ConnectionClosedError, Silent, Violation) as error:
        return messages, error


@pytest.mark.parametrize(
    ("relay", "cursor", "address"),
    [
        ("wss://relay.test", None, "wss://relay.test/xrpc/com.atproto.sync.subscribeRepos"),
        ("https://r.test/", 0, "wss://r.test/xrpc/com.atproto.sync.subscribeRepos?cursor=0"),
        ("http://[::1]:80", 7, "ws://[::1]:80/xrpc/com.atproto.sync.subscribeRepos?cursor=7"),
        ("ws://r.test/base/", 7, "ws://r.test/base/xrpc/com.atproto.sync.subscribeRepos?cursor=7"),
    ],
)
def test_endpoint(relay: str, cursor: int | None, address: str) -> None:
    assert endpoint(relay, cursor) == address


async def test_messages_in_order_and_a_clean_close() -> None:
    async with ScriptedRelay() as relay:
        relay.behave(sends(b"one", b"two", b"x" * LIMIT))
        async with connected(relay, cursor=5) as connection:
            messages, end = await drained(connection)
    assert messages == [b"one", b"two", b"x" * LIMIT]
    assert isinstance(end, ConnectionClosedOK)
    assert relay.cursors == [5]


async def shake_hands(reader: asyncio.StreamReader) -> bytes:
    """Return the HTTP answer that opens a websocket."""
    head = await reader.readuntil(b"\r\n\r\n")
    key = next(line for line in head.split(b"\r\n") if line.startswith(b"Sec-WebSocket-Key"))
    accept = accept_key(key.partition(b": ")[2].decode())
    return (
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: " + accept.encode() + b"\r\n\r\n"
    )


async def test_what_comes_with_the_handshake_is_not_lost() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Send the HTTP answer, two frames and a half in one piece, then the rest."""
        writer.write(await shake_hands(reader) + b"\x82\x03one\x82\x03two\x82\x05th")
        await writer.drain()
        await reader.read(1)  # nothing comes until we close
        writer.close()

    server = await asyncio.start_server(answer, LOOPBACK, 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        connection = await subscribe(f"ws://{LOOPBACK}:{port}", None, limit=LIMIT, silence=30)
        assert await connection.receive(5) == [b"one", b"two"]
        await connection.close()


async def test_pings_whose_answers_are_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subscription, "HIGH_WATER", 10_000)

    async def ping(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await shake_hands(reader))
        with suppress(OSError):
            while True:  # the reader's own buffer is soon full, and the socket's
                writer.write((b"\x89\x7d" + b"p" * 125) * 500)
                await writer.drain()
        writer.close()

    server = await asyncio.start_server(ping, LOOPBACK, 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        connection = await subscribe(f"ws://{LOOPBACK}:{port}", None, limit=LIMIT, silence=30)
        messages, end = await drained(connection)
    assert not messages
    assert isinstance(end, Violation)


async def test_text_and_oversized_messages_do_not_end_the_connection() -> None:
    async with ScriptedRelay() as relay:
        relay.behave(sends("hello", b"x" * (LIMIT + 1), b"good"))
        async with connected(relay) as connection:
            messages, end = await drained(connection)
    reasons = [m.reason for m in messages if isinstance(m, Unusable)]
    assert reasons == [Reason.FRAME_TEXT, Reason.FRAME_TOO_BIG]
    assert messages[-1] == b"good"
    assert isinstance(end, ConnectionClosedOK)


async def test_a_broken_transport() -> None:
    async with ScriptedRelay() as relay:
        relay.behave(hang_up)
        async with connected(relay) as connection:
            _, end = await drained(connection)
    assert isinstance(end, ConnectionClosedError)


async def test_broken_framing() -> None:
    async def break_framing(
        _relay: ScriptedRelay, connection: ServerConnection, _cursor: int | None
    ) -> None:
        await connection.send(b"good")
        connection.transport.write(b"\x83\x01x")
        await connection.wait_closed()

    async with ScriptedRelay() as relay:
        relay.behave(break_framing)
        async with connected(relay) as connection:
            messages, end = await drained(connection)
    assert messages == [b"good"]
    assert isinstance(end, Violation)


async def test_a_refused_handshake() -> None:
    async with ScriptedRelay() as relay:
        relay.behave(HTTPStatus.SERVICE_UNAVAILABLE)
        with pytest.raises(InvalidStatus) as refused:
            async with connected(relay):
                pass
    assert refused.value.response.status_code == HTTPStatus.SERVICE_UNAVAILABLE
    assert refused.value.response.body == b"busy"


async def test_an_address_that_is_none() -> None:
    with pytest.raises(Fatal, match=r"relay\.url"):
        await subscribe("relay.test", None, limit=LIMIT, silence=30)


async def test_a_half_open_socket_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subscription, "_CLOSE_SECONDS", 0.05)
    async with ScriptedRelay() as relay:
        relay.behave(freeze)
        async with connected(relay, silence=0.3) as connection:
            _, end = await drained(connection)
    assert isinstance(end, Silent)


async def test_a_quiet_relay_that_answers_pings_is_alive() -> None:
    silence = 0.4
    async with ScriptedRelay() as relay:
        relay.behave(idle)
        async with connected(relay, silence=silence) as connection:
            until = asyncio.get_running_loop().time() + 3 * silence
            while asyncio.get_running_loop().time() < until:
                # However long the caller would wait, there is time for a ping.
                assert await connection.receive(60) == []


async def test_wake_ends_waiting() -> None:
    async with ScriptedRelay() as relay:
        relay.behave(idle)
        async with connected(relay) as connection:
            waiting = asyncio.create_task(connection.receive(60))
            await asyncio.sleep(0)
            connection.wake()
            assert await asyncio.wait_for(waiting, 5) == []


async def test_back_pressure_reaches_the_relay() -> None:
    """Without a reader the relay blocks, memory is bounded, and all messages come later."""
    message = b"x" * 50_000
    total = 20 * HIGH_WATER // len(message)

    async with ScriptedRelay() as relay:
        relay.log = [(seq, message) for seq in range(1, total + 1)]
        async with connected(relay, cursor=0, silence=0.5) as connection:
            await eventually(lambda: connection.queued > HIGH_WATER, what="queue filled")
            stuck = await eventually(_steady(lambda: relay.sent), what="relay stuck", every=0.02)
            assert stuck < total
            assert connection.queued < HIGH_WATER + 1_000_000
            taken = 0
            while taken < total:
                taken += len(await connection.receive(5))
            assert relay.sent == total


async def test_back_pressure_of_messages_without_a_byte() -> None:
    sent = 0

    async def nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(await shake_hands(reader))
        with suppress(OSError):
            while sent < 400:
                writer.write(b"\x82\x00\x81\x00" * 10_000)
                await writer.drain()
                sent += 1
        writer.close()

    server = await asyncio.start_server(nothing, LOOPBACK, 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        connection = await subscribe(f"ws://{LOOPBACK}:{port}", None, limit=LIMIT, silence=30)
        stuck = await eventually(_steady(lambda: sent), what="relay stuck", every=0.02)
        assert stuck < 400
        assert 0 < len(await connection.receive(5)) < 1_000_000
        await connection.close()


def _steady(sent: Callable[[], int]) -> Callable[[], int]:
    seen: list[int] = []

    def look() -> int:
        seen.append(sent())
        return seen[-1] if len(seen) > 15 and len(set(seen[-15:])) == 1 else 0

    return look


async def test_silence_while_we_do_not_read_is_our_own() -> None:
    message = b"x" * 50_000
    async with ScriptedRelay() as relay:
        relay.log = [(seq, message) for seq in range(1, 500)]
        async with connected(relay, cursor=0, silence=0.2) as connection:
            await eventually(lambda: connection.queued > HIGH_WATER, what="queue filled")
            await eventually(
                _steady(lambda: relay.sent), what="relay stuck for longer than the silence"
            )
            taken = 0
            while taken < 499:
                taken += len(await connection.receive(0.01))


async def test_a_peer_that_is_not_there() -> None:
    async with TcpProxy() as proxy:
        port = proxy.port
        await proxy.stop()
        with pytest.raises(ConnectionRefusedError):
            await subscribe(f"ws://{LOOPBACK}:{port}", None, limit=LIMIT, silence=30)
