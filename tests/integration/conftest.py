"""Fixtures of the tests on Kafka alone: a client, and topics that exist."""

from __future__ import annotations

import pytest

from consumer.kafka.client import Client
from consumer.kafka.provision import ensure
from consumer.kafka.topics import Topics
from tests.support.deployment import Deployment
from tests.support.kafka import client_of, topics_of


@pytest.fixture
async def topics(deployment: Deployment) -> Topics:
    topics = topics_of(deployment)
    await ensure(client_of(deployment), topics)
    return topics


@pytest.fixture
async def client(deployment: Deployment) -> Client:
    return client_of(deployment)
