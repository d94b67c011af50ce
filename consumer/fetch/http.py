"""Guarded HTTP requests to hosts that DID documents name.

Rules of a request: https, no credentials in the URL, public addresses checked when they are
dialled (``guard.py``), at most ``MAX_REDIRECTS`` redirects with the same rules for each, no
compression, no cookies, no proxy but that of the settings, a limit on the body and one deadline
for all of it.  The development setting ``allow_loopback`` allows this machine, over http too
(``app.py`` warns of it).

Errors: ``Refused`` for a request that always breaks these rules; ``HostError`` for hosts that are
away, slow, busy (429) or broken (5xx).  No answer of a host raises another exception.
"""

from __future__ import annotations

import asyncio
import re
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import lru_cache, partial
from typing import IO, Self

import httpx

from consumer.config.settings import NetworkSettings
from consumer.errors import Reason, Refused, Transient
from consumer.fetch import addresses
from consumer.fetch.addresses import Address
from consumer.fetch.connections import Connections, Origin, Response
from consumer.fetch.guard import ConnectionBroken, Guard, Resolve, Resolver
from consumer.network.proxy import Proxy, ProxyFailed
from consumer.runtime.closing import Closing
from procedures.retries import parse_retry_after

MAX_REDIRECTS = 3
_MAX_URL = 8192  # characters
_MAX_PORT = 65535
_PORTS = {"https": 443, "http": 80}
_SHOWN = 100  # characters of a URL in an error
_OK = 200
_ERROR_BYTES = 64 * 1024  # of a body with another status than 200
_TOO_MANY_REQUESTS = 429
_SERVER_ERROR = 500
_HEADERS = (
    (b"Accept", b"*/*"),
    (b"Accept-Encoding", b"identity"),
    (b"User-Agent", b"chive-firehose (+https://chive.pub)"),
)


# Raised by httpx and the modules below it for texts that are not URLs.
_NO_URL = (httpx.InvalidURL, ValueError)
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
# A URL that means what it says: httpx would change nothing of it.
_PLAIN = re.compile(r"(https?://[a-z0-9.:-]+)(/(?:[A-Za-z0-9_~=&:/?-]|(?<!/)\.|%[0-9A-F]{2})*)")
_MAX_CACHED = 1024

Read = Callable[[Response, str], Awaitable["HttpResponse"]]
"""Reads the body of an open response from a URL."""


class HostErrorKind(StrEnum):
    """How a host failed."""

    AWAY = "away"  # no connection, or it ended before an answer
    SLOW = "slow"
    BUSY = "busy"  # status 429
    BROKEN = "broken"  # status 5xx
    CUT_SHORT = "cut short"  # the connection ended within a body


class HostError(Transient):
    """The host failed.

    ``retry_after``: seconds of its Retry-After header; ``status``: HTTP status, None without an
    answer.
    """

    def __init__(
        self,
        kind: HostErrorKind,
        detail: str,
        retry_after: float | None = None,
        status: int | None = None,
    ) -> None:
        super().__init__(detail)
        self.kind = kind
        self.retry_after = retry_after
        self.status = status


@dataclass(frozen=True, slots=True)
class HttpResponse:
    """A whole response; statuses 429 and 5xx are a ``HostError`` instead."""

    status: int
    body: bytes


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Timeouts of a download in seconds: to the first byte, between two parts of it, in total."""

    first_byte: float
    idle: float
    total: float


class HttpClient(Closing):
    """Makes guarded requests; close it after use.  ``resolve`` is for tests."""

    def __init__(
        self, *, allow_loopback: bool, proxy: Proxy | None = None, resolve: Resolve | None = None
    ) -> None:
        self._schemes = {"https", "http"} if allow_loopback else {"https"}
        self._resolver = Resolver()
        resolve = resolve or self._resolver
        permit = _public_or_loopback if allow_loopback else addresses.is_public
        # Names of this machine are checked here, even if a proxy resolves the others.
        by_address = None if proxy is None else replace(proxy, resolves=False)
        guards = {
            "https": Guard(resolve, permit, proxy),
            "http": Guard(resolve, addresses.is_loopback, by_address),
        }
        self._connections = Connections(guards, _tls())

    @classmethod
    def of(cls, settings: NetworkSettings) -> Self:
        """Return the client that ``settings`` describe."""
        return cls(allow_loopback=settings.allow_loopback, proxy=Proxy.of(settings))

    async def close(self) -> None:
        """Close every connection."""
        self._connections.close()
        self._resolver.close()

    async def get(self, url: str, *, limit: int, seconds: float) -> HttpResponse:
        """Return the response, with a body of at most ``limit`` bytes, within ``seconds``.

        Raises ``Refused`` or ``HostError``.
        """
        try:
            async with asyncio.timeout(seconds):
                return await self._follow(url, partial(_read, limit=limit))
        except TimeoutError as error:
            detail = f"no complete response in {seconds:g} s from {url}"
            raise HostError(HostErrorKind.SLOW, detail) from error
        except ProxyFailed as error:
            raise HostError(HostErrorKind.AWAY, f"{error} (for {url})") from error
        except ConnectionBroken as error:
            raise _away(url, error) from error

    async def download(
        self,
        url: str,
        file: IO[bytes],
        *,
        limit: int,
        timeouts: Timeouts,
        progress: Callable[[int], Awaitable[None]],
    ) -> HttpResponse:
        """Write the body of a response with status 200 to ``file``, and return the response.

        That response then has no body.  ``limit`` is in bytes; ``progress`` is awaited with the
        bytes so far, and the time that it takes counts for no timeout.  Raises ``Refused`` or
        ``HostError``.
        """
        whole = asyncio.timeout(timeouts.total)

        async def read(response: Response, at: str) -> HttpResponse:
            if response.status != _OK:
                async with asyncio.timeout(timeouts.idle):  # the body of an error is short
                    return await _read(response, at, _ERROR_BYTES)
            _check_plain(response, at)
            size = 0
            while True:
                try:
                    async with asyncio.timeout(timeouts.idle):
                        part = await response.part()
                except ConnectionBroken as error:
                    detail = f"the body ended after {size} bytes from {at}: {error}"
                    raise HostError(HostErrorKind.CUT_SHORT, detail) from error
                if part is None:
                    return HttpResponse(_OK, b"")
                size += len(part)
                if size > limit:
                    raise Refused(Reason.FETCH_TOO_BIG, f"more than {limit} bytes from {at}")
                file.write(part)
                async with _uncounted(whole):
                    await progress(size)

        try:
            async with whole:
                return await self._follow(url, read, timeouts.first_byte)
        except TimeoutError as error:
            detail = f"the body did not arrive in time from {url}"
            raise HostError(HostErrorKind.SLOW, detail) from error
        except ProxyFailed as error:
            raise HostError(HostErrorKind.AWAY, f"{error} (for {url})") from error
        except ConnectionBroken as error:
            raise _away(url, error) from error

    async def _follow(self, url: str, read: Read, first_byte: float | None = None) -> HttpResponse:
        for _ in range(1 + MAX_REDIRECTS):
            origin, target = self._checked(url)
            async with asyncio.timeout(first_byte):
                headers = ((b"Host", _netloc(origin)), *_HEADERS)
                response = await self._connections.get(origin, target, headers)
            try:
                location = response.header(b"location") if response.status in _REDIRECTS else None
                if location is None:
                    return await read(response, url)
                url = _join(url, location)
            finally:
                response.close()
        raise Refused(Reason.FETCH_FORBIDDEN, f"more than {MAX_REDIRECTS} redirects, to {url}")

    def _checked(self, url: str) -> tuple[Origin, bytes]:
        """Return where a request for ``url`` goes, and its target."""
        plain = _PLAIN.fullmatch(url)
        if plain is None:
            origin, target = _parsed(url)
        else:
            origin, target = _origin(plain[1]), plain[2].encode()
        if origin.scheme not in self._schemes:
            raise Refused(Reason.FETCH_FORBIDDEN, f"scheme is not allowed: {url[:_SHOWN]!r}")
        if len(url) > _MAX_URL:
            raise Refused(Reason.FETCH_FORBIDDEN, f"the URL is too large: {url[:_SHOWN]!r}")
        return origin, target


def _parsed(url: str) -> tuple[Origin, bytes]:
    """Return the origin of ``url``, and the target of a request.  Raises ``Refused``."""
    parsed = _url(url)
    if parsed.scheme not in _PORTS or not parsed.host or parsed.userinfo:
        raise Refused(
            Reason.FETCH_FORBIDDEN,
            f"scheme, host or credentials are not allowed: {url[:_SHOWN]!r}",
        )
    port = parsed.port or _PORTS[parsed.scheme]
    if port > _MAX_PORT:
        raise Refused(Reason.FETCH_FORBIDDEN, f"the port is too large: {url[:_SHOWN]!r}")
    return Origin(parsed.scheme, parsed.raw_host.decode("ascii"), port), parsed.raw_path


@lru_cache(_MAX_CACHED)
def _origin(url: str) -> Origin:
    return _parsed(url)[0]


@lru_cache(_MAX_CACHED)
def _netloc(origin: Origin) -> bytes:
    """Return the value of the header ``Host``."""
    host = f"[{origin.host}]" if ":" in origin.host else origin.host
    return (host if origin.port == _PORTS[origin.scheme] else f"{host}:{origin.port}").encode()


def _url(text: str) -> httpx.URL:
    """Return ``text`` as a URL.  Raises ``Refused``."""
    try:
        parsed = httpx.URL(text)
        _ = parsed.host, parsed.raw_host  # decodes and encodes international names
    except _NO_URL as error:
        raise Refused(Reason.FETCH_FORBIDDEN, f"not a URL: {text[:_SHOWN]!r}") from error
    return parsed


@lru_cache(maxsize=1)
def _tls() -> ssl.SSLContext:
    """Return the context that all clients share: reading the certificates is slow."""
    context = httpx.create_ssl_context(trust_env=False)
    context.set_alpn_protocols(["http/1.1"])
    return context


def host_of(url: str) -> str:
    """Return the host and port of ``url``: the name by which ``Hosts`` counts requests.

    Raises ``Refused(FETCH_FORBIDDEN)`` if it is not a URL: it may come from the network.
    """
    plain = _PLAIN.fullmatch(url)
    return _host_name(url if plain is None else plain[1])


@lru_cache(_MAX_CACHED)
def _host_name(url: str) -> str:
    parsed = _url(url)
    host = parsed.host.rstrip(".")  # the final dot makes no difference
    return f"{host}:{parsed.port}" if parsed.port else host


def _join(url: str, location: str) -> str:
    try:
        target = httpx.URL(location)
        return str(target if target.scheme else httpx.URL(url).join(target))
    except _NO_URL as error:
        raise Refused(Reason.FETCH_FORBIDDEN, "redirect to something that is not a URL") from error


def _away(url: str, error: Exception) -> HostError:
    return HostError(HostErrorKind.AWAY, f"no answer from {url}: {error}")


def _public_or_loopback(address: Address) -> bool:
    return addresses.is_public(address) or addresses.is_loopback(address)


@asynccontextmanager
async def _uncounted(bound: asyncio.Timeout) -> AsyncIterator[None]:
    """Let ``bound`` not go on during the block."""
    end, began = bound.when(), time.monotonic()
    bound.reschedule(None)
    yield
    if end is not None:
        bound.reschedule(end + time.monotonic() - began)


async def _read(response: Response, url: str, limit: int) -> HttpResponse:
    status = response.status
    if status == _TOO_MANY_REQUESTS or status >= _SERVER_ERROR:
        after = parse_retry_after(response.header(b"retry-after"), time.time())
        kind = HostErrorKind.BUSY if status == _TOO_MANY_REQUESTS else HostErrorKind.BROKEN
        raise HostError(kind, f"status {status} from {url}", after, status)
    _check_plain(response, url)
    body = bytearray()
    while (part := await response.part()) is not None:
        body += part
        if len(body) > limit:
            raise Refused(Reason.FETCH_TOO_BIG, f"more than {limit} bytes from {url}")
    return HttpResponse(status, bytes(body))


def _check_plain(response: Response, url: str) -> None:
    if response.header(b"content-encoding") not in {None, "identity"}:
        raise Refused(Reason.FETCH_FORBIDDEN, f"compressed without request: {url}")
