"""Values are judged by the schemas that are published."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest

from consumer.kafka.topics import Topic
from consumer.kafka.transaction import OutRecord
from demo.schemas import error_of, errors_by, letter_as_json
from tests.unit.test_dead_letters import LETTER, encoded


def test_a_schema_judges(tmp_path: Path) -> None:
    schema = {"type": "object", "required": ["v"], "properties": {"n": {"type": "string"}}}
    (tmp_path / "events.schema.json").write_bytes(orjson.dumps(schema))
    errors_of = errors_by(Topic.EVENTS, tmp_path)
    assert errors_of({"v": 1}) is None
    assert errors_of({}) == '"v" is a required property'
    assert errors_of({"v": 1, "n": 2}) == 'n 2 is not of type "string"'


def test_a_letter_is_judged_as_its_schema_describes_it() -> None:
    errors_of = errors_by(Topic.DEAD_LETTER)
    letter = letter_as_json(encoded(LETTER))
    assert errors_of(letter) is None
    letter["headers"].pop("reason")
    assert errors_of(letter) is not None


def test_dates_are_judged() -> None:
    command = {"type": "forget", "did": "did:plc:x"}
    errors_of = errors_by(Topic.CONTROL)
    assert errors_of(command) is None
    assert errors_of(command | {"requestedAt": "2026-02-31T00:00:00Z"}) is not None


@pytest.mark.parametrize("value", [b"", b"\xff", b"{", b"3"])
def test_what_is_no_json_is_a_problem_and_no_end_of_the_demo(value: bytes) -> None:
    record = OutRecord("control", 0, None, value)
    assert error_of(Topic.CONTROL, record, errors_by(Topic.CONTROL))
