"""The AsyncAPI document names the topics as they are, and schemas that exist."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from consumer.config.settings import KafkaSettings
from consumer.kafka.topics import Topics
from tests.support import npm
from tests.support.programs import need
from tests.support.schemas import TOPICS

DOCUMENT = Path("docs/asyncapi.json")
ASYNCAPI = json.loads(DOCUMENT.read_text())


def references(node: Any) -> Iterator[str]:
    match node:
        case {"$ref": str(reference)}:
            yield reference
        case dict():
            for each in node.values():
                yield from references(each)
        case list():
            for each in node:
                yield from references(each)


def test_every_reference_leads_somewhere() -> None:
    found = list(references(ASYNCAPI))
    assert {reference.partition("#")[0] for reference in found if reference[0] != "#"} == {
        f"../config/{topic}.schema.json" for topic in TOPICS
    }
    for reference in found:
        name, _, pointer = reference.partition("#")
        path = DOCUMENT.parent / name
        node: Any = json.loads(path.read_text()) if name else ASYNCAPI
        for part in pointer.strip("/").split("/") if pointer else ():
            node = node[part]
        assert isinstance(node, dict)


def test_the_channels_are_the_topics_that_others_read_or_write() -> None:
    specs = {spec.name: spec for spec in Topics.of(KafkaSettings()).specs()}
    channels = ASYNCAPI["channels"]
    assert set(channels) == {topic.value for topic in TOPICS}
    for name, channel in channels.items():
        spec = specs[channel["address"]]
        assert spec.topic == name
        assert channel["bindings"]["kafka"]["partitions"] == spec.partitions
    for operation in ASYNCAPI["operations"].values():
        taken = operation["channel"]["$ref"] == "#/channels/control"
        assert operation["action"] == ("receive" if taken else "send")


@pytest.mark.timeout(300)
async def test_it_is_an_asyncapi_document() -> None:
    need("npm")
    place = await npm.installed(Path("tests/support/asyncapi"))
    schemas = place / "node_modules" / "@asyncapi" / "specs" / "schemas"
    schema = json.loads((schemas / "3.0.0-without-$id.json").read_text())
    validator = jsonschema.Draft7Validator(schema)
    validator.validate(ASYNCAPI)
    assert not validator.is_valid(ASYNCAPI | {"channels": {"events": {"messages": 3}}})
