"""The published schemas of the topics, and what this version writes against them.

Readers get schemas that are open: members that they do not know may come, and the values that
``examples`` lists are those there are so far.  What this version itself writes has none but the
documented: ``closed`` makes the schema of that.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema_rs

from consumer.kafka.reader import Record
from consumer.kafka.topics import Topic

CONFIG = Path(__file__).parents[2] / "config"
RELEASED = CONFIG / "released"
TOPICS = (Topic.EVENTS, Topic.OPERATIONS, Topic.DEAD_LETTER, Topic.CONTROL)
"""Those that others read or write."""

Schema = dict[str, Any]


def load(topic: str, folder: Path = CONFIG) -> Schema:
    """Return the schema of ``topic``, without the prefix."""
    schema: Schema = json.loads((folder / f"{topic}.schema.json").read_text())
    return schema


def closed(node: Any) -> Any:
    """Return a schema that knows what it names and nothing else."""
    if isinstance(node, list):
        return [closed(each) for each in node]
    if not isinstance(node, dict):
        return node
    found = {
        name: {key: closed(each) for key, each in item.items()}
        if name in {"properties", "$defs"}
        else closed(item)
        for name, item in node.items()
    }
    if "examples" in found:
        found["enum"] = found.pop("examples")
    if found.get("type") == "object" and "properties" in found:
        found.setdefault("additionalProperties", False)
    return found


@cache
def written(topic: str) -> jsonschema_rs.Draft202012Validator:
    """Return a validator of what this version writes to ``topic``."""
    return jsonschema_rs.Draft202012Validator(closed(load(topic)), validate_formats=True)


def validate(topic: Topic, records: Iterable[Record]) -> None:
    """Assert that the values of our own records (they have an ``out_seq``) are documented."""
    if topic not in {Topic.EVENTS, Topic.OPERATIONS}:
        return
    for record in records:
        if record.value is not None and any(name == "out_seq" for name, _ in record.headers):
            written(topic).validate(json.loads(record.value))
