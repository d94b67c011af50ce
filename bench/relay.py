"""A relay in a process of its own: cached frames, written to the socket as fast as they are taken.

``python -m bench.relay PORT FILE`` serves ``subscribeRepos``.  Websocket headers are made
beforehand, and many frames go into one write, so that the measurements do not include the relay.
It sends only what it is allowed to: ``GET /allow/N`` lets the first N frames pass, ``GET /sent``
tells how many were written and when (Unix seconds) the last one was.  ``GET /pace/N/RATE`` lets
frames up to the Nth pass at RATE a second, and ``GET /written`` tells of each write since then when
it was and how many frames had been written after it.  ``GET /readers`` counts subscribers.  After
the last frame it begins again with the first; the sequence numbers go on.
"""

from __future__ import annotations

import asyncio
import json
import struct
import sys
import time
from http import HTTPStatus
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

from bench.traffic import FIRST_SEQ, load
from consumer.embedded.ports import LOOPBACK

_WRITE_BYTES = 256 * 1024
_TICK = 0.002  # seconds: at a pace, frames that are due within it go into one write
_SEQ = struct.Struct(">Q")
_SEQ_KEY = b"\x63seq\x1b"  # the map key, and the head of an integer of 8 bytes


class Stream:
    """The frames in their websocket form, without end; ``index`` counts from 0 over all laps."""

    def __init__(self, frames: list[bytes]) -> None:
        self._frames = [bytearray(_websocket_header(len(f)) + f) for f in frames]
        self._seq_offsets = [
            frame.index(_SEQ_KEY + _SEQ.pack(FIRST_SEQ + index)) + len(_SEQ_KEY)
            for index, frame in enumerate(self._frames)
        ]

    def portion(self, index: int, end: int) -> tuple[bytes, int]:
        """Return the bytes of frames from ``index`` to at most ``end``, and the next index."""
        parts: list[bytearray] = []
        size = 0
        while index < end and size < _WRITE_BYTES:
            number = index % len(self._frames)
            frame = self._frames[number]
            if index >= len(self._frames):
                _SEQ.pack_into(frame, self._seq_offsets[number], FIRST_SEQ + index)
            parts.append(frame)
            size += len(frame)
            index += 1
        return b"".join(parts), index


class Relay:
    """The server: how many frames it may send, and how many it has sent."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._allowed = 0
        self._readers = 0
        self._sent = 0
        self._sent_at = 0.0
        self._written: list[tuple[float, int]] = []
        self._more = asyncio.Event()
        self._pacing: set[asyncio.Task[None]] = set()

    async def handle(self, connection: ServerConnection) -> None:
        """Send frames to one subscriber until its connection ends."""
        assert connection.request is not None
        index = _start(connection.request.path)
        self._readers += 1
        try:
            while True:
                while index < self._allowed:
                    data, index = self._stream.portion(index, self._allowed)
                    self._written.append((time.time(), index))
                    connection.transport.write(data)
                    await connection.drain()
                    self._sent, self._sent_at = index, time.time()
                self._more.clear()
                await self._more.wait()
        except (ConnectionClosed, OSError):
            return
        finally:
            self._readers -= 1

    def answer(self, connection: ServerConnection, request: Request) -> Response | None:
        """Answer requests that are not subscriptions; None for a subscription."""
        state: object = {"frames": self._sent, "at": self._sent_at}
        match request.path.split("/")[1:]:
            case ["allow", frames]:
                self._allow(int(frames))
            case ["pace", frames, rate]:
                self._written.clear()
                pacing = asyncio.create_task(self._pace(int(frames), float(rate)))
                self._pacing.add(pacing)
                pacing.add_done_callback(self._pacing.discard)
            case ["written"]:
                state = self._written
            case ["readers"]:
                state = self._readers
            case ["sent"]:
                pass
            case _:
                return None
        return connection.respond(HTTPStatus.OK, json.dumps(state))

    async def _pace(self, end: int, rate: float) -> None:
        clock = asyncio.get_running_loop().time
        first, began = self._allowed, clock()
        while self._allowed < end:
            passed = int((clock() - began) * rate) + 1
            self._allow(min(end, first + passed))
            await asyncio.sleep(max(_TICK, began + passed / rate - clock()))

    def _allow(self, frames: int) -> None:
        self._allowed = frames
        self._more.set()


def _start(path: str) -> int:
    cursor = parse_qs(urlsplit(path).query).get("cursor", ["0"])[0]
    return max(0, int(cursor) + 1 - FIRST_SEQ)


def _websocket_header(length: int) -> bytes:
    if length < 126:
        return bytes((0x82, length))
    if length < 1 << 16:
        return b"\x82\x7e" + length.to_bytes(2, "big")
    return b"\x82\x7f" + length.to_bytes(8, "big")


async def _serve(port: int, path: Path) -> None:
    relay = Relay(Stream(load(path).frames))
    async with serve(
        relay.handle,
        LOOPBACK,
        port,
        compression=None,
        ping_interval=None,
        process_request=relay.answer,
    ) as server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_serve(int(sys.argv[1]), Path(sys.argv[2])))
