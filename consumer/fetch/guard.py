"""The guard below every outgoing connection: it resolves, checks and dials in one step.

The checked address is the dialled address: nothing is resolved twice, so DNS rebinding has no
effect.  TLS above it still checks the certificate against the name.  A proxy gets the checked
address too; one that resolves names gets the name, whose address is then unchecked.
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
from consumer.network.proxy import Proxy, ProxyFailed
from consumer.network.tunnel import Target

Resolve = Callable[[str, int], Awaitable[Sequence[Address]]]
Permit = Callable[[Address], bool]

_MAX_ADDRESSES = 4  # of one name that are dialled; more would only take time
_CONNECT_SECONDS = 5.0  # for one address
_READ_BYTES = 4096  # of what a proxy says
_RESOLVER_THREADS = 64
_DOMAIN_SLOTS = 4  # concurrent lookups of names of one domain


class Resolver:
    """The system's resolver in threads of its own, with at most a few for each domain.

    A name server that hangs keeps a thread for many seconds, even after the caller's timeout.
    """

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(_RESOLVER_THREADS, "resolver")
        self._slots: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()

    async def __call__(self, host: str, port: int) -> Sequence[Address]:
        """Return the addresses of ``host`` in the system's order of preference.

        Raises ``httpcore.ConnectError`` if the name cannot be resolved.
        """
        slots = self._slots.setdefault(_domain(host), asyncio.Semaphore(_DOMAIN_SLOTS))
        await slots.acquire()
        query = asyncio.get_running_loop().run_in_executor(self._threads, _getaddrinfo, host, port)
        query.add_done_callback(partial(_ended, slots))
        try:
            found = await asyncio.shield(query)
        except (OSError, UnicodeError) as error:
            raise httpcore.ConnectError(f"cannot resolve {host}: {error}") from error
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


class GuardedBackend(httpcore.AsyncNetworkBackend):
    """Connects to the addresses that ``permit`` allows, and to no others; maybe by ``proxy``.

    Unix sockets are not implemented, as in the base class.
    """

    def __init__(self, resolve: Resolve, permit: Permit, proxy: Proxy | None = None) -> None:
        self._resolve = resolve
        self._permit = permit
        self._proxy = proxy
        self._direct = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - the signature is httpcore's
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Dial the permitted addresses of ``host`` one after the other; ``timeout`` in seconds.

        Raises ``Refused(FETCH_FORBIDDEN)`` when no address is permitted, httpcore's
        ``ConnectError`` or ``ConnectTimeout`` when none answers, and ``ProxyFailed``.
        """
        if self._proxy is not None and self._proxy.resolves and not is_local(host):
            return await self._tunnel(self._proxy, host, port)
        found = await self._resolve(host, port)
        permitted = [address for address in found if self._permit(address)]
        if found and not permitted:
            shown = ", ".join(map(str, found[:_MAX_ADDRESSES]))
            detail = f"{host} has no address that may be reached, only {shown}"
            raise Refused(Reason.FETCH_FORBIDDEN, detail)
        options = min(timeout or _CONNECT_SECONDS, _CONNECT_SECONDS), local_address, socket_options
        failure: Exception = httpcore.ConnectError(f"{host} has no address")
        for address in permitted[:_MAX_ADDRESSES]:
            try:
                if self._proxy is None:
                    return await self._direct.connect_tcp(str(address), port, *options)
                return await self._tunnel(self._proxy, address, port)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
            except ProxyFailed as error:
                if not error.about_target:
                    raise
                failure = error
        raise failure

    async def _tunnel(self, proxy: Proxy, target: Target, port: int) -> httpcore.AsyncNetworkStream:
        try:
            stream = await self._direct.connect_tcp(proxy.host, proxy.port, _CONNECT_SECONDS)
        except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
            raise proxy.failed(f"cannot be reached: {str(error) or 'no answer'}") from error
        try:
            await proxy.ask(target, port, partial(_read, stream), stream.write)
        except httpcore.NetworkError as error:
            await stream.aclose()
            raise proxy.failed(f"breaks the connection: {error}") from error
        except BaseException:
            await stream.aclose()
            raise
        return stream

    async def sleep(self, seconds: float) -> None:
        """Sleep, for httpcore's retries (which are off)."""
        await asyncio.sleep(seconds)


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


async def _read(stream: httpcore.AsyncNetworkStream) -> bytes:
    return await stream.read(_READ_BYTES)
