"""The schemas keep what those of every release promised (``docs/schemas.md``)."""

from __future__ import annotations

import tomllib
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from consumer.kafka.topics import Topic
from tests.support.compatibility import Side, breaches
from tests.support.schemas import RELEASED, load

RELEASES = sorted(path.name for path in RELEASED.iterdir())
SIDES = dict.fromkeys(Topic, Side.READERS) | {Topic.CONTROL: Side.WRITERS}

# Lists of 0.2.0 that had grown with every version before it: they are open since.
OPENED = {
    "#/$defs/source: enum changes",
    "#/$defs/inputReason: enum changes",
    "#/$defs/commandReason: enum changes",
}

OBJECT: dict[str, Any] = {
    "oneOf": [{"$ref": "#/$defs/thing"}],
    "$defs": {
        "thing": {
            "type": "object",
            "properties": {
                "must": {"type": ["string", "null"], "pattern": "^a"},
                "may": {"type": "integer"},
                "closed": {"type": "string", "enum": ["a", "b"]},
                "open": {"type": "string", "examples": ["a", "b"]},
            },
            "required": ["must"],
        },
    },
}


def topics_of(release: str) -> list[Topic]:
    return [topic for topic in Topic if (RELEASED / release / f"{topic}.schema.json").exists()]


@pytest.mark.parametrize("release", RELEASES)
def test_what_a_release_promised_holds(release: str) -> None:
    topics = topics_of(release)
    assert {Topic.EVENTS, Topic.CONTROL, Topic.DEAD_LETTER} <= set(topics)
    for topic in topics:
        found = breaches(load(topic, RELEASED / release), load(topic), SIDES[topic])
        assert set(found) <= (OPENED if release == "0.2.0" else set())


def test_the_schemas_of_the_release_are_kept() -> None:
    project = tomllib.loads(Path("pyproject.toml").read_text())["project"]
    assert project["version"] in RELEASES


def changed(change: dict[str, Any]) -> dict[str, Any]:
    """Return the schema with members of ``thing`` changed; None takes one away."""
    schema = deepcopy(OBJECT)
    thing = schema["$defs"]["thing"]
    for name, member in change.items():
        target = thing if name in {"required", "additionalProperties"} else thing["properties"]
        if member is None:
            del target[name]
        else:
            target[name] = member
    return schema


@pytest.mark.parametrize(
    ("change", "readers", "writers"),
    [
        ({}, True, True),
        ({"new": {"type": "string"}}, True, True),
        ({"may": None}, False, False),
        ({"required": []}, False, True),
        ({"required": ["must", "may"]}, True, False),
        ({"may": {"type": ["integer", "string"]}}, False, True),
        ({"may": {"type": "string"}}, False, False),
        ({"must": {"type": "string", "pattern": "^a"}}, True, False),
        ({"must": {"type": ["string", "null"], "pattern": "^b"}}, False, False),
        ({"must": {"type": ["string", "null"]}}, False, True),
        ({"may": {"type": "integer", "minimum": 3}}, True, False),
        ({"closed": {"type": "string", "enum": ["a"]}}, True, False),
        ({"closed": {"type": "string", "enum": ["a", "b", "c"]}}, False, True),
        ({"closed": {"type": "string"}}, False, True),
        ({"open": {"type": "string", "examples": ["a", "b", "c"]}}, True, True),
        ({"open": {"type": "string", "examples": ["a"]}}, False, False),
        ({"open": {"$ref": "#/$defs/other"}}, False, False),
        ({"additionalProperties": False}, True, False),
    ],
)
def test_the_rules(change: dict[str, Any], *, readers: bool, writers: bool) -> None:
    new = changed(change)
    assert (not breaches(OBJECT, new, Side.READERS)) is readers
    assert (not breaches(OBJECT, new, Side.WRITERS)) is writers


def test_kinds_come_and_do_not_go() -> None:
    more = changed({})
    more["$defs"]["other"] = {}
    more["oneOf"].append({"$ref": "#/$defs/other"})
    for side in Side:
        assert not breaches(OBJECT, more, side)
        assert breaches(more, OBJECT, side)


def test_a_reader_of_today_reads_tomorrow() -> None:
    strict = changed({"additionalProperties": False})
    assert not breaches(strict, OBJECT, Side.READERS)
    assert breaches(OBJECT, changed({"must": None}), Side.READERS)
