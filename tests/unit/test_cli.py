"""The command line: what it refuses before anything happens."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from consumer import cli


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
        (["status", "--nonsense"], "No such option"),
        (["nonsense"], "No such command"),
    ],
)
def test_wrong_usage(arguments: list[str], words: str) -> None:
    result = CliRunner().invoke(cli.cli, arguments)
    assert result.exit_code == 2
    assert words in result.output


@pytest.mark.parametrize("command", ["run", "check", "status", "events"])
def test_every_command_explains_itself(command: str) -> None:
    result = CliRunner().invoke(cli.cli, [command, "--help"])
    assert result.exit_code == 0
    assert "--config" in result.output


def test_a_mistake_in_settings_is_exit_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CHIVE_HTTP__PORT", "many")
    monkeypatch.setattr("sys.argv", ["consumer", "run"])
    with pytest.raises(SystemExit) as exit_:
        cli.main()
    assert exit_.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: CHIVE_HTTP__PORT: ")
