"""The processes that are measured, and their CPU time."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil

from bench.traffic import Traffic
from consumer.embedded.ports import LOOPBACK
from consumer.embedded.process import Server

ALL_ROLES = "consumer"  # the name of a process that has them

_CHECKOUT = Path(__file__).parents[1]
_MEMORY = re.compile(r"^(VmHWM|RssShmem|RssFile):\s+(\d+) kB$", re.MULTILINE)
_STOP_SECONDS = 40.0
_START_SECONDS = 60.0


def cpu_seconds(pid: int) -> float:
    """Return the CPU time that a process and all its descendants have used, the ended ones too."""
    root = psutil.Process(pid)
    total = 0.0
    for process in (root, *root.children(recursive=True)):
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue  # its parent has its times
        total += times.user + times.system + times.children_user + times.children_system
    return total


def peak_mebibytes(pid: int) -> float:
    """Return the largest resident memory of a process and its living descendants, in MiB.

    It is the sum of what each has had at most (``VmHWM``).  Pages that they share count once.
    """
    root = psutil.Process(pid)
    own = shared = 0
    for process in (root, *root.children(recursive=True)):
        try:
            status = Path(f"/proc/{process.pid}/status").read_text()
        except OSError:
            continue  # it has ended
        found = {name: int(size) for name, size in _MEMORY.findall(status)}
        common = found.get("RssShmem", 0) + found.get("RssFile", 0)
        own += max(0, found.get("VmHWM", 0) - common)
        shared = max(shared, common)
    return (own + shared) / 1024


@asynccontextmanager
async def running(name: str, directory: Path, *argv: str, **env: str) -> AsyncIterator[Server]:
    """Run ``python ARGV`` during the block; its log is in ``directory``."""
    async with executing(name, directory, sys.executable, *argv, **env) as server:
        yield server


@asynccontextmanager
async def executing(name: str, directory: Path, *argv: str, **env: str) -> AsyncIterator[Server]:
    """Run a program, of which ``argv`` begins with the path, during the block."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("CHIVE_")}
    environment = {**kept, "PYTHONPATH": str(_CHECKOUT), **env}
    server = Server(name, directory, environment=environment)
    await server.start(argv)
    try:
        yield server
    finally:
        await server.stop(_STOP_SECONDS)


@asynccontextmanager
async def consumer(
    name: str, directory: Path, settings: Mapping[str, str], *, profile: Path | None = None
) -> AsyncIterator[Server]:
    """Run the consumer in the role that ``name`` begins with, in all roles as ``consumer``.

    ``profile``: see ``bench.sampled``.
    """
    role = name.partition("-")[0]
    roles = [] if role == ALL_ROLES else ["--role", role]
    program = ["-m", "bench.sampled", str(profile)] if profile else ["-m", "consumer"]
    async with running(name, directory, *program, "run", *roles, **settings) as server:
        yield server


def begin_profile(server: Server) -> None:
    """Let a consumer that was started with ``profile`` sample itself from now on."""
    assert server.pid is not None
    os.kill(server.pid, signal.SIGUSR1)


@dataclass(frozen=True, slots=True)
class Sent:
    """How many frames the relay has written, and when it wrote the last of them."""

    frames: int
    at: float


class RelayProcess:
    """The relay of ``bench.relay``, seen from here."""

    def __init__(self, server: Server, port: int) -> None:
        self.server = server
        self.url = f"ws://{LOOPBACK}:{port}"
        self._client = httpx.AsyncClient(base_url=f"http://{LOOPBACK}:{port}", trust_env=False)

    async def allow(self, frames: int) -> None:
        """Let the first ``frames`` frames pass."""
        await self._ask(f"/allow/{frames}")

    async def pace(self, frames: int, rate: float) -> None:
        """Let frames up to ``frames`` pass, ``rate`` of them a second."""
        await self._ask(f"/pace/{frames}/{rate}")

    async def sent(self) -> Sent:
        """Return how many frames were sent, and when."""
        return Sent(**await self._ask("/sent"))

    async def written(self) -> list[tuple[float, int]]:
        """Return the time and the number of frames after each write since the last ``pace``."""
        return [(at, frames) for at, frames in await self._ask("/written")]

    async def is_read(self) -> bool:
        """Tell whether there is a subscriber."""
        return bool(await self._ask("/readers"))

    async def answers(self) -> bool:
        """Tell whether the relay answers."""
        try:
            await self._ask("/sent")
        except httpx.TransportError:
            return False
        return True

    async def close(self) -> None:
        await self._client.aclose()

    async def _ask(self, path: str) -> Any:
        return json.loads((await self._client.get(path)).text)


def free_port() -> int:
    """Return a port that is free now."""
    with socket.socket() as free:
        free.bind((LOOPBACK, 0))
        return int(free.getsockname()[1])


async def answering(url: str) -> bool:
    """Tell whether a server answers HTTP at ``url``."""
    async with httpx.AsyncClient(trust_env=False) as client:
        try:
            await client.get(url)
        except httpx.TransportError:
            return False
    return True


@asynccontextmanager
async def hosting(path: Path, directory: Path) -> AsyncIterator[tuple[Server, str]]:
    """Run a directory and PDSs with what ``path`` holds; the directory's origin is returned too."""
    port = free_port()
    origin = f"http://{LOOPBACK}:{port}"
    async with running("host", directory, "-m", "bench.host", str(port), str(path)) as server:
        await server.wait_ready(lambda: answering(origin), _START_SECONDS)
        yield server, origin


@asynccontextmanager
async def relaying(traffic: Traffic, directory: Path) -> AsyncIterator[RelayProcess]:
    """Run a relay with ``traffic``; it sends nothing before ``allow``."""
    port = free_port()
    argv = ("-m", "bench.relay", str(port), str(traffic.path))
    async with running("relay", directory, *argv) as server:
        relay = RelayProcess(server, port)
        try:
            await server.wait_ready(relay.answers, _START_SECONDS)
            yield relay
        finally:
            await relay.close()
