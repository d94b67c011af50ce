"""The proxy that outgoing connections go through, and none that the environment names.

Kafka and PostgreSQL are never reached through it.  With ``resolves`` the proxy is asked for names;
otherwise for addresses alone, which the caller or ``open`` has found.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from typing import Self
from urllib.parse import unquote, urlsplit

import structlog
from pydantic import SecretStr

from consumer.config.secrets import read_secret
from consumer.config.settings import NetworkSettings
from consumer.config.types import proxy_url
from consumer.errors import Transient
from consumer.metrics.labels import Service
from consumer.network import tunnel
from consumer.network.tunnel import Credentials, Target, TunnelFailed
from consumer.runtime.logs import Outage

ANSWER_SECONDS = 10.0  # the proxy dials the target in that time

_CONNECT_SECONDS = 5.0
_MAX_ADDRESSES = 4  # of one name that are tried; more would only take time
_READ_BYTES = 4096

_log = structlog.get_logger()

Read = Callable[[], Awaitable[bytes]]
"""Returns the next bytes, none once the other side has closed.  Raises what asking for it may."""
Write = Callable[[bytes], Awaitable[None]]


class ProxyFailed(Transient):
    """The proxy opens no connection; the text names it, without its password.

    ``about_target``: it may well open one to another target.
    """

    def __init__(self, detail: str, *, about_target: bool = False) -> None:
        super().__init__(detail, None if about_target else Service.PROXY)
        self.about_target = about_target


@dataclass(frozen=True, slots=True)
class Proxy:
    """An HTTP or SOCKS5 proxy; ``credentials`` are user and password.

    ``file`` is where the settings have it from: user and password are read there again for every
    connection.
    """

    scheme: str
    host: str
    port: int
    credentials: Credentials | None = field(default=None, repr=False)
    resolves: bool = False
    file: Path | None = None
    _outage: Outage = field(
        default_factory=lambda: Outage(_log, Service.PROXY), repr=False, compare=False
    )

    @classmethod
    def of(cls, settings: NetworkSettings) -> Self | None:
        """Return the proxy that ``settings`` name; None: connections are direct."""
        if settings.proxy is None:
            return None
        place, credentials = _parts(settings.proxy)
        return cls(*place, credentials, settings.proxy_resolves, settings.proxy_file)

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}"

    async def open(self, host: str, port: int) -> socket.socket:
        """Return a connected, non-blocking socket to ``host`` at ``port`` through the proxy.

        Raises ``ProxyFailed``.
        """
        failure = ProxyFailed(f"proxy {self} is not asked: {host} has no address")
        for target in await self._targets(host, port):
            try:
                return await self.tunnel(target, port)
            except ProxyFailed as error:
                failure = error
                if not error.about_target:
                    break
        raise failure

    async def reach(self) -> None:
        """Connect to the proxy itself, and ask it for nothing.  Raises ``ProxyFailed``."""
        (await self._dial()).close()

    async def ask(self, target: Target, port: int, read: Read, write: Write) -> None:
        """Ask for a connection to ``target`` on one to the proxy, which ``read`` and ``write`` use.

        Raises ``ProxyFailed``.
        """
        exchange = {"http": tunnel.connect, "socks5": tunnel.socks5}[self.scheme]
        credentials = self._credentials_now()
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                await _converse(exchange(target, port, credentials), read, write)
        except TunnelFailed as error:
            raise self.failed(str(error), about_target=error.about_target) from error
        except TimeoutError as error:
            detail = f"gives no answer in {ANSWER_SECONDS:g} s, asked for {target}, port {port}"
            raise self.failed(detail, about_target=True) from error
        except OSError as error:
            raise self.failed(f"breaks the connection: {error}") from error
        self._outage.over()

    def failed(self, detail: str, *, about_target: bool = False) -> ProxyFailed:
        """Return the error for ``detail``; it is logged if it is about the proxy itself."""
        error = ProxyFailed(f"proxy {self} {detail}", about_target=about_target)
        if not about_target:
            self._outage.again(error)
        return error

    def _credentials_now(self) -> Credentials | None:
        if self.file is None:
            return self.credentials
        try:
            place, credentials = _parts(proxy_url(SecretStr(read_secret(self.file))))
        except ValueError as error:
            raise self.failed(f"is not asked: network.proxy_file: {error}") from None
        if place != (self.scheme, self.host, self.port):  # who we are is no business of another
            raise self.failed("is not asked: network.proxy_file names another one: restart")
        return credentials

    async def _targets(self, host: str, port: int) -> Sequence[Target]:
        if self.resolves:
            return [host]
        loop = asyncio.get_running_loop()
        try:
            found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            raise ProxyFailed(
                f"cannot resolve {host}, to ask proxy {self} for its address: {error}; "
                "network.proxy_resolves = true lets the proxy resolve names",
                about_target=True,
            ) from error
        return [ip_address(each[4][0]) for each in found[:_MAX_ADDRESSES]]

    async def tunnel(self, target: Target, port: int) -> socket.socket:
        """Return a connected, non-blocking socket to ``target`` through the proxy.

        Raises ``ProxyFailed``.
        """
        loop, connected = asyncio.get_running_loop(), await self._dial()
        try:
            await self.ask(
                target,
                port,
                lambda: loop.sock_recv(connected, _READ_BYTES),
                lambda data: loop.sock_sendall(connected, data),
            )
        except BaseException:
            connected.close()
            raise
        return connected

    async def _dial(self) -> socket.socket:
        """Connect to the proxy."""
        loop = asyncio.get_running_loop()
        problem = OSError("it has no address")
        try:
            found = await loop.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)
            for family, kind, protocol, _, address in found[:_MAX_ADDRESSES]:
                dialled = socket.socket(family, kind, protocol)
                try:
                    dialled.setblocking(False)
                    async with asyncio.timeout(_CONNECT_SECONDS):
                        await loop.sock_connect(dialled, address)
                except OSError as error:
                    dialled.close()
                    problem = error if str(error) else OSError("no answer")
                except BaseException:
                    dialled.close()
                    raise
                else:
                    return dialled
        except OSError as error:
            problem = error
        raise self.failed(f"cannot be reached: {problem}") from problem


def _parts(secret: SecretStr) -> tuple[tuple[str, str, int], Credentials | None]:
    """Return scheme, host and port of a proxy's URL, and user and password."""
    url = urlsplit(secret.get_secret_value())
    assert url.hostname is not None  # noqa: S101 - the type of the setting
    assert url.port is not None  # noqa: S101 - likewise
    credentials = None
    if url.username is not None and url.password is not None:
        credentials = unquote(url.username), unquote(url.password)
    return (url.scheme, url.hostname, url.port), credentials


async def _converse(exchange: tunnel.Exchange, read: Read, write: Write) -> None:
    request = next(exchange)
    while True:
        if request:
            await write(request)
        try:
            request = exchange.send(await read())
        except StopIteration:
            return
