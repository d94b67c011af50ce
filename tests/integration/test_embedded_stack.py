"""One data directory, one stack: its first user runs it, others attach and learn of its end."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

import psycopg
import pytest

from consumer.embedded import EmbeddedStack, running
from consumer.errors import Fatal

pytestmark = pytest.mark.services


async def test_the_second_attaches_and_both_learn_of_the_end(server_directory: Path) -> None:
    directory = Path(tempfile.mkdtemp(prefix="stack-", dir=server_directory))
    assert running(directory) is None
    async with EmbeddedStack(directory) as first:
        assert not first.attached
        second = EmbeddedStack(directory)
        async with second:
            assert second.attached
            assert second.bootstrap_servers == first.bootstrap_servers
            async with await psycopg.AsyncConnection.connect(second.dsn) as connection:
                await connection.execute("SELECT 1")
        found = running(directory)
        assert found is not None
        assert found.dsn == first.dsn
        learnt = asyncio.create_task(second.ended())
        first.kafka.server.kill()
        async with asyncio.timeout(10):
            assert "kafka ended with status -9" in str(await first.ended())
    assert running(directory) is None
    async with asyncio.timeout(10):
        assert isinstance(await learnt, Fatal)
