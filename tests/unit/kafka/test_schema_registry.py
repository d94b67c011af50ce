"""Registering the schemas: what is sent, and what each answer means."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any
from uuid import UUID

import pytest
from pydantic import SecretStr

from consumer.config.settings import SchemaRegistrySettings
from consumer.errors import Fatal, Transient
from consumer.kafka.schema_registry import HEADER, SchemaRegistry
from consumer.kafka.topics import Topic, Topics
from tests.support.schema_registry import Registry, scripted
from tests.support.schemas import load

TOPICS = Topics("test.", 1)
PASSWORD = SecretStr("hidden")
BASIC = "Basic Y2hpdmU6c2VjcmV0"  # chive:secret


@pytest.fixture
def registry() -> Iterator[Registry]:
    with scripted() as registry:
        yield registry


def at(registry: Registry, **settings: Any) -> SchemaRegistry:
    return SchemaRegistry(SchemaRegistrySettings(url=registry.url, **settings))


async def test_the_schemas_are_registered_as_they_are(registry: Registry) -> None:
    found = await at(registry).register(TOPICS)
    assert set(registry.subjects) == {"test.events-value", "test.operations-value"}
    for topic in (Topic.EVENTS, Topic.OPERATIONS):
        assert json.loads(registry.subjects[f"test.{topic}-value"]) == load(topic)
        name, value = found[topic]
        assert (name, value[:1], len(value)) == (HEADER, b"\x01", 17)
        assert UUID(bytes=value[1:]).version == 5
    assert not registry.compatibility
    assert await at(registry).register(TOPICS) == found


async def test_the_rules_of_the_registry_are_not_ours(registry: Registry) -> None:
    """It refuses what it takes for a breach: its check is turned off for our subject alone."""
    registry.subjects["test.events-value"] = "{}"
    assert await at(registry).register(TOPICS)
    assert registry.compatibility == {"test.events-value": "NONE"}
    assert json.loads(registry.subjects["test.events-value"]) == load(Topic.EVENTS)


async def test_a_registry_without_guids_names_schemas_by_number() -> None:
    with scripted(guids=False) as registry:
        found = await at(registry).register(TOPICS)
    assert found == {
        Topic.EVENTS: (HEADER, b"\0\0\0\0\1"),
        Topic.OPERATIONS: (HEADER, b"\0\0\0\0\2"),
    }


async def test_without_a_registry_there_are_no_headers() -> None:
    assert await SchemaRegistry(SchemaRegistrySettings()).register(TOPICS) == {}


async def test_a_password_is_shown(registry: Registry, tmp_path: Any) -> None:
    file = tmp_path / "password"
    file.write_text("secret\n")
    await at(registry, username="chive", password_file=file).register(TOPICS)
    assert {shown for _, _, shown in registry.requests} == {BASIC}


@pytest.mark.parametrize("status", [408, 429, 500, 503])
async def test_trouble_is_waited_out(registry: Registry, status: int) -> None:
    registry.failures.append((status, b"busy"))
    with pytest.raises(Transient, match=f"answers {status}: 'busy'"):
        await at(registry).register(TOPICS)
    assert await at(registry).register(TOPICS)


async def test_nobody_there_is_waited_out() -> None:
    with scripted() as registry:
        pass
    with pytest.raises(Transient, match=registry.url):
        await at(registry).register(TOPICS)


@pytest.mark.parametrize("status", [401, 403])
async def test_a_refused_password_names_its_setting(registry: Registry, status: int) -> None:
    registry.failures.append((status, b""))
    with pytest.raises(Transient, match=r"schema_registry\.username or schema_registry\.password"):
        await at(registry, username="chive", password=PASSWORD).register(TOPICS)


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (404, b"nothing", "the schema registry refuses"),
        (422, b"{}", "the schema registry refuses"),
        (200, b"<html>", "no schema registry"),
    ],
)
async def test_what_is_no_registry_is_fatal(
    registry: Registry, status: int, body: bytes, said: str
) -> None:
    registry.failures.append((status, body))
    with pytest.raises(Fatal, match=said):
        await at(registry).register(TOPICS)


@pytest.mark.parametrize("body", [b"[]", b'{"guid": "none"}', b'{"id": -1}', b'{"id": 4294967296}'])
async def test_an_answer_without_an_id_is_fatal(registry: Registry, body: bytes) -> None:
    registry.failures.append((200, body))
    with pytest.raises(Fatal, match="gives no id"):
        await at(registry).register(TOPICS)


async def test_what_is_not_registered_yet_is_asked_without_registering(registry: Registry) -> None:
    subjects = ["test.events-value", "test.operations-value"]
    assert await at(registry).unregistered(TOPICS) == subjects
    assert not registry.subjects
    await at(registry).register(TOPICS)
    assert await at(registry).unregistered(TOPICS) == []


async def test_what_lists_no_subjects_is_no_registry(registry: Registry) -> None:
    registry.failures.append((200, b"{}"))
    with pytest.raises(Fatal, match="lists no subjects"):
        await at(registry).unregistered(TOPICS)


async def test_a_url_that_cannot_be_asked_is_fatal() -> None:
    settings = SchemaRegistrySettings(url="http://xn--a")
    with pytest.raises(Fatal, match=r"correct schema_registry\.url"):
        await SchemaRegistry(settings).register(TOPICS)
