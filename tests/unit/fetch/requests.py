"""How the tests of this package make requests."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from io import BytesIO
from ipaddress import ip_address
from typing import BinaryIO

import pytest

from consumer.errors import Reason, Refused
from consumer.fetch.addresses import Address
from consumer.fetch.guard import Resolve
from consumer.fetch.http import HostError, HttpClient, HttpResponse, Timeouts

LIMIT = 1000


async def refusal(http: HttpClient, url: str) -> Reason:
    with pytest.raises(Refused) as caught:
        await http.get(url, limit=LIMIT, seconds=5)
    return caught.value.reason


async def host_error(http: HttpClient, url: str, seconds: float = 5) -> HostError:
    with pytest.raises(HostError) as caught:
        await http.get(url, limit=LIMIT, seconds=seconds)
    return caught.value


async def fetch(http: HttpClient, url: str) -> HttpResponse:
    return await http.get(url, limit=LIMIT, seconds=5)


SOME = Timeouts(first_byte=5.0, idle=5.0, total=20.0)


async def nothing(_size: int) -> None:
    pass


def noting(sizes: list[int]) -> Callable[[int], Awaitable[None]]:
    """Return what notes the sizes of a download."""

    async def note(size: int) -> None:
        sizes.append(size)

    return note


async def download(
    http: HttpClient, url: str, file: BinaryIO | None = None, timeouts: Timeouts = SOME
) -> HttpResponse:
    return await http.download(
        url, file or BytesIO(), limit=LIMIT, timeouts=timeouts, progress=nothing
    )


def resolving(*texts: str) -> Resolve:
    """Return a resolver that gives every name the addresses ``texts``."""

    async def resolve(_host: str, _port: int) -> Sequence[Address]:
        return [ip_address(text) for text in texts]

    return resolve


CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
CHUNK = b"100\r\n" + b"x" * 256 + b"\r\n"
HEAD = b"HTTP/1.1 200 OK\r\n"
