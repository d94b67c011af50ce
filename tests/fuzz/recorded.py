"""Real frames: what the reference PDS sends while people write, recorded once into the cache."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

from websockets.asyncio.client import connect

from bench import cached
from consumer.embedded.jars import cache_home
from consumer.verify.frames import MAX_FRAME, peek
from demo.local_network import LocalNetwork, installed
from demo.traffic import Traffic

_SECONDS = 15.0  # of traffic, happenings included
_ACCOUNTS, _RATE = 8, 20.0


async def record(network: LocalNetwork, seconds: float, people: str = "user") -> list[bytes]:
    """Return all frames of the firehose of ``network``, after people wrote for a while.

    Handles begin with ``people``, and have to be new.
    """
    traffic = Traffic(
        network.endpoints, seed=7, accounts=_ACCOUNTS, rate=_RATE, span=seconds, people=people
    )
    stop = asyncio.Event()
    asyncio.get_running_loop().call_later(seconds, stop.set)
    try:
        await traffic.run(stop)
    finally:
        await traffic.close()
    return await _firehose(network)


async def _firehose(network: LocalNetwork) -> list[bytes]:
    url = f"{network.endpoints.firehose}/xrpc/com.atproto.sync.subscribeRepos?cursor=0"
    newest = await network.newest_seq()
    frames: list[bytes] = []
    async with connect(url, max_size=MAX_FRAME, compression=None) as socket:
        while not frames or _seq(frames[-1]) < newest:
            frames.append(await socket.recv(decode=False))
    return frames


def _seq(frame: bytes) -> int:
    return peek(frame).seq or 0


async def _recorded() -> None:
    packages = await installed(cache_home(), print)
    with tempfile.TemporaryDirectory() as work:
        async with LocalNetwork(packages, Path(work)) as network:
            frames = await record(network, _SECONDS)
    cached.write(_path(), frames)


def _path() -> Path:
    return cache_home() / "fuzz" / "pds.frames"


def kept() -> list[bytes]:
    """Return the real frames that were recorded before."""
    return list(cached.read(_path())) if _path().exists() else []


def recorded() -> list[bytes]:
    """Return real frames, recording them first if there are none yet.  Needs Node."""
    if not _path().exists():
        asyncio.run(_recorded())
    return kept()
