"""``docs/log-events.md`` and the code name the same events, with the same levels and fields."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

from consumer.kafka import provision
from consumer.metrics.labels import Service

ROOT = Path(__file__).parents[2]
TABLE = ROOT / "docs" / "log-events.md"
LEVELS = {"debug", "info", "warning", "error", "exception"}
LOGGERS = {"log", "_log", "self._log", "self.log"}
ROW = re.compile(r"^\| `(\w+)` \| ([a-z, ]+) \| ([^|]*) \| [^|]{10,} \| [^|]{5,} \|$", re.MULTILINE)
# The only events that are made of a name and an ending.
OUTAGES = ROOT / "consumer" / "runtime" / "logs.py"
# Services that a ``Transient`` may name, and those that a process waits for at its start.
NAMED_BY_ERRORS = {
    Service.KAFKA.value,
    Service.POSTGRES.value,
    Service.EMBEDDED.value,
    provision.MISSING,
    Service.PROXY.value,
}


def calls() -> Iterator[tuple[Path, ast.Call]]:
    for package in ("consumer", "procedures"):
        for file in sorted((ROOT / package).rglob("*.py")):
            for node in ast.walk(ast.parse(file.read_text())):
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                    yield file, node


def logged() -> Iterator[tuple[Path, ast.Call, str]]:
    for file, call in calls():
        assert isinstance(call.func, ast.Attribute)
        if call.func.attr in LEVELS and ast.unparse(call.func.value) in LOGGERS:
            yield file, call, call.func.attr


def bound(file: Path, call: ast.Call) -> set[str]:
    """Return the fields that the function of ``call`` has bound to its logger before."""
    assert isinstance(call.func, ast.Attribute)
    logger = ast.unparse(call.func.value)
    return {
        keyword.arg
        for function in ast.walk(ast.parse(file.read_text()))
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        and function.lineno < call.lineno <= (function.end_lineno or 0)
        for node in ast.walk(function)
        if isinstance(node, ast.Assign)
        and [ast.unparse(target) for target in node.targets] == [logger]
        and isinstance(node.value, ast.Call)
        and ast.unparse(node.value.func).endswith(".bind")
        for keyword in node.value.keywords
        if keyword.arg is not None
    }


def in_code() -> dict[str, tuple[set[str], set[str]]]:
    """Return levels and fields of every event."""
    found: defaultdict[str, tuple[set[str], set[str]]] = defaultdict(lambda: (set(), set()))
    for file, call, level in logged():
        (event,) = call.args
        if not (isinstance(event, ast.Constant) and isinstance(event.value, str)):
            continue
        levels, fields = found[event.value]
        levels.add("error" if level == "exception" else level)
        fields |= bound(file, call)
        for keyword in call.keywords:
            assert keyword.arg is not None, f"{file}:{call.lineno}: fields are named"
            fields.add(keyword.arg)
        if level == "exception":
            fields.add("exception")
    return dict(found)


def names(cell: str) -> set[str]:
    return set(re.findall(r"`(\w+)`", cell))


def in_table() -> dict[str, tuple[set[str], set[str]]]:
    return {
        event: (set(levels.split(", ")), names(fields))
        for event, levels, fields in ROW.findall(TABLE.read_text())
    }


def outage_fields(method: str) -> set[str]:
    return {
        keyword.arg
        for _, call in calls()
        if isinstance(call.func, ast.Attribute)
        and call.func.attr == method
        and "outage" in ast.unparse(call.func.value)
        for keyword in call.keywords
        if keyword.arg is not None
    }


def test_events_are_constants_except_those_of_outages() -> None:
    made = [
        (file, call.lineno)
        for file, call, _ in logged()
        if len(call.args) != 1 or not isinstance(call.args[0], ast.Constant)
    ]
    assert [file for file, _ in made] == [OUTAGES, OUTAGES], made


@pytest.mark.parametrize("event", in_code())
def test_names_are_noun_and_verb(event: str) -> None:
    assert re.fullmatch(r"[a-z]+(_[a-z]+)+", event)


def test_the_table_names_what_the_code_logs() -> None:
    code, table = in_code(), in_table()
    table.pop("NAME_unreachable")
    table.pop("NAME_back")
    assert table == code
    text = TABLE.read_text()
    assert all(text.count(f"| `{event}` |") == 1 for event in code)


def test_the_table_names_the_outages() -> None:
    table = in_table()
    assert table["NAME_unreachable"] == (
        {"warning"},
        {"error", "attempts", "away", *outage_fields("again")},
    )
    assert table["NAME_back"] == ({"info"}, {"attempts", "away", *outage_fields("over")})
    given = {
        node.args[1].value
        for file in (ROOT / "consumer").rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == "Outage"
        and isinstance(node.args[1], ast.Constant)
    }
    listed = set(re.findall(r"^\| `(\w+)` \| [^|]+ \|$", TABLE.read_text(), re.MULTILINE))
    assert listed == given | NAMED_BY_ERRORS
