"""One running consumer for the tests of a file; each has accounts and hosts of its own."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from consumer.config.settings import Settings
from consumer.fetch.discovery import feeder, planner, reader, role, sources
from consumer.runtime import lifecycle
from consumer.state.discovery import SearchRules
from tests.field.network import Network
from tests.field.product import Product
from tests.support.deployment import Deployment, deployed
from tests.support.services import Services


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep the tests of a file that share a consumer in one process."""
    for item in items:
        if "product" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.xdist_group(item.path.stem))


@pytest.fixture(scope="module", autouse=True)
def lasting() -> Iterator[None]:
    """Let a consumer whose root dies leave the process of the tests alive."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lifecycle, "_end_in_any_case", lambda _code: None)
        yield


@pytest.fixture(scope="module", autouse=True)
def impatient() -> Iterator[None]:
    """Shorten those waits of discovery that no setting names."""
    usual = sources.search_rules

    def rules(settings: Settings) -> SearchRules:
        return replace(usual(settings), refused_for=0.5, down_after=2.0)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(role, "search_rules", rules)
        patch.setattr(reader, "_POLL_SECONDS", 0.1)
        patch.setattr(feeder, "_FEED_SECONDS", 0.1)
        patch.setattr(planner, "_FIRST_EPOCH_SECONDS", 0.0)
        yield


@pytest.fixture
async def network() -> AsyncIterator[Network]:
    """Give the test a network of its own."""
    async with Network.opened() as network:
        yield network


@pytest.fixture
async def fresh(deployment: Deployment, network: Network) -> AsyncIterator[Product]:
    """Give the test a consumer of its own; it does not run yet."""
    async with Product.opened(deployment, network=network) as product:
        yield product
        await product.stop()


@pytest.fixture(scope="module")
async def product(services: Services) -> AsyncIterator[Product]:
    """Run a consumer for all tests of the file."""
    with tempfile.TemporaryDirectory(prefix="chive-field-") as directory:
        async with (
            deployed(services, Path(directory)) as deployment,
            Network.opened() as network,
            Product.opened(deployment, network=network) as product,
            product.running(),
        ):
            yield product
