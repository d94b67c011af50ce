"""Brokers that go and stand still, of three with three replicas and alone: nothing is lost."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import psutil
import pytest

from consumer.embedded.kafka import EmbeddedKafka
from consumer.errors import Transient
from simulator.repo import Repo
from tests.field.network import Network
from tests.field.product import Product
from tests.support.cluster import BROKERS, Cluster
from tests.support.deployment import Deployment

pytestmark = [pytest.mark.services, pytest.mark.timeout(900)]

FROZEN = 15.0  # seconds: longer than the brokers wait for one another


@pytest.fixture
async def product(replicated: Deployment, network: Network) -> AsyncIterator[Product]:
    async with Product.opened(replicated, network=network) as product, product.running():
        yield product


@asynccontextmanager
async def traffic(product: Product, repos: list[Repo]) -> AsyncIterator[None]:
    """Let the accounts write during the block."""

    async def write() -> None:
        while True:
            for repo in repos:
                await product.network.commit(repo)
            await asyncio.sleep(0.1)

    task = asyncio.create_task(write())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def accounts(product: Product) -> list[Repo]:
    repos = [(await product.network.account(f"replicated {n}"))[1] for n in range(8)]
    for repo in repos:
        await product.network.commit(repo)
    await product.agrees(*repos)
    return repos


async def test_brokers_that_are_killed_frozen_and_restarted(
    product: Product, cluster: Cluster
) -> None:
    repos = await accounts(product)
    async with traffic(product, repos):
        cluster.signal(0, signal.SIGKILL)
        await one_more(product, repos)
        await cluster.restart(0)
        await one_more(product, repos)

        cluster.signal(1, signal.SIGSTOP)
        await asyncio.sleep(FROZEN)
        await one_more(product, repos)
        cluster.signal(1, signal.SIGCONT)
        await one_more(product, repos)

        for number in range(BROKERS):  # a rolling restart: leaders and coordinators move
            await cluster.restart(number)
            await one_more(product, repos)
    await product.agrees(*repos)


async def test_the_only_broker_stands_still_and_is_fenced_when_it_goes_on(
    deployment: Deployment, network: Network, own_kafka: EmbeddedKafka
) -> None:
    alone = replace(deployment, bootstrap_servers=own_kafka.bootstrap_servers)
    broker = psutil.Process(own_kafka.server.pid)
    async with Product.opened(alone, network=network) as product, product.running():
        repos = await accounts(product)
        async with traffic(product, repos):
            for _ in range(2):
                broker.suspend()
                try:
                    await asyncio.sleep(FROZEN)
                    assert broker.status() == psutil.STATUS_STOPPED
                finally:
                    broker.resume()
                await one_more(product, repos)
        await product.agrees(*repos)


async def one_more(product: Product, repos: list[Repo]) -> None:
    """Wait until an event tells of a record that does not exist yet now."""
    repo = repos[0]
    before = set(repo.records)

    async def told() -> bool:
        try:
            events = await product.events(repo.account.did)
        except Transient:
            return False  # our own reader meets the same trouble
        records = {f"{each['collection']}/{each['rkey']}" for each in events if "rkey" in each}
        return not records <= before

    await product.eventually(told, what="an event of what is written now", deadline=180)
