"""The reference PDS and PLC directory, started once for the run, with people who write."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from consumer.embedded.jars import cache_home
from demo.local_network import LocalNetwork, installed


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what needs the PDS; its installation may take minutes the first time."""
    for item in items:
        if "pds_network" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.network)
            item.add_marker(pytest.mark.timeout(1800))


@pytest.fixture(scope="session")
async def pds_network(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[LocalNetwork]:
    """Start the reference network; skipped, with the reason, where Node is missing."""
    if shutil.which("npm") is None:
        pytest.skip("Node with npm is not installed: no reference PDS")
    packages = await installed(cache_home(), print)
    work: Path = tmp_path_factory.mktemp("network")
    async with LocalNetwork(packages, work) as network:
        yield network
