"""The command line without any service: usage, settings, what nothing running looks like."""

from __future__ import annotations

import signal
from pathlib import Path

import orjson
import pytest

from tests.support.consumer import Start
from tests.support.eventually import eventually

NOWHERE = "ws://127.0.0.1:1"


async def test_help_names_the_commands(consumer: Start) -> None:
    process = await consumer("--help")
    assert await process.ended() == 0
    for command in ("run", "check", "status", "events"):
        assert f"  {command} " in process.out


@pytest.mark.parametrize("command", ["run", "events"])
async def test_a_mistake_in_a_variable_is_one_line_and_exit_2(
    consumer: Start, command: str
) -> None:
    process = await consumer(command, env={"CHIVE_RELAY_URL": "x"})
    assert await process.ended() == 2
    assert process.lines == [
        "error: CHIVE_RELAY_URL: unknown variable; did you mean CHIVE_RELAY__URL?"
    ]
    assert process.out == ""


async def test_a_mistake_in_the_file_is_one_line_and_exit_2(
    consumer: Start, tmp_path: Path
) -> None:
    file = tmp_path / "chive.toml"
    file.write_text("[kafka]\npartitons = 4\n")
    process = await consumer("run", "--config", str(file))
    assert await process.ended() == 2
    assert process.lines == [
        f"error: kafka.partitons in {file}: unknown key; did you mean kafka.partitions?"
    ]


async def test_wrong_usage_is_exit_2_without_a_traceback(consumer: Start) -> None:
    process = await consumer("run", "--workers", "2", "--role", "tailer")
    assert await process.ended() == 2
    assert process.lines[-1] == "Error: --workers needs the role worker"


@pytest.mark.parametrize("command", [["status", "--json"], ["events", "--follow"]])
async def test_nothing_runs_is_said_in_one_line(
    consumer: Start, tmp_path: Path, command: list[str]
) -> None:
    process = await consumer(*command, "--data-dir", str(tmp_path / "data"))
    assert await process.ended() == 1
    (said,) = process.lines
    assert said.startswith(f"error: nothing runs in {tmp_path / 'data'}: start it")


async def test_check_shows_the_settings_and_what_cannot_be_reached(
    consumer: Start, tmp_path: Path
) -> None:
    environment = {
        "CHIVE_KAFKA__BOOTSTRAP_SERVERS": "127.0.0.1:1",
        "CHIVE_POSTGRES__DSN": "postgresql://someone:hidden@127.0.0.1:1/db",
        "CHIVE_DATA_DIR": str(tmp_path),
        "CHIVE_GATEWAY__BIND": "127.0.0.1:0",
        "CHIVE_IDENTITY__PLC_URL": "http://127.0.0.1:1",
    }
    process = await consumer("check", "--json", "--relay", NOWHERE, env=environment)
    assert await process.ended() == 1
    seen = orjson.loads(process.out)
    assert seen["ok"] is False
    assert {name: answer["ok"] for name, answer in seen["checks"].items()} == {
        "directory": False,
        "discovery": None,
        "kafka": False,
        "postgres": False,
        "relay": False,
        "rights": False,
        "routes": False,
        "shard": False,
        "spool": seen["checks"]["spool"]["ok"],  # as much room as there is here
        "tables": False,
        "topics": False,
    }
    assert all(answer["detail"] for answer in seen["checks"].values())
    assert seen["settings"]["relay"]["url"] == NOWHERE
    assert "hidden" not in process.out
    assert process.lines == []


@pytest.mark.parametrize(("command", "status"), [("run", 0), ("check", 130)])
async def test_a_signal_before_anything_began_leaves_no_traceback(
    consumer: Start, tmp_path: Path, command: str, status: int
) -> None:
    process = await consumer(command, "--relay", NOWHERE, "--data-dir", str(tmp_path / "data"))
    await eventually(lambda: has_begun(process.pid), every=0.001)
    process.signal(signal.SIGINT)
    assert await process.ended() == status
    assert process.lines == []


def has_begun(pid: int) -> bool:
    """Tell whether the process handles SIGTERM, the first thing that it does."""
    status = Path(f"/proc/{pid}/status").read_text()
    (caught,) = [line.split()[1] for line in status.splitlines() if line.startswith("SigCgt")]
    return bool(int(caught, 16) >> (signal.SIGTERM - 1) & 1)
