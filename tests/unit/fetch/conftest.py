"""A site on loopback, and clients that may and may not reach it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from consumer.fetch.http import HttpClient
from tests.support.web import Web, web


@pytest.fixture
async def site() -> AsyncIterator[Web]:
    async with web() as running:
        yield running


@pytest.fixture
async def http() -> AsyncIterator[HttpClient]:
    """Give the client of a development machine."""
    async with HttpClient(allow_loopback=True) as client:
        yield client
