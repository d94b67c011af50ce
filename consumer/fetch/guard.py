"""The guard below every outgoing connection: it resolves, judges and dials in one step.

The judged address is the dialled address: nothing is resolved twice, so a name cannot change
its mind in between.  TLS above it still checks the certificate against the name.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any
from weakref import WeakValueDictionary

import httpcore

from consumer.errors import Reason, Refused
from consumer.fetch import addresses
from consumer.fetch.addresses import Address

Resolve = Callable[[str, int], Awaitable[Sequence[Address]]]
Permit = Callable[[Address], bool]

_MAX_ADDRESSES = 4  # of one name; the rest would only cost time
_CONNECT_SECONDS = 5.0  # for one address
_RESOLVER_THREADS = 64
_RESOLVED_AT_ONCE = 4  # names of one domain


class Resolver:
    """The system's resolver, in threads of its own, of which no domain gets more than a few.

    A name server that hangs keeps a thread for many seconds, whoever has given up meanwhile.
    """

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(_RESOLVER_THREADS, "resolver")
        self._turns: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()

    async def __call__(self, host: str, port: int) -> Sequence[Address]:
        """Return the addresses of ``host`` in the system's order of preference."""
        turn = self._turns.setdefault(_domain(host), asyncio.Semaphore(_RESOLVED_AT_ONCE))
        await turn.acquire()
        asked = asyncio.get_running_loop().run_in_executor(self._threads, _getaddrinfo, host, port)
        asked.add_done_callback(partial(_ended, turn))
        try:
            found = await asyncio.shield(asked)
        except (OSError, UnicodeError) as error:
            raise httpcore.ConnectError(f"cannot resolve {host}: {error}") from error
        parsed = (addresses.parse(str(entry[4][0])) for entry in found)
        return list(dict.fromkeys(address for address in parsed if address is not None))

    def close(self) -> None:
        """Let the threads end when they are done."""
        self._threads.shutdown(wait=False, cancel_futures=True)


def _ended(turn: asyncio.Semaphore, asked: asyncio.Future[Any]) -> None:
    turn.release()
    if not asked.cancelled():
        asked.exception()  # told to who has asked, if he still waits


def _domain(host: str) -> str:
    """Return the last two labels of ``host``, whose name servers are most often the same."""
    return ".".join(host.rstrip(".").rsplit(".", 2)[-2:])


def _getaddrinfo(host: str, port: int) -> list[Any]:
    return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)


class GuardedBackend(httpcore.AsyncNetworkBackend):
    """Connects to the addresses that ``permit`` allows, and to nothing else.

    Local sockets stay what they are in the base class: not implemented.
    """

    def __init__(self, resolve: Resolve, permit: Permit) -> None:
        self._resolve = resolve
        self._permit = permit
        self._dial = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - the signature is httpcore's
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Dial the permitted addresses of ``host`` in turn.

        Raises ``Refused(FETCH_FORBIDDEN)`` when there are only others.
        """
        found = await self._resolve(host, port)
        permitted = [address for address in found if self._permit(address)]
        if found and not permitted:
            detail = f"{host} is at {', '.join(map(str, found[:_MAX_ADDRESSES]))}"
            raise Refused(Reason.FETCH_FORBIDDEN, detail)
        bound = min(timeout or _CONNECT_SECONDS, _CONNECT_SECONDS)
        failure: Exception = httpcore.ConnectError(f"{host} has no address")
        for address in permitted[:_MAX_ADDRESSES]:
            try:
                return await self._dial.connect_tcp(
                    str(address), port, bound, local_address, socket_options
                )
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
        raise failure

    async def sleep(self, seconds: float) -> None:
        """Sleep, for httpcore's retries (which are off)."""
        await asyncio.sleep(seconds)
