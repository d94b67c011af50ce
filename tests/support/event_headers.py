"""The headers of ``chive.events``, against its values and the published schema."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from jsonschema import Draft202012Validator

from consumer.kafka.reader import Record
from consumer.kafka.topics import Topic
from tests.support.schemas import load

_SCHEMA = load(Topic.EVENTS)
_VALIDATOR = Draft202012Validator({"$ref": "#/$defs/headers", "$defs": _SCHEMA["$defs"]})
_REPEATED = ("type", "collection", "action", "live", "source", "did", "rev")


def expected(value: bytes) -> dict[str, str]:
    """Return what the headers of an event repeat of its value, as text."""
    event = json.loads(value)
    found = {name: event[name] for name in _REPEATED if event.get(name) is not None}
    return {
        name: item if isinstance(item, str) else json.dumps(item) for name, item in found.items()
    }


def read(headers: Sequence[tuple[str, bytes]]) -> dict[str, str]:
    """Return headers as an object; each name occurs once."""
    found = {name: value.decode() for name, value in headers}
    assert len(found) == len(headers)
    return found


def validate(records: Iterable[Record]) -> None:
    """Assert that each record has the headers of its event, a tombstone those of its delete.

    ``records`` are those of whole partitions, each in order.
    """
    deletes: dict[bytes | None, dict[str, str]] = {}
    for record in records:
        found: dict[str, Any] = read(record.headers)
        _VALIDATOR.validate(found)
        lane, out_seq = int(found.pop("lane")), int(found.pop("out_seq"))
        assert lane == record.partition
        assert out_seq > 0
        if record.value is None:
            assert found == deletes.pop(record.key)
        else:
            assert found == expected(record.value)
            if found.get("action") == "delete":
                deletes[record.key] = found
