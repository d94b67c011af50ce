"""Fixtures of several modules: a Kafka client, topics that exist, fetchers' surroundings."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from consumer.kafka.client import Client
from consumer.kafka.provision import ensure
from consumer.kafka.topics import Topics
from tests.support.deployment import Deployment
from tests.support.kafka import client_of, topics_of
from tests.support.operating import Stage, staged
from tests.support.worker import WorkerHarness


@pytest.fixture
async def topics(deployment: Deployment) -> Topics:
    topics = topics_of(deployment)
    await ensure(client_of(deployment), topics)
    return topics


@pytest.fixture
async def client(deployment: Deployment) -> Client:
    return client_of(deployment)


@pytest.fixture
async def stage(harness: WorkerHarness, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Stage]:
    """Give controller and worker on real services; the test starts fetchers."""
    async with staged(harness, monkeypatch) as given:
        yield given
