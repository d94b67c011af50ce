"""The guard below every outgoing connection: it resolves, checks and dials in one step.

The checked address is the dialled address: nothing is resolved twice, so DNS rebinding has no
effect.  TLS above it still checks the certificate against the name.  A proxy gets the checked
address too; one that resolves names gets the name, whose address is then unchecked.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any
from weakref import WeakValueDictionary

from consumer.errors import Reason, Refused
from consumer.fetch import addresses
from consumer.fetch.addresses import Address
from consumer.network.proxy import Proxy, ProxyFailed

Resolve = Callable[[str, int], Awaitable[Sequence[Address]]]
Permit = Callable[[Address], bool]

_MAX_ADDRESSES = 4  # of one name that are dialled; more would only take time
_CONNECT_SECONDS = 5.0  # for one address
_IPV4 = 4
_RESOLVER_THREADS = 64
_DOMAIN_SLOTS = 4  # concurrent lookups of names of one domain


class ConnectionBroken(Exception):
    """There is no connection, it broke, or what came on it is not HTTP."""


class Resolver:
    """The system's resolver in threads of its own, with at most a few for each domain.

    A name server that hangs keeps a thread for many seconds, even after the caller's timeout.
    """

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(_RESOLVER_THREADS, "resolver")
        self._slots: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()

    async def __call__(self, host: str, port: int) -> Sequence[Address]:
        """Return the addresses of ``host`` in the system's order of preference.

        Raises ``ConnectionBroken`` if the name cannot be resolved.
        """
        slots = self._slots.setdefault(_domain(host), asyncio.Semaphore(_DOMAIN_SLOTS))
        await slots.acquire()
        query = asyncio.get_running_loop().run_in_executor(self._threads, _getaddrinfo, host, port)
        query.add_done_callback(partial(_ended, slots))
        try:
            found = await asyncio.shield(query)
        except (OSError, UnicodeError) as error:
            raise ConnectionBroken(f"cannot resolve {host}: {error}") from error
        parsed = (addresses.parse(str(entry[4][0])) for entry in found)
        return list(dict.fromkeys(address for address in parsed if address is not None))

    def close(self) -> None:
        """Cancel waiting lookups; the threads end after their current one."""
        self._threads.shutdown(wait=False, cancel_futures=True)


def _ended(slots: asyncio.Semaphore, query: asyncio.Future[Any]) -> None:
    slots.release()
    if not query.cancelled():
        query.exception()  # marks it as retrieved, for a caller that no longer waits


def _domain(host: str) -> str:
    """Return the last two labels of ``host``: names that share these mostly share name servers."""
    return ".".join(host.rstrip(".").rsplit(".", 2)[-2:])


def _getaddrinfo(host: str, port: int) -> list[Any]:
    return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)


class Guard:
    """Connects to the addresses that ``permit`` allows, and to no others; maybe by ``proxy``."""

    def __init__(self, resolve: Resolve, permit: Permit, proxy: Proxy | None = None) -> None:
        self._resolve = resolve
        self._permit = permit
        self._proxy = proxy

    async def dial(self, host: str, port: int) -> socket.socket:
        """Dial the permitted addresses of ``host`` one after the other; return a connected socket.

        It does not block.  Raises ``Refused(FETCH_FORBIDDEN)`` when no address is permitted,
        ``ConnectionBroken`` when none answers, and ``ProxyFailed``.
        """
        if self._proxy is not None and self._proxy.resolves and not is_local(host):
            return await self._proxy.tunnel(host, port)
        found = await self._resolve(host, port)
        permitted = [address for address in found if self._permit(address)]
        if found and not permitted:
            shown = ", ".join(map(str, found[:_MAX_ADDRESSES]))
            detail = f"{host} has no address that may be reached, only {shown}"
            raise Refused(Reason.FETCH_FORBIDDEN, detail)
        failure: Exception = ConnectionBroken(f"{host} has no address")
        for address in permitted[:_MAX_ADDRESSES]:
            try:
                if self._proxy is None:
                    return await connect(address, port)
                return await self._proxy.tunnel(address, port)
            except ConnectionBroken as error:
                failure = error
            except ProxyFailed as error:
                if not error.about_target:
                    raise
                failure = error
        raise failure


async def connect(address: Address, port: int) -> socket.socket:
    """Return a connected socket that does not block.  Raises ``ConnectionBroken``."""
    family = socket.AF_INET if address.version == _IPV4 else socket.AF_INET6
    dialled = socket.socket(family, socket.SOCK_STREAM)
    try:
        dialled.setblocking(False)
        dialled.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        async with asyncio.timeout(_CONNECT_SECONDS):
            await asyncio.get_running_loop().sock_connect(dialled, (str(address), port))
    except OSError as error:
        dialled.close()
        said = str(error) or f"no connection in {_CONNECT_SECONDS:g} s"
        raise ConnectionBroken(f"{address}, port {port}: {said}") from error
    except BaseException:
        dialled.close()
        raise
    return dialled


def is_local(host: str) -> bool:
    """Tell whether ``host`` is an address in any spelling, or this machine, without a name server.

    Such a host is checked here, even if a proxy resolves names.
    """
    if f".{host.rstrip('.').lower()}".endswith(".localhost"):
        return True
    try:
        socket.getaddrinfo(host, None, flags=socket.AI_NUMERICHOST)
    except (OSError, UnicodeError):
        return False
    return True
