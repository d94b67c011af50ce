"""The pages for those who come from elsewhere name what exists; their programs work."""

from __future__ import annotations

import importlib.util
import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import click
import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumer.cli.main import cli
from consumer.config.settings import Settings

ROOT = Path(__file__).parents[2]
PAGES = sorted((ROOT / "docs" / "coming-from").glob("*.md"))
BESIDE = ROOT / "docs" / "beside-chive.md"
SCHEMA = json.loads((ROOT / "config" / "events.schema.json").read_text())
URI = "at://did:plc:alice/pub.chive.eprint.userTag/3l3qo2vuowo2b"
AT = {"did": "did:plc:alice", "collection": "pub.chive.eprint.userTag", "rkey": "3l3qo2vuowo2b"}
OPERATION = {"action": "delete", "uri": URI, "cid": ""}

DID = "did:plc:ewvi7nxzyoun6zhxrhs64oiz"
WORDS = {"DID": DID, "URI": f"at://{DID}/a.b.c/d", "dids.txt": "-"}  # for what a page leaves open
# What looks like a setting of ours and is a member or an address of others.
OTHERS = {f"identity.{name}" for name in ("did", "handle", "is_active", "seq", "status", "time")}
OTHERS |= {"network.bsky"}

Event = dict[str, Any]


def module(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        name, ROOT / "examples" / "coming-from" / f"{name}.py"
    )
    assert spec is not None
    assert spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


compare, history_first = module("compare"), module("history_first")


def examples(page: Path) -> tuple[Event, Event]:
    """Return the event of the other one, and ours."""
    theirs, ours = (
        json.loads(block)
        for block in re.findall(r"(?ms)^```json\n(\{.*?\})\n```$", page.read_text())
    )
    return theirs, ours


def members(event: Any) -> Iterator[str]:
    """Return the names in an event, without those of the record itself."""
    if isinstance(event, dict) and "$type" not in event:
        for name, value in event.items():
            yield name
            yield from members(value)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_events_side_by_side_say_the_same(page: Path) -> None:
    theirs, ours = examples(page)
    jsonschema.validate(ours, SCHEMA)
    (said,) = compare.fold([json.dumps(theirs)]).items()
    assert said == (ours["uri"], ours["cid"])
    assert said == compare.change(ours)
    table = "\n".join(line for line in page.read_text().splitlines() if line.startswith("| "))
    named = set(re.findall(r"\w+", table))
    assert set(members(theirs)) | set(members(ours)) - {"repo"} <= named


@pytest.mark.parametrize(
    "event",
    [
        {"v": 1, "type": "record", "uri": URI, "cid": None},
        {"id": 1, "type": "record", "record": {**AT, "live": True, "action": "delete"}},
        {"did": AT["did"], "timestamp": "", "operation": OPERATION},
        {"data": {"action_name": "operation#delete", "data": {"operation": OPERATION}}},
        {
            "kind": "commit",
            "did": AT["did"],
            "commit": {"operation": "delete", **AT},
        },
    ],
)
def test_a_delete_in_each_form(event: Event) -> None:
    assert compare.fold([json.dumps(event), ""]) == {URI: None}


@pytest.mark.parametrize(
    "event",
    [
        {"v": 1, "type": "account", "did": AT["did"], "active": True},
        {"id": 2, "type": "identity", "identity": {"did": AT["did"]}},
        {"did": AT["did"], "account": {"active": True}},
        {"kind": "account", "did": AT["did"], "account": {"active": True}},
    ],
)
def test_what_is_of_no_record(event: Event) -> None:
    assert compare.fold([json.dumps(event)]) == {}


def test_a_comparison(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"

    def write(path: Path, state: dict[str, str | None]) -> None:
        lines = [
            json.dumps({"v": 1, "type": "record", "uri": uri, "cid": cid})
            for uri, cid in state.items()
        ]
        path.write_text("\n".join(lines))

    write(ours, {"at://a": "1", "at://b": "2", "at://c": None, "at://old": "9"})
    write(theirs, {"at://a": "1", "at://c": None})
    assert compare.main(str(ours), str(theirs)) == 0
    assert capsys.readouterr().out == "2 the same, 0 differ, 2 in ours alone\n"
    write(theirs, {"at://a": "0", "at://c": None, "at://d": "4"})
    assert compare.main(str(ours), str(theirs)) == 1
    assert capsys.readouterr().out.splitlines() == [
        "at://a: ours 1, theirs 0",
        "at://d: ours None, theirs 4",
        "1 the same, 2 differ, 2 in ours alone",
    ]


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("LHXAP")), max_size=30))
def test_history_first(steps: list[tuple[str, str]]) -> None:
    """Live records wait for the end of history, and nothing else changes what comes of it."""
    order, given_back, read = history_first.HistoryFirst(), [], []
    active = False
    for number, (uri, kind) in enumerate([*steps, ("a", "A")]):
        event: Event = {"did": "did:plc:alice", "type": "record", "uri": uri, "live": kind == "L"}
        event |= {"rev": f"{number:04}", "cid": str(number)}
        if kind in "XA":
            state = "active" if kind == "A" else "desynchronized"
            event = {"did": "did:plc:alice", "type": "sync", "state": state}
            active = kind == "A"
        if kind == "P":
            event = {"type": "progress", "lane": 3, "seq": number}
        read.append(event)
        taken = order.take(event)
        given_back += taken
        assert active or not any(one.get("live") for one in taken)
    assert order.held == {}
    assert _folded(given_back) == _folded(read)
    missing = [one for one in read if one not in given_back]
    assert all(one["live"] for one in missing)


def _folded(events: list[Event]) -> dict[str, str]:
    return {one["uri"]: one["cid"] for one in events if one["type"] == "record"}


@pytest.mark.parametrize("page", [*PAGES, BESIDE], ids=lambda page: page.stem)
def test_the_commands_exist(page: Path) -> None:
    text = page.read_text()
    lines = re.findall(r"`(python -m consumer[^`\n]*)`", text)
    lines += re.findall(r"(?m)^(?:\w+=\S+ )*(python -m consumer .*)$", text)
    assert lines
    for line in lines:
        words = [WORDS.get(word, word) for word in shlex.split(re.split(r" +[#>]", line)[0])[3:]]
        cli.commands[words[0]].make_context(words[0], words[1:], parent=click.Context(cli))


@pytest.mark.parametrize("page", [*PAGES, BESIDE], ids=lambda page: page.stem)
def test_the_settings_exist(page: Path) -> None:
    named = set(re.findall(rf"`({'|'.join(Settings.model_fields)})\.(\w+)", page.read_text()))
    assert named
    for section, key in sorted(named):
        fields = type(getattr(Settings(), section)).model_fields
        assert key in fields or f"{section}.{key}" in OTHERS, f"{section}.{key}"
