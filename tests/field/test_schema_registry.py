"""A schema registry that is away when the consumer starts, and away again afterwards."""

from __future__ import annotations

import asyncio

import orjson
import pytest

from consumer.config.settings import SchemaRegistrySettings
from consumer.kafka.schema_registry import HEADER
from consumer.kafka.topics import Topic
from tests.field.product import Product
from tests.support.eventually import eventually
from tests.support.schema_registry import scripted

pytestmark = [pytest.mark.services, pytest.mark.timeout(300)]


async def test_a_registry_that_is_away_is_waited_for_at_the_start_alone(fresh: Product) -> None:
    with scripted() as registry:
        registry.failures = [(503, b"{}")] * 3
        fresh.changed["schema_registry"] = SchemaRegistrySettings(url=registry.url)
        connected = len(fresh.network.relay.cursors)
        start = asyncio.create_task(fresh.start())
        await eventually(lambda: len(registry.requests) > 1, what="the registry is asked again")
        assert len(fresh.network.relay.cursors) == connected, "nothing runs without its schemas"
        await start
    try:  # the registry is gone by now
        _, repo = await fresh.network.account("alice")
        await fresh.done(type="didSync", did=repo.account.did)
        await fresh.agrees(repo)
    finally:
        await fresh.stop()
    for topic in (Topic.EVENTS, Topic.OPERATIONS):
        for record in await fresh.committed(topic):
            named = [value for key, value in record.headers if key == HEADER]
            assert len(named) == (record.value is not None), orjson.loads(record.value or b"{}")
