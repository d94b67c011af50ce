"""Scripted sources of listings in a process of their own: a relay and hosts, each at its port.

``python -m bench.listed HOSTS REPOS``: prints the port of the relay, which lists the hosts; each
host lists its share of the repositories, and the relay all of them by collection.  ``/asked`` of
the relay tells how many requests each port had in its busiest second, and in all.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any
from urllib.parse import parse_qs, urlsplit

import orjson

from consumer.embedded.ports import LOOPBACK

PAGE = 100  # entries that a host gives at most, so that it has several pages
_COLLECTION_PAGE = 2_000
CID, REV = "bafyreihw6bxrtlbfrzvqt6mbqcfikgnhrgqqykzjswf4ubqu2ijwl5y6yu", "3lf2bqwz7cd2a"
"""The latest commit of every repository."""

Json = dict[str, Any]
Answer = Callable[[str, dict[str, str]], Json]


def did_of(number: int) -> str:
    """Return the DID of a repository; none of them can be resolved."""
    return f"did:web:n{number}.bench.test"


class Asked:
    """Requests by port and second."""

    def __init__(self) -> None:
        self._seconds: Counter[tuple[int, int]] = Counter()

    def note(self, port: int) -> None:
        self._seconds[port, int(time.monotonic())] += 1

    def report(self) -> Json:
        ports = {port for port, _ in self._seconds}
        busiest = {
            port: max(n for (other, _), n in self._seconds.items() if other == port)
            for port in ports
        }
        total = sum(self._seconds.values())
        return {"total": total, "ports": len(ports), "busiest": max(busiest.values(), default=0)}


def _page(numbers: range, query: dict[str, str], most: int) -> Json:
    start, limit = int(query.get("cursor", "0")), min(int(query["limit"]), most)
    listed = numbers[start : start + limit]
    end = start + limit
    cursor = {"cursor": str(end)} if end < len(numbers) else {}
    return {"repos": [{"did": did_of(number), "active": True} for number in listed]} | cursor


def _of_host(own: range, method: str, query: dict[str, str]) -> Json:
    if method == "getLatestCommit":
        return {"cid": CID, "rev": REV}
    return _page(own, query, PAGE)


async def _serve(answer: Answer, asked: Asked) -> int:
    """Serve ``answer`` at a free port; return the port."""
    port = 0

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                url = urlsplit(head.split(b" ", 2)[1].decode())
                query = {key: values[0] for key, values in parse_qs(url.query).items()}
                method = url.path.rpartition(".")[2]
                if method != "/asked":
                    asked.note(port)
                body = orjson.dumps(answer(method, query))
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
                await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(handle, LOOPBACK, 0)
    port = int(server.sockets[0].getsockname()[1])
    return port


async def _main(hosts: int, repos: int, wait: Callable[[], Awaitable[object]]) -> None:
    asked, ports = Asked(), []
    for number in range(hosts):
        own = range(number, repos, hosts)
        ports.append(await _serve(partial(_of_host, own), asked))

    def relay(method: str, query: dict[str, str]) -> Json:
        if method == "/asked":
            return asked.report()
        if method == "listHosts":
            return {"hosts": [{"hostname": f"{LOOPBACK}:{port}"} for port in ports]}
        return _page(range(repos), query, _COLLECTION_PAGE)

    sys.stdout.write(f"{await _serve(relay, asked)}\n")
    sys.stdout.flush()
    await wait()


if __name__ == "__main__":
    asyncio.run(_main(int(sys.argv[1]), int(sys.argv[2]), asyncio.Event().wait))
