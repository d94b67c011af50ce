"""Confluent's deserializers read the topics with the ids that a registry gave."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from confluent_kafka.schema_registry import Schema, SchemaRegistryClient
from confluent_kafka.schema_registry.json_schema import JSONDeserializer
from confluent_kafka.serialization import MessageField, SerializationContext

from consumer.config.settings import SchemaRegistrySettings
from consumer.kafka.reader import Record
from consumer.kafka.schema_registry import HEADER, SchemaRegistry
from consumer.kafka.topics import Topic
from simulator.network import Mix, Network
from tests.support import schema_registry
from tests.support.schemas import RELEASED, load
from tests.support.worker import WorkerHarness

pytestmark = [pytest.mark.services, pytest.mark.timeout(300)]


@asynccontextmanager
async def registry_of(kind: str, folder: Path) -> AsyncIterator[str]:
    """Run a registry during the block; give its URL."""
    if kind != "apicurio":
        with schema_registry.scripted(guids=kind == "guids") as registry:
            yield registry.url
        return
    program = schema_registry.installed()
    if program is None:
        pytest.skip("Apicurio Registry is not installed: make schema-registry")
    async with schema_registry.real(program, folder) as url:
        yield url


def register_older(url: str, subject: str) -> None:
    """Let the registry have the schema of an earlier version."""
    schema = json.dumps(load("events", RELEASED / "0.2.0"))
    with SchemaRegistryClient({"url": url}) as client:
        client.register_schema(subject, Schema(schema, "JSON"))


def deserialized(url: str, records: list[Record]) -> list[object]:
    """Return what Confluent's deserializer makes of values; it asks the registry for the schema."""
    with SchemaRegistryClient({"url": url}) as client:
        deserialize = JSONDeserializer(None, schema_registry_client=client)
        return [
            deserialize(
                record.value,
                SerializationContext(record.topic, MessageField.VALUE, list(record.headers)),
            )
            for record in records
        ]


@pytest.mark.parametrize("kind", ["guids", "numbers", "apicurio"])
async def test_a_deserializer_finds_the_schema(
    kind: str, harness: WorkerHarness, tmp_path: Path
) -> None:
    network = Network(4, accounts=4, mix=Mix(sync=0.01, identity=0.05))
    harness.keys = network.keys
    async with registry_of(kind, tmp_path) as url:
        registry = SchemaRegistry(SchemaRegistrySettings(url=url))
        subject = f"{harness.topics.name(Topic.EVENTS)}-value"
        await asyncio.to_thread(register_older, url, subject)
        harness.schemas = await registry.register(harness.topics)
        async with harness.fetching(), harness.working():
            await harness.publish(network.introduce(8))
            await harness.publish(network.frames(80))
            await harness.settled()
        records = await harness.committed(Topic.EVENTS)
        values = [record for record in records if record.value is not None]
        assert len(values) > 80
        assert all(dict(record.headers)[HEADER] for record in values)
        assert all(HEADER not in dict(one.headers) for one in records if one.value is None)
        # A later process gets the same ids.
        assert await registry.register(harness.topics) == harness.schemas
        found = await asyncio.to_thread(deserialized, url, values)
    assert found == [json.loads(record.value or b"") for record in values]
