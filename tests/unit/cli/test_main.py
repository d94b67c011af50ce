"""The command line: what it refuses before anything happens."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest
from click.testing import CliRunner

from consumer.cli import main
from consumer.cli.following import summary
from consumer.cli.operations import print_operations
from consumer.cli.output import print_json
from consumer.errors import Transient
from consumer.shard import shard_of
from procedures import operations
from procedures.failures import Failure
from procedures.operations import Status, Type
from tests.support.kafka import recorded


@pytest.fixture(autouse=True)
def _elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CHIVE_CONFIG", raising=False)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", "--role", "nothing"], "'nothing' is not one of"),
        (["run", "--workers", "0"], "not in the range"),
        (["run", "--relay", "ftp://x"], "wss://"),
        (["run", "--relay", "wss://user:secret@x"], "credentials"),
        (["events", "--did", "alice.test"], "did:plc"),
        (["events", "--collection", "pub.chive*"], "pattern"),
        (["events", "--type", "nothing"], "'nothing' is not one of"),
        (["events", "--limit", "0"], "not in the range"),
        (["events", "--since", "yesterday"], "'yesterday' is neither a time"),
        (["events", "--until", "2026-13-01"], "'2026-13-01' is neither a time"),
        (["events", "--since", "2h", "--from-beginning"], "exclude each other"),
        (["events", "--since", "9999-01-01"], "lies in the future"),
        (["events", "--since", "1h", "--until", "2h"], "--until is not after --since"),
        (["events", "--since", "now", "--until", "now"], "--until is not after --since"),
        (["events", "--follow", "--until", "now"], "--until must lie in the future"),
        (["status", "--nonsense"], "No such option"),
        (["nonsense"], "No such command"),
    ],
)
def test_wrong_usage(arguments: list[str], words: str) -> None:
    result = CliRunner().invoke(main.cli, arguments)
    assert result.exit_code == 2
    assert words in result.output


def test_events_of_an_account_are_with_the_shard_that_has_it() -> None:
    did = "did:plc:ewvi7nxzyoun6zhxrhs64oiz"
    assert shard_of(did, 2) == 2
    environment = {"CHIVE_SCOPE__SHARD": "1/2"}
    result = CliRunner().invoke(main.cli, ["events", "--did", did], env=environment)
    assert result.exit_code == 2
    assert "belongs to shard 2/2" in result.output


HOSTILE = "a\x1b[2J\x9b31m\r\nid  completed\u202e\x7f\u2028\U000e0041"


def is_harmless(text: str) -> bool:
    return text.replace("\n", "").isprintable()


@pytest.mark.parametrize("as_json", [False, True])
def test_what_strangers_wrote_into_an_operation_is_one_harmless_line(
    capsys: pytest.CaptureFixture[str], as_json: bool
) -> None:
    queued = operations.queued("id", Type.DID_SYNC, "did:plc:x", 1.0, reason=HOSTILE)
    failed = replace(queued, status=Status.FAILED, error=HOSTILE, did=HOSTILE, uri=HOSTILE)
    print_operations([queued, failed], as_json=as_json)
    text = capsys.readouterr().out
    assert is_harmless(text)
    assert len(text.split("\n")) == 3
    if as_json:
        assert orjson.loads(text.split("\n")[1])["error"] == HOSTILE


def test_values_in_json_are_harmless(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"byStatus": {HOSTILE: 1}})
    text = capsys.readouterr().out
    assert is_harmless(text)
    assert orjson.loads(text) == {"byStatus": {HOSTILE: 1}}


@pytest.mark.parametrize("form", [None, "--json", "--records"])
def test_events_are_harmless_lines(monkeypatch: pytest.MonkeyPatch, form: str | None) -> None:
    event = {"type": "identity", "did": "did:plc:x", "handle": HOSTILE, "live": True}

    async def events(*_: object, **__: object) -> AsyncGenerator[tuple[dict[str, Any], Any]]:
        key, value = HOSTILE.encode(), orjson.dumps(event)
        yield event, recorded(key, value, did=key)

    monkeypatch.setattr("consumer.cli.events.events", events)
    monkeypatch.setattr("consumer.cli.events.briefly", lambda settings: settings)
    monkeypatch.setenv("CHIVE_KAFKA__BOOTSTRAP_SERVERS", "127.0.0.1:1")
    monkeypatch.setenv("CHIVE_POSTGRES__DSN", "postgresql://127.0.0.1:1/db")
    result = CliRunner().invoke(main.cli, ["events", *([form] if form else [])])
    assert result.exit_code == 0, result.output
    assert is_harmless(result.output)
    assert result.output.count("\n") == 1
    if form:
        told = orjson.loads(result.output)
        assert (told if form == "--json" else told["value"]) == event


def test_errors_are_harmless_lines(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_, main.errors_as_lines():
        raise Transient(HOSTILE.replace("\n", ""))
    assert exit_.value.code == 1
    (line, rest) = capsys.readouterr().err.split("\n")
    assert line.startswith("error: a")
    assert is_harmless(line)
    assert rest == ""


@pytest.mark.parametrize("command", ["run", "check", "status", "events"])
def test_every_command_explains_itself(command: str) -> None:
    result = CliRunner().invoke(main.cli, [command, "--help"])
    assert result.exit_code == 0
    assert "--config" in result.output


def test_a_mistake_in_settings_is_exit_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CHIVE_HTTP__PORT", "many")
    monkeypatch.setattr("sys.argv", ["consumer", "run"])
    with pytest.raises(SystemExit) as exit_:
        main.main()
    assert exit_.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: CHIVE_HTTP__PORT: ")


@pytest.mark.parametrize(
    ("failure", "error", "end"),
    [
        (None, None, "0 created, 0 updated, 0 deleted"),
        (Failure.HOST_ERROR, "no route", "0 deleted: HostError: no route"),
        (None, "no route", "0 deleted: no route"),
        (Failure.HOST_ERROR, None, "0 deleted: HostError"),
    ],
)
def test_a_line_about_an_operation_ends_with_what_went_wrong(
    failure: Failure | None, error: str | None, end: str
) -> None:
    queued = operations.queued("id", Type.DID_SYNC, "did:plc:x", 1.0)
    line = summary(replace(queued, failure=failure, error=error))
    assert line.endswith(end)
    assert ": :" not in line
