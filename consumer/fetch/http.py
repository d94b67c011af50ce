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
import ssl
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import lru_cache
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import BinaryIO, Self

import httpcore
import httpx

from consumer.config.settings import NetworkSettings
from consumer.errors import Reason, Refused, Transient
from consumer.fetch import addresses
from consumer.fetch.addresses import Address
from consumer.fetch.guard import GuardedBackend, Permit, Resolve, Resolver
from consumer.network.proxy import Proxy, ProxyFailed
from consumer.runtime.closing import Closing
from procedures.retries import parse_retry_after

MAX_REDIRECTS = 3
_MAX_URL = 8192  # characters
_MAX_PORT = 65535
_MAX_CONNECTIONS = 128
_IDLE_CONNECTIONS = 32
_IDLE_SECONDS = 30.0  # of a kept connection
_OK = 200
_ERROR_BYTES = 64 * 1024  # of a body with another status than 200
_TOO_MANY_REQUESTS = 429
_SERVER_ERROR = 500
_HEADERS = {
    "Accept-Encoding": "identity",
    "User-Agent": "chive-firehose (+https://chive.pub)",
}


# Raised by httpx and the modules below it for texts that are not URLs.
_NO_URL = (httpx.InvalidURL, ValueError)
# httpcore does not translate the errors of a TLS record that cannot be read.
_CUT = (httpx.TransportError, ssl.SSLError)
_FAILED = (httpx.HTTPError, ssl.SSLError)

Read = Callable[[httpx.Response], Awaitable["HttpResponse"]]
"""Reads the body of an open response."""


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


class _Transport(httpx.AsyncHTTPTransport):
    """httpx's own transport over guarded connections."""

    def __init__(
        self, tls: ssl.SSLContext, resolve: Resolve, permit: Permit, proxy: Proxy | None
    ) -> None:
        # httpx has no parameter for the network backend; its pool is all that the base class has.
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=tls,
            max_connections=_MAX_CONNECTIONS,
            max_keepalive_connections=_IDLE_CONNECTIONS,
            keepalive_expiry=_IDLE_SECONDS,
            network_backend=GuardedBackend(resolve, permit, proxy),
        )


class HttpClient(Closing):
    """Makes guarded requests; close it after use.  ``resolve`` is for tests."""

    def __init__(
        self, *, allow_loopback: bool, proxy: Proxy | None = None, resolve: Resolve | None = None
    ) -> None:
        self._schemes = {"https", "http"} if allow_loopback else {"https"}
        self._resolver = Resolver()
        resolve = resolve or self._resolver
        tls = _tls()
        permit = _public_or_loopback if allow_loopback else addresses.is_public
        mounts = {"https://": _Transport(tls, resolve, permit, proxy)}
        if allow_loopback:
            # Names of this machine are checked here, even if a proxy resolves the others.
            by_address = None if proxy is None else replace(proxy, resolves=False)
            mounts["http://"] = _Transport(tls, resolve, addresses.is_loopback, by_address)
        self._client = httpx.AsyncClient(
            transport=_Transport(tls, resolve, _none, None),
            mounts=mounts,
            headers=_HEADERS,
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
            trust_env=False,
            timeout=None,  # noqa: S113 - get() bounds the whole
        )

    @classmethod
    def of(cls, settings: NetworkSettings) -> Self:
        """Return the client that ``settings`` describe."""
        return cls(allow_loopback=settings.allow_loopback, proxy=Proxy.of(settings))

    async def close(self) -> None:
        """Close every connection."""
        await self._client.aclose()
        self._resolver.close()

    async def get(self, url: str, *, limit: int, seconds: float) -> HttpResponse:
        """Return the response, with a body of at most ``limit`` bytes, within ``seconds``.

        Raises ``Refused`` or ``HostError``.
        """
        try:
            async with asyncio.timeout(seconds):
                return await self._follow(url, lambda response: _read(response, limit))
        except TimeoutError as error:
            detail = f"no complete response in {seconds:g} s from {url}"
            raise HostError(HostErrorKind.SLOW, detail) from error
        except ProxyFailed as error:
            raise HostError(HostErrorKind.AWAY, f"{error} (for {url})") from error
        except _FAILED as error:
            raise _away(url, error) from error

    async def download(
        self,
        url: str,
        file: BinaryIO,
        *,
        limit: int,
        timeouts: Timeouts,
        progress: Callable[[int], None],
    ) -> HttpResponse:
        """Write the body of a response with status 200 to ``file``, and return the response.

        That response then has no body.  ``limit`` is in bytes; ``progress`` is called with the
        bytes so far.  Raises ``Refused`` or ``HostError``.
        """

        async def read(response: httpx.Response) -> HttpResponse:
            if response.status_code != _OK:
                async with asyncio.timeout(timeouts.idle):  # the body of an error is short
                    return await _read(response, _ERROR_BYTES)
            _check_plain(response)
            size = 0
            parts = response.aiter_raw().__aiter__()
            while True:
                try:
                    async with asyncio.timeout(timeouts.idle):
                        part = await anext(parts, None)
                except _CUT as error:
                    detail = f"the body ended after {size} bytes from {url}: {error}"
                    raise HostError(HostErrorKind.CUT_SHORT, detail) from error
                if part is None:
                    return HttpResponse(_OK, b"")
                size += len(part)
                if size > limit:
                    raise Refused(Reason.FETCH_TOO_BIG, f"more than {limit} bytes from {url}")
                file.write(part)
                progress(size)

        try:
            async with asyncio.timeout(timeouts.total):
                return await self._follow(url, read, timeouts.first_byte)
        except TimeoutError as error:
            detail = f"the body did not arrive in time from {url}"
            raise HostError(HostErrorKind.SLOW, detail) from error
        except ProxyFailed as error:
            raise HostError(HostErrorKind.AWAY, f"{error} (for {url})") from error
        except _FAILED as error:
            raise _away(url, error) from error

    async def _follow(self, url: str, read: Read, first_byte: float | None = None) -> HttpResponse:
        for _ in range(1 + MAX_REDIRECTS):
            async with asyncio.timeout(first_byte):
                response = await self._sent(self._checked(url))
            try:
                if not response.has_redirect_location:
                    return await read(response)
                url = _join(response)
            finally:
                await response.aclose()
        raise Refused(Reason.FETCH_FORBIDDEN, f"more than {MAX_REDIRECTS} redirects, to {url}")

    async def _sent(self, url: httpx.URL) -> httpx.Response:
        """Return the response, whose body is not read yet."""
        try:
            request = self._client.build_request("GET", url)
            return await self._client.send(request, stream=True)
        except _NO_URL as error:
            # httpx builds the next request of a redirect before its URL can be checked.
            raise Refused(
                Reason.FETCH_FORBIDDEN, f"not a URL, or a redirect to none: {str(url)[:100]!r}"
            ) from error

    def _checked(self, url: str) -> httpx.URL:
        try:
            parsed = httpx.URL(url)
            _ = parsed.host  # decodes international names
        except _NO_URL as error:
            raise Refused(Reason.FETCH_FORBIDDEN, f"not a URL: {url[:100]!r}") from error
        if parsed.scheme not in self._schemes or not parsed.host or parsed.userinfo:
            raise Refused(
                Reason.FETCH_FORBIDDEN,
                f"scheme, host or credentials are not allowed: {url[:100]!r}",
            )
        if len(url) > _MAX_URL or (parsed.port or 0) > _MAX_PORT:
            raise Refused(
                Reason.FETCH_FORBIDDEN, f"the URL or its port is too large: {url[:100]!r}"
            )
        return parsed


@lru_cache(maxsize=1)
def _tls() -> ssl.SSLContext:
    """Return the context that all clients share: reading the certificates is slow."""
    return httpx.create_ssl_context(trust_env=False)


def host_of(url: str) -> str:
    """Return the host and port of ``url``: the name by which ``Hosts`` counts requests.

    Raises ``Refused(FETCH_FORBIDDEN)`` if it is not a URL: it may come from the network.
    """
    try:
        parsed = httpx.URL(url)
        _ = parsed.host  # decodes international names
    except _NO_URL as error:
        raise Refused(Reason.FETCH_FORBIDDEN, f"not a URL: {url[:100]!r}") from error
    host = parsed.host.rstrip(".")  # the final dot makes no difference
    return f"{host}:{parsed.port}" if parsed.port else host


def _join(response: httpx.Response) -> str:
    try:
        return str(response.url.join(response.headers["location"]))
    except _NO_URL as error:
        raise Refused(Reason.FETCH_FORBIDDEN, "redirect to something that is not a URL") from error


def _away(url: str, error: Exception) -> HostError:
    return HostError(HostErrorKind.AWAY, f"{type(error).__name__} from {url}: {error}")


def _none(_address: Address) -> bool:
    return False


def _public_or_loopback(address: Address) -> bool:
    return addresses.is_public(address) or addresses.is_loopback(address)


async def _read(response: httpx.Response, limit: int) -> HttpResponse:
    status = response.status_code
    if status == _TOO_MANY_REQUESTS or status >= _SERVER_ERROR:
        after = parse_retry_after(response.headers.get("retry-after"), time.time())
        kind = HostErrorKind.BUSY if status == _TOO_MANY_REQUESTS else HostErrorKind.BROKEN
        raise HostError(kind, f"status {status} from {response.url}", after, status)
    _check_plain(response)
    body = bytearray()
    async for part in response.aiter_raw():
        body += part
        if len(body) > limit:
            raise Refused(Reason.FETCH_TOO_BIG, f"more than {limit} bytes from {response.url}")
    return HttpResponse(status, bytes(body))


def _check_plain(response: httpx.Response) -> None:
    if response.headers.get("content-encoding", "identity") != "identity":
        raise Refused(Reason.FETCH_FORBIDDEN, f"compressed without request: {response.url}")
