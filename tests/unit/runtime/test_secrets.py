"""Secrets that change: files are read again, commands run again, and are never waited for long."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from pydantic import SecretStr

from consumer.config.settings import PostgresSettings
from consumer.errors import Transient
from consumer.metrics.labels import Service
from consumer.runtime import secrets
from consumer.runtime.secrets import Secret
from tests.support.eventually import eventually


def password(**settings: Any) -> Secret:
    return Secret(PostgresSettings(**settings), "password", Service.POSTGRES)


def script(directory: Path, text: str) -> dict[str, str]:
    file = directory / "script.sh"
    file.write_text(text)
    return {"password_command": f"sh '{file}'"}


async def test_a_value_and_nothing() -> None:
    assert await password(password=SecretStr("given")).read() == "given"
    assert await password().read() is None


async def test_a_file_is_read_each_time(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("one\n")
    secret = password(password_file=file)
    assert await secret.read() == "one"
    file.write_text("two")
    assert await secret.read() == "two"
    file.unlink()
    with pytest.raises(Transient, match=r"^postgres\.password_file: no such file: ") as caught:
        await secret.read()
    assert caught.value.service == Service.POSTGRES


async def test_a_command_runs_once_for_all_and_again_after_a_refusal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = tmp_path / "runs"
    secret = password(**script(tmp_path, f"echo >> {runs}; sleep 0.1; wc -l < {runs}\n"))
    assert await asyncio.gather(*(secret.read() for _ in range(5))) == ["1"] * 5
    secret.refused()  # too early: a pool that is refused at once would run it without a pause
    assert await secret.read() == "1"
    monkeypatch.setattr(secrets, "_REFUSED_SECONDS", 0.0)
    secret.refused()
    assert await secret.read() == "2"
    monkeypatch.setattr(secrets, "_KEPT_SECONDS", 0.0)
    assert await secret.read() == "3"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "echo hidden; echo 'no credentials\tfound' >&2; exit 3",
            "ended with status 3 and said: no cred",
        ),
        ("exit 1", "ended with status 1 and said: nothing"),
        ("true", "printed no secret"),
        ("yes", "printed more than 65536 bytes"),
        ("exec sleep 600", r"did not end in 0\.5 s"),
        ("sleep 600 & echo hidden", r"did not end in 0\.5 s"),
    ],
)
async def test_a_command_that_gives_nothing_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, said: str
) -> None:
    monkeypatch.setattr(secrets, "_COMMAND_SECONDS", 0.5 if "sleep" in text else 30.0)
    began = time.monotonic()
    with pytest.raises(Transient, match=rf"^postgres\.password_command: the command {said}") as no:
        await password(**script(tmp_path, text)).read()
    assert "hidden" not in str(no.value)
    assert time.monotonic() - began < 30
    await eventually(lambda: not _children(), deadline=30)


def _children() -> list[psutil.Process]:
    return [child for child in psutil.Process().children(recursive=True) if _runs(child)]


def _runs(child: psutil.Process) -> bool:
    try:
        return child.name() in ("sleep", "yes") and child.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


async def test_a_program_that_is_gone_is_named(tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    secret = password(password_command=str(program))
    program.unlink()
    with pytest.raises(Transient, match="the command cannot run: No such file"):
        await secret.read()
