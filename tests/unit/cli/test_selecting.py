"""Which repositories the command line asks for, and what it says of them in the end."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from consumer.cli.following import exit_code, outcome
from consumer.cli.selecting import lists_of, selecting
from procedures import messages, transitions
from procedures.failures import Failure
from procedures.messages import BulkSync
from procedures.operations import Children, Operation, Type, queued
from procedures.selections import By, Selection

DID, OTHER = "did:plc:" + "a" * 24, "did:web:b.example"
Asked = tuple[str | None, list[Selection]]


def asked(*arguments: str, text: str = "") -> Asked | str:
    """Return what a command is given, or what is said against its arguments."""
    found: list[Asked] = []

    def without_settings(command: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(command)
        def called(**options: Any) -> None:
            command(None, **options)

        return called

    @click.command()
    @without_settings
    @selecting
    def command(_settings: None, *, did: str | None, selections: list[Selection]) -> None:
        found.append((did, selections))

    result = CliRunner().invoke(command, arguments, input=text)
    return found[0] if result.exit_code == 0 else result.output


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((DID,), (DID, [])),
        (("--collection", "a.b.*"), (None, [Selection(By.COLLECTION, "a.b.*")])),
        (("--host", "https://A.example:8443/"), (None, [Selection(By.HOST, "a.example:8443")])),
        (("--host", "a.example"), (None, [Selection(By.HOST, "a.example")])),
        (("--failed",), (None, [Selection(By.FAILED)])),
        (("--all",), (None, [Selection(By.ALL)])),
    ],
)
def test_what_is_asked_for(arguments: tuple[str, ...], expected: Asked) -> None:
    assert asked(*arguments) == expected


def test_a_file_has_a_did_in_each_line(tmp_path: Path) -> None:
    file = tmp_path / "dids"
    file.write_text(f"# two\n\n  {OTHER}\n{DID}\r\n{OTHER}\n")
    both = (None, [Selection(By.DIDS, dids=(DID, OTHER))])
    assert asked("--file", str(file)) == both
    assert asked("--file", "-", text=file.read_text()) == both


@pytest.mark.parametrize(
    ("arguments", "text", "words"),
    [
        ((), "", "exactly one of"),
        ((DID, "--all"), "", "exactly one of"),
        (("--failed", "--host", "a.example"), "", "exactly one of"),
        (("--host", "a/b"), "", "host[:port]"),
        (("--collection", "*"), "", "pattern"),
        (("--file", "-"), "# nobody\n", "names no DID"),
        (("--file", "-"), f"{DID}\nalice.test\n", "line 2: 'alice.test' is not"),
        (("--file", "/nowhere"), "", "does not exist"),
    ],
)
def test_what_asks_for_nothing(arguments: tuple[str, ...], text: str, words: str) -> None:
    said = asked(*arguments, text=text)
    assert isinstance(said, str)
    assert words in said


@given(
    st.lists(st.integers(1, 240).map(lambda size: "did:web:" + "a" * size), max_size=400).map(
        lambda dids: sorted({f"{did}{number}" for number, did in enumerate(dids)})
    )
)
def test_lists_fit_into_commands_and_leave_out_nobody(dids: list[str]) -> None:
    lists = list(lists_of(dids))
    assert [did for each in lists for did in each.dids] == dids
    for each in lists:
        command = BulkSync(id="i" * 128, selection=each, requested_by="x" * 200, requested_at=1e9)
        assert messages.decode(messages.encode(command), 0, 0) == command


def parent(**children: Any) -> Operation:
    started = transitions.start(queued("many", Type.BULK_SYNC, None, 0.0), 1.0)
    return replace(transitions.complete(started, 2.0), children=Children(**children))


def test_the_end_of_many_counts_them_by_what_became_of_them() -> None:
    well = parent(expected=2, chosen=2, completed=2, skipped=1)
    badly = replace(parent(expected=3, chosen=3, completed=1, failed={"HostTimeout": 2}), created=5)
    assert outcome([well, badly]) == (
        "5 of 5 repositories: 3 completed, 2 failed (HostTimeout 2), 0 cancelled, 1 skipped; "
        "5 created, 0 updated, 0 deleted"
    )
    assert "4 repositories: 4 completed, 0 failed, 0" in outcome([parent(completed=4)])
    assert [exit_code([well]), exit_code([well, badly])] == [0, 1]


def test_the_exit_code_tells_the_worst_end() -> None:
    sync = transitions.start(queued("one", Type.DID_SYNC, DID, 0.0), 1.0)
    completed, cancelled = transitions.complete(sync, 2.0), transitions.cancel(sync, 2.0)
    failed = transitions.fail(sync, 2.0, Failure.HOST_ERROR, "away")
    ends = {0: [completed], 1: [completed, failed], 3: [failed, cancelled]}
    for code, found in ends.items():
        assert exit_code(found) == code
