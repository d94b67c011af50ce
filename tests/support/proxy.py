"""A TCP proxy in front of a real server, that tests stop, stall and start again.

Its port stays reserved from creation to ``close()``: while stopped it refuses connections
and no other process can take it.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import Self

LOOPBACK = "127.0.0.1"
_CHUNK = 65536


def reserve(port: int) -> socket.socket:
    """Bind ``port`` (0: a free one) without listening: connections to it are refused.

    While the socket is open the system gives the port to no process that asks for a free one; a
    server that asks for this very port, with SO_REUSEADDR as all do, may listen on it.
    """
    reserved = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    reserved.bind((LOOPBACK, port))
    return reserved


class TcpProxy:
    """Forwards ``127.0.0.1:port`` to ``127.0.0.1:upstream``.

    ``accepted`` and ``cut`` count connections taken and connections broken by ``stop()``;
    ``held`` counts bytes that arrived while stalled: proof that a fault happened.
    """

    def __init__(self, upstream: int = 0) -> None:
        self.upstream = upstream
        self.accepted = self.cut = self.held = 0
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()
        self._reserved: socket.socket | None = reserve(0)
        self.port: int = self._reserved.getsockname()[1]

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def start(self) -> None:
        """Listen, and forward."""
        if self._server is None:
            assert self._reserved is not None
            listener, self._reserved = self._reserved, None
            self._server = await asyncio.start_server(self._accept, sock=listener)
        self._flowing.set()

    async def stop(self) -> None:
        """Break every connection and refuse new ones."""
        if self._server is None:
            return
        self._server.close()
        self._server = None
        self._reserved = reserve(self.port)
        self.cut += len(self._connections)
        for connection in list(self._connections):
            connection.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    def stall(self) -> None:
        """Keep connections open, and accept new ones, but forward nothing."""
        self._flowing.clear()

    def resume(self) -> None:
        """Forward again, what was held first."""
        self._flowing.set()

    async def close(self) -> None:
        """Stop for good and give the port back."""
        await self.stop()
        if self._reserved is not None:
            self._reserved.close()
            self._reserved = None

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.accepted += 1
        self._connections.add(task)
        try:
            with contextlib.suppress(OSError, asyncio.CancelledError):
                await self._serve(reader, writer)
        finally:
            self._connections.discard(task)
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        up_reader, up_writer = await asyncio.open_connection(LOOPBACK, self.upstream)
        pumps = [
            asyncio.ensure_future(self._pump(reader, up_writer)),
            asyncio.ensure_future(self._pump(up_reader, writer)),
        ]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            up_writer.transport.abort()
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while chunk := await reader.read(_CHUNK):
            if not self._flowing.is_set():
                self.held += len(chunk)
                await self._flowing.wait()
            writer.write(chunk)
            await writer.drain()
