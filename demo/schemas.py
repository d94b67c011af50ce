"""The published schemas, and everything that stands on the topics against them.

The fold judges ``chive.events``; ``judged`` reads the other topics that people read or write.
Every value is judged by the schema as a reader has it.
"""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import jsonschema_rs
import orjson

from consumer.kafka.client import Client
from consumer.kafka.reader import PartitionReader, TopicPartition
from consumer.kafka.topics import Topic, Topics

Json = dict[str, Any]

JUDGED = (Topic.OPERATIONS, Topic.DEAD_LETTER, Topic.CONTROL)

_FOLDER = Path(__file__).parents[1] / "config"


@dataclass(frozen=True, slots=True)
class Judgement:
    """How many values each topic held, and what is wrong with them."""

    counts: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)


class KafkaRecord(Protocol):
    """What the schema of dead letters is about."""

    @property
    def partition(self) -> int: ...
    @property
    def key(self) -> bytes | None: ...
    @property
    def value(self) -> bytes | None: ...
    @property
    def headers(self) -> Sequence[tuple[str, bytes]]: ...


def errors_by(topic: str, folder: Path = _FOLDER) -> Callable[[Json], str | None]:
    """Return a function that says what is wrong with a value of ``topic``, None if it fits."""
    schema = orjson.loads((folder / f"{topic}.schema.json").read_bytes())
    validator = jsonschema_rs.Draft202012Validator(schema, validate_formats=True)

    def errors_of(value: Json) -> str | None:
        error = next(iter(validator.iter_errors(value)), None)
        if error is None:
            return None
        return f"{'/'.join(map(str, error.instance_path))} {error.message}".strip()[:300]

    return errors_of


def letter_as_json(record: KafkaRecord) -> Json:
    """Return a dead letter in the form that its schema describes: Kafka has no JSON for records."""
    return {
        "partition": record.partition,
        "key": _base64(record.key),
        "value": _base64(record.value),
        "headers": {name: value.decode(errors="replace") for name, value in record.headers},
    }


def _base64(data: bytes | None) -> str | None:
    return None if data is None else base64.b64encode(data).decode()


async def judged(client: Client, topics: Topics) -> Judgement:
    """Read the topics to their ends, and judge each value; tombstones have none."""
    judgement = Judgement()
    partitions = {spec.name: spec.partitions for spec in topics.specs()}
    for topic in JUDGED:
        name, errors_of = topics.name(topic), errors_by(topic)
        places = [TopicPartition(name, number) for number in range(partitions[name])]
        async with await PartitionReader.open(client, dict.fromkeys(places)) as reader:
            async for page in reader.until_end():
                for record in page:
                    if record.value is None and topic is not Topic.DEAD_LETTER:
                        continue
                    judgement.counts[name] += 1
                    if error := error_of(topic, record, errors_of):
                        place = f"{name}/{record.partition}/{record.offset}"
                        judgement.problems.append(f"{place} not in the schema: {error}")
    return judgement


def error_of(
    topic: Topic, record: KafkaRecord, errors_of: Callable[[Json], str | None]
) -> str | None:
    """Return what is wrong with a record, None if nothing is.

    Other clients write to ``chive.control`` as well while the demo runs.
    """
    if topic is Topic.DEAD_LETTER:
        return errors_of(letter_as_json(record))
    try:
        value = orjson.loads(record.value or b"")
    except orjson.JSONDecodeError as error:
        return f"no JSON: {error}"
    return errors_of(value)
