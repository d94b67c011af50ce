"""A relay that does what a test tells it, over a real websocket.

By default it behaves: it sends the frames of its log behind the cursor, then what is published.
``behave`` queues behaviours for the next connections, one each.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from http import HTTPStatus
from typing import Self
from urllib.parse import parse_qs, urlsplit

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

from tests.support.proxy import LOOPBACK

Behaviour = Callable[["ScriptedRelay", ServerConnection, int | None], Awaitable[None]]


class ScriptedRelay:
    """Serves ``subscribeRepos`` at ``url``; ``cursors`` are those it was asked for, in order."""

    def __init__(self, port: int = 0) -> None:
        self.log: list[tuple[int, bytes]] = []
        self.cursors: list[int | None] = []
        self.sent = 0
        self._port = port
        self._script: deque[Behaviour | HTTPStatus] = deque()
        self._published = asyncio.Condition()
        self._server: Server | None = None

    async def __aenter__(self) -> Self:
        self._server = await serve(
            self._handle,
            LOOPBACK,
            self._port,
            compression=None,
            ping_interval=None,
            close_timeout=1,
            process_request=self._answer,
        )
        self._port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        for connection in self._server.connections:
            connection.transport.abort()
        self._server.close()
        await self._server.wait_closed()

    @asynccontextmanager
    async def away(self) -> AsyncIterator[None]:
        """Serve nobody during the block; afterwards the address is the same."""
        await self.__aexit__()
        try:
            yield
        finally:
            await self.__aenter__()

    @property
    def url(self) -> str:
        return f"ws://{LOOPBACK}:{self._port}"

    @property
    def connections(self) -> int:
        """Connections that are open."""
        return len(self._server.connections) if self._server else 0

    def behave(self, *behaviours: Behaviour | HTTPStatus) -> None:
        """Let the next connections meet ``behaviours``; a status refuses the handshake."""
        self._script.extend(behaviours)

    async def publish(self, frames: Iterable[tuple[int, bytes]]) -> None:
        """Add frames to the log, and send them to all connections."""
        async with self._published:
            self.log.extend(frames)
            self._published.notify_all()

    async def play(self, connection: ServerConnection, cursor: int | None) -> None:
        """Behave: the log behind ``cursor`` (None: nothing of it), then what comes."""
        at = len(self.log) if cursor is None else 0
        while True:
            for seq, frame in self.log[at:]:
                if cursor is None or seq > cursor:
                    await connection.send(frame)
                    self.sent += 1
                at += 1
            async with self._published:
                while len(self.log) <= at:
                    await self._published.wait()

    async def _answer(self, _connection: ServerConnection, _request: Request) -> Response | None:
        if self._script and isinstance(self._script[0], HTTPStatus):
            status = self._script.popleft()
            assert isinstance(status, HTTPStatus)
            headers = Headers({"Content-Length": "4", "Retry-After": "0"})
            return Response(status, status.phrase, headers, b"busy")
        return None

    async def _handle(self, connection: ServerConnection) -> None:
        assert connection.request is not None
        asked = parse_qs(urlsplit(connection.request.path).query).get("cursor")
        cursor = int(asked[0]) if asked else None
        self.cursors.append(cursor)
        behaviour = self._script.popleft() if self._script else type(self).play
        assert not isinstance(behaviour, HTTPStatus)
        acting = asyncio.ensure_future(behaviour(self, connection, cursor))
        gone = asyncio.ensure_future(connection.wait_closed())
        try:
            await asyncio.wait({acting, gone}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (acting, gone):
                task.cancel()
        with suppress(ConnectionClosed, asyncio.CancelledError):
            await acting


def sends(*messages: bytes | str, then: Behaviour | None = None) -> Behaviour:
    """Send ``messages`` whatever the cursor, then do ``then``; without it close cleanly."""

    async def behaviour(
        relay: ScriptedRelay, connection: ServerConnection, cursor: int | None
    ) -> None:
        for message in messages:
            await connection.send(message)
        if then is not None:
            await then(relay, connection, cursor)

    return behaviour


async def freeze(_relay: ScriptedRelay, connection: ServerConnection, _cursor: int | None) -> None:
    """Be half-open: the socket stays, and nothing is read or answered, not even a close."""
    connection.transport.pause_reading()
    await connection.wait_closed()


async def hang_up(_relay: ScriptedRelay, connection: ServerConnection, _cursor: int | None) -> None:
    """Break the transport without a close frame."""
    connection.transport.abort()


async def idle(_relay: ScriptedRelay, connection: ServerConnection, _cursor: int | None) -> None:
    """Stay connected, answer pings, send nothing."""
    await connection.wait_closed()
