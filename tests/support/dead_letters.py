"""Dead letters against their published format."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from jsonschema import Draft202012Validator

SCHEMA = json.loads((Path(__file__).parents[2] / "config/dead-letter.schema.json").read_text())
_VALIDATOR = Draft202012Validator(SCHEMA)
# The headers that the format names; all others are the input's own.
NAMED = frozenset(SCHEMA["properties"]["headers"]["properties"])


class DeadLetterRecord(Protocol):
    """What Kafka has of a dead letter, or is about to get."""

    @property
    def partition(self) -> int: ...
    @property
    def key(self) -> bytes | None: ...
    @property
    def value(self) -> bytes | None: ...
    @property
    def headers(self) -> Sequence[tuple[str, bytes]]: ...


def validate(record: DeadLetterRecord) -> None:
    """Assert that ``record`` follows the schema, and names each of its headers once."""
    _VALIDATOR.validate(_as_json(record))
    named = [name for name, _ in record.headers if name in NAMED]
    assert len(named) == len(set(named))


def _as_json(record: DeadLetterRecord) -> dict[str, Any]:
    return {
        "partition": record.partition,
        "key": _base64(record.key),
        "value": _base64(record.value),
        "headers": {name: value.decode(errors="replace") for name, value in record.headers},
    }


def _base64(data: bytes | None) -> str | None:
    return None if data is None else base64.b64encode(data).decode()
