"""Types that are generated from the schemas compile, and read what is written and what may come."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from procedures import operations
from procedures.failures import Failure
from procedures.operations import Children, Status, Type
from tests.support import types
from tests.unit.events.test_envelope import CREATE, EVENTS, decoded

pytestmark = pytest.mark.timeout(300)

LANGUAGES: dict[str, types.Read] = {
    "go": types.read_with_go,
    "java": types.read_with_java,
    "typescript": types.read_with_typescript,
}

QUEUED = operations.queued("a", Type.DID_SYNC, "did:plc:x", 1_000.0)
OPERATIONS = [
    QUEUED,
    replace(QUEUED, status=Status.FAILED, attempts=3, failure=Failure.HOST_TIMEOUT, error="slow"),
    operations.queued("b", Type.BULK_SYNC, None, 1_000.0),
    replace(
        operations.queued("c", Type.RECONCILE, None, 1_000.0),
        children=Children(expected=3, chosen=3, completed=2, failed={"HostTimeout": 1}, in_step=1),
    ),
]
# What a later version may write: an unknown member, value and type.
LATER = [
    decoded(CREATE) | {"later": {"a": [1]}, "source": "elsewhere"},
    decoded(CREATE) | {"type": "later"},
]


def shown(event: dict[str, Any]) -> str:
    """Return what the programs print of an event."""
    names = {
        "record": ("uri", "action", "cid", "source"),
        "account": ("did", "active", "status"),
        "identity": ("did", "handle"),
        "sync": ("did", "state", "reason"),
        "progress": ("lane", "seq"),
    }.get(event["type"])
    if names is None:
        return "unknown"
    values = [event[name] for name in names]
    texts = ["-" if value is None else str(value).replace("True", "true") for value in values]
    return " ".join([event["type"], *texts]).replace("False", "false")


def shown_operation(operation: dict[str, Any]) -> str:
    done = operation.get("children", {}).get("done", "-")
    return f"operation {operation['id']} {operation['type']} {operation['status']} {done}"


def lines(path: Path, values: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(value) + "\n" for value in values))
    return path


@pytest.mark.parametrize("language", LANGUAGES)
async def test_generated_types_read(language: str, tmp_path: Path) -> None:
    events = [*map(decoded, EVENTS), *LATER]
    asked = [*map(operations.to_json, OPERATIONS), operations.to_json(QUEUED) | {"type": "later"}]
    folder = tmp_path / language
    folder.mkdir()
    found = await LANGUAGES[language](
        folder, lines(tmp_path / "events", events), lines(tmp_path / "operations", asked)
    )
    assert found == [*map(shown, events), *map(shown_operation, asked)]
