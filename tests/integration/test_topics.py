"""Topics on a real Kafka."""

from __future__ import annotations

import asyncio

import pytest
from aiokafka.admin import NewTopic

from consumer.errors import Fatal
from consumer.kafka.client import Client
from consumer.kafka.topics import Topic, Topics
from tests.support.deployment import Deployment
from tests.support.kafka import client_of, config_of, configure, topics_of

pytestmark = pytest.mark.services


async def test_the_first_process_creates_them_as_specified(deployment: Deployment) -> None:
    client, topics = client_of(deployment), topics_of(deployment)
    await asyncio.gather(*(topics.ensure(client) for _ in range(3)))
    await topics.ensure(client)
    async with client.admin() as admin:
        described = {t["topic"]: t for t in await admin.describe_topics()}
    for spec in topics.specs():
        assert len(described[spec.name]["partitions"]) == spec.partitions
        assert spec.config.items() <= (await config_of(client, spec.name)).items()


async def test_another_number_of_partitions_is_refused(deployment: Deployment) -> None:
    client, topics = client_of(deployment), topics_of(deployment)
    await topics.ensure(client)
    with pytest.raises(Fatal, match="fixed at creation"):
        await Topics(topics.prefix, topics.partitions + 1).ensure(client)


async def test_another_policy_is_refused(deployment: Deployment) -> None:
    client, topics = client_of(deployment), topics_of(deployment)
    name = topics.name(Topic.CURSOR)
    async with client.admin() as admin:
        await admin.create_topics([NewTopic(name, 1, 1, topic_configs={})])
    with pytest.raises(Fatal, match=r"cleanup\.policy"):
        await topics.ensure(client)


async def test_a_topic_that_takes_only_small_records_is_refused(deployment: Deployment) -> None:
    client, topics = client_of(deployment), topics_of(deployment)
    await topics.ensure(client)
    spec = next(s for s in topics.specs() if s.name == topics.name(Topic.EVENTS))
    await configure(client, spec.name, {**spec.config, "max.message.bytes": "1000000"})
    with pytest.raises(Fatal, match=r"max\.message\.bytes"):
        await topics.ensure(client)


async def test_the_cluster_says_who_it_is(deployment: Deployment) -> None:
    client = client_of(deployment)
    assert await client.cluster_id() == await client.cluster_id() != ""


async def test_without_an_address_there_is_no_client(deployment: Deployment) -> None:
    with pytest.raises(Fatal, match="bootstrap_servers"):
        Client(deployment.kafka(bootstrap_servers=None))
