"""PLC directory and PDSs in a process of its own, for the accounts of ``bench.hosted``.

``python -m bench.host PORT FILE``.  The directory is at PORT; the accounts are spread over PDSs at
ports of their own.  Every answer is prepared before the first request, with its HTTP head, so that
the measurements do not include this server.
"""

from __future__ import annotations

import asyncio
import re
import socket
import sys
from collections.abc import Sequence
from itertools import cycle
from pathlib import Path
from urllib.parse import unquote

from bench.hosted import PDS, Hosted, load
from consumer.embedded.ports import LOOPBACK

_PDSS = 8
_END = b"\r\n\r\n"
_TARGET = re.compile(
    rb"GET /(?:xrpc/com\.atproto\.sync\.(getRepo|getRecord)\?(?:[^ ]*&)?did=)?([^ &?]+)[^ ]* HTTP"
)


class Answers:
    """The answers to all requests; ``pdss`` are the origins at which repositories are served."""

    def __init__(self, hosted: Hosted, pdss: Sequence[str]) -> None:
        documents = {
            did: document.replace(PDS.encode(), pds.encode())
            for (did, document), pds in zip(hosted.documents.items(), cycle(pdss), strict=False)
        }
        bodies = {b"": documents, b"getRepo": hosted.repos, b"getRecord": hosted.proofs}
        self._by_method = {
            method: {did: _answer(200, body) for did, body in found.items()}
            for method, found in bodies.items()
        }
        self._nothing = _answer(404, b"")

    def to(self, head: bytes) -> bytes:
        """Return the whole answer to a request of which ``head`` is the head."""
        asked = _TARGET.match(head)
        if asked is None:
            return self._nothing
        did = unquote(asked[2].decode())
        return self._by_method[asked[1] or b""].get(did, self._nothing)


class Connection(asyncio.Protocol):
    """One connection of a client, which asks for one thing after the other."""

    def __init__(self, answers: Answers) -> None:
        self._answers = answers
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        *heads, self._received = (self._received + data).split(_END)
        for head in heads:
            self._transport.write(self._answers.to(head))


def _answer(status: int, body: bytes) -> bytes:
    return b"HTTP/1.1 %d -\r\ncontent-length: %d%b%b" % (status, len(body), _END, body)


async def _serve(port: int, path: Path) -> None:
    pdss = [socket.create_server((LOOPBACK, 0)) for _ in range(_PDSS)]
    origins = [f"http://{LOOPBACK}:{pds.getsockname()[1]}" for pds in pdss]
    answers = Answers(load(path), origins)
    loop = asyncio.get_running_loop()
    # The directory answers last: whoever waits for it finds everything.
    for listening in (*pdss, socket.create_server((LOOPBACK, port))):
        await loop.create_server(lambda: Connection(answers), sock=listening)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_serve(int(sys.argv[1]), Path(sys.argv[2])))
