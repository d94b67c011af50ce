"""The tables of a test's own deployment."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from consumer.store.database import Database
from tests.support.deployment import Deployment


@pytest.fixture
async def database(deployment: Deployment) -> AsyncIterator[Database]:
    """Open fresh tables."""
    database = Database(deployment.postgres(pool_size=6), deployment.prefix)
    await database.open()
    yield database
    await database.close()
