"""A scripted HTTP server on loopback: it answers with what the test put, byte for byte."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

Reply = bytes | Callable[[asyncio.StreamWriter], Awaitable[None]]

_REASONS = {200: "OK", 302: "Found"}


@dataclass
class Web:
    """``replies`` by path; a path without one gets a 404.  ``requests`` are heads, as they came."""

    port: int = 0
    replies: dict[str, Reply] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    tasks: set[asyncio.Task[None]] = field(default_factory=set)

    @property
    def origin(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def paths(self) -> list[str]:
        """The paths asked for, in order."""
        return [head.split(" ")[1] for head in self.requests]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.tasks.add(task)
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            self.requests.append(head)
            reply = self.replies.get(head.split(" ")[1], response(404))
            if isinstance(reply, bytes):
                writer.write(reply)
                await writer.drain()
            else:
                await reply(writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            self.tasks.discard(task)
            writer.close()


def response(status: int, body: bytes = b"", **headers: str) -> bytes:
    """Return a whole response; underscores in the names of ``headers`` are hyphens."""
    lines = [f"HTTP/1.1 {status} {_REASONS.get(status, 'Something')}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    lines += [f"content-length: {len(body)}", "connection: close"]
    return "\r\n".join([*lines, "", ""]).encode() + body


def redirect(location: str) -> bytes:
    """Return a redirect to ``location``."""
    return response(302, location=location)


@asynccontextmanager
async def web() -> AsyncIterator[Web]:
    """Serve during the block, on a free port."""
    site = Web()
    server = await asyncio.start_server(site.serve, "127.0.0.1", 0)
    site.port = server.sockets[0].getsockname()[1]
    try:
        yield site
    finally:
        server.close()
        for task in site.tasks:
            task.cancel()
