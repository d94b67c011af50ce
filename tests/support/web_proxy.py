"""A scripted HTTP and SOCKS5 proxy on loopback, which notes what it is asked for."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from base64 import b64decode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from ipaddress import ip_address

from tests.support.proxy import LOOPBACK

CREDENTIALS = ("us@r", "pä/ss")
IN_URL = "us%40r:p%C3%A4%2Fss"
SECRET = "pä/ss"  # noqa: S105 - to be looked for


@dataclass
class WebProxy:
    """``asked`` are hosts and ports as they were asked for, addresses or names.

    ``elsewhere`` are the ports of loopback that stand for a host, else it must be loopback itself;
    ``status`` (HTTP) or ``reply`` (SOCKS5) refuse every target; ``raw`` is said instead of any
    answer.
    """

    port: int = 0
    credentials: tuple[str, str] | None = None
    elsewhere: dict[str, int] = field(default_factory=dict)
    status: int = 0
    reply: int = 0
    raw: bytes | None = None
    asked: list[tuple[str, int]] = field(default_factory=list)
    refused: int = 0
    connections: set[asyncio.Task[None]] = field(default_factory=set)

    def url(self, scheme: str, credentials: str = "") -> str:
        return f"{scheme}://{credentials and credentials + '@'}{LOOPBACK}:{self.port}"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.connections.add(task)
        try:
            with contextlib.suppress(OSError, EOFError):
                first = await reader.readexactly(1)
                if self.raw is not None:
                    writer.write(self.raw)
                    await writer.drain()
                    return
                ask = self._socks5 if first == b"\x05" else self._connect
                if (port := await ask(first, reader, writer)) is not None:
                    await _join(reader, writer, port)
        finally:
            self.connections.discard(task)
            writer.close()

    async def _connect(
        self, first: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> int | None:
        head = (first + await reader.readuntil(b"\r\n\r\n")).decode()
        method, target, _ = head.split("\r\n")[0].split(" ")
        assert method == "CONNECT"
        assert f"\r\nHost: {target}\r\n" in head
        host, _, port = target.rpartition(":")
        status = 200
        if self.credentials is not None:
            given = head.partition("Proxy-Authorization: Basic ")[2].partition("\r\n")[0]
            if b64decode(given).decode() != ":".join(self.credentials):
                self.refused += 1
                status = 407
        found = None
        if status == 200:
            found = self._found(host.strip("[]"), int(port))
            status = self.status or (200 if found else 502)
        for byte in f"HTTP/1.1 {status} Thing\r\nvia: test\r\n\r\n".encode():
            writer.write(bytes([byte]))
            await writer.drain()
        return found if status == 200 else None

    async def _socks5(
        self, _first: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> int | None:
        (count,) = await reader.readexactly(1)
        methods = await reader.readexactly(count)
        wanted = 0 if self.credentials is None else 2
        writer.write(bytes([5, wanted if wanted in methods else 0xFF]))
        if wanted not in methods:
            self.refused += 1
            return None
        if self.credentials is not None:
            (_, size) = await reader.readexactly(2)
            user = (await reader.readexactly(size)).decode()
            (size,) = await reader.readexactly(1)
            password = (await reader.readexactly(size)).decode()
            right = (user, password) == self.credentials
            writer.write(bytes([1, 0 if right else 1]))
            if not right:
                self.refused += 1
                return None
        version, command, _, kind = await reader.readexactly(4)
        assert (version, command) == (5, 1)
        if kind == 3:
            (size,) = await reader.readexactly(1)
            host = (await reader.readexactly(size)).decode()
        else:
            host = str(ip_address(await reader.readexactly({1: 4, 4: 16}[kind])))
        found = self._found(host, int.from_bytes(await reader.readexactly(2), "big"))
        reply = self.reply or (0 if found else 5)
        # It speaks from an address of any kind.
        writer.write(bytes([5, reply, 0]) + b"\x03\x04name" + b"\x00\x01")
        await writer.drain()
        return None if reply else found

    def _found(self, host: str, port: int) -> int | None:
        self.asked.append((host, port))
        found = self.elsewhere.get(host, port if host == LOOPBACK else None)
        if found is None:
            return None
        with socket.socket() as tried:
            return found if tried.connect_ex((LOOPBACK, found)) == 0 else None


async def _join(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, port: int) -> None:
    up_reader, up_writer = await asyncio.open_connection(LOOPBACK, port)
    pumps = [
        asyncio.ensure_future(_pump(reader, up_writer)),
        asyncio.ensure_future(_pump(up_reader, writer)),
    ]
    try:
        await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
    finally:
        up_writer.close()
        for pump in pumps:
            pump.cancel()
        await asyncio.gather(*pumps, return_exceptions=True)


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while chunk := await reader.read(65_536):
        writer.write(chunk)
        await writer.drain()


@asynccontextmanager
async def web_proxy(credentials: tuple[str, str] | None = None) -> AsyncIterator[WebProxy]:
    """Serve during the block."""
    proxy = WebProxy(credentials=credentials)
    server = await asyncio.start_server(proxy.serve, LOOPBACK, 0)
    proxy.port = server.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        server.close()
        tasks = list(proxy.connections)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
