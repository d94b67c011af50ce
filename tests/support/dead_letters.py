"""Dead letters against their published format."""

from __future__ import annotations

from jsonschema import Draft202012Validator

from consumer.kafka.topics import Topic
from demo.schemas import KafkaRecord, letter_as_json
from tests.support.schemas import closed, load

SCHEMA = load(Topic.DEAD_LETTER)
_VALIDATOR = Draft202012Validator(closed(SCHEMA))
# The headers that the format names; all others are the input's own.
NAMED = frozenset(SCHEMA["properties"]["headers"]["properties"])


def validate(record: KafkaRecord) -> None:
    """Assert that ``record`` follows the schema, and names each of its headers once."""
    _VALIDATOR.validate(letter_as_json(record))
    named = [name for name, _ in record.headers if name in NAMED]
    assert len(named) == len(set(named))
