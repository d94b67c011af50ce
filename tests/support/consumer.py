"""``python -m consumer`` as a process: started, watched through its logs, and never left behind."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import orjson
import psutil
import pytest

from tests.support.eventually import eventually

ROOT = Path(__file__).parents[2]
Log = dict[str, Any]


def bare_environment() -> dict[str, str]:
    """Return this process's environment without any setting."""
    return {k: v for k, v in os.environ.items() if not k.startswith("CHIVE_")}


class Consumer:
    """One process; ``logs`` are its JSON lines on standard error, ``lines`` the others."""

    def __init__(self, process: asyncio.subprocess.Process, output: Path) -> None:
        self._process = process
        self._output = output

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def running(self) -> bool:
        """Tell whether it has not ended yet."""
        return self._process.returncode is None

    @property
    def out(self) -> str:
        """What it has written to standard output."""
        return (self._output / "out").read_text()

    @property
    def logs(self) -> list[Log]:
        """What it has logged."""
        found = []
        for line in self._errors():
            with suppress(orjson.JSONDecodeError):
                found.append(orjson.loads(line))
        return found

    @property
    def lines(self) -> list[str]:
        """What it has written to standard error that is no log."""
        return [line for line in self._errors() if not line.startswith("{")]

    def _errors(self) -> list[str]:
        # The last line may be half written.
        return (self._output / "err").read_text().split("\n")[:-1]

    def said(self, event: str, **fields: Any) -> list[Log]:
        """Return the logs of ``event`` that have ``fields``."""
        return [
            log
            for log in self.logs
            if log.get("event") == event and all(log.get(k) == v for k, v in fields.items())
        ]

    async def saying(
        self, event: str, *, times: int = 1, deadline: float = 60.0, **fields: Any
    ) -> Log:
        """Wait until it has logged ``event`` with ``fields``; fail at once if it ends."""

        def look() -> list[Log]:
            found = self.said(event, **fields)
            if len(found) < times and self._process.returncode is not None:
                pytest.fail(f"it ended with {self._process.returncode} without {event}: {self}")
            return found[times - 1 :]

        return (await eventually(look, what=f"{event} {fields}", deadline=deadline))[0]

    async def url(self) -> str:
        """Return the address of its HTTP server."""
        return str((await self.saying("server_listening", server="http"))["url"])

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self._process.send_signal(number)

    async def ended(self, deadline: float = 30.0) -> int:
        """Wait for its end and return its exit status (negative: the signal)."""
        return await asyncio.wait_for(self._process.wait(), deadline)

    async def stopped(self) -> int:
        """Tell it to stop and return its exit status."""
        self.signal(signal.SIGTERM)
        return await self.ended()

    def children(self) -> list[psutil.Process]:
        """Return its descendants."""
        try:
            return list(psutil.Process(self.pid).children(recursive=True))
        except psutil.NoSuchProcess:
            return []

    async def end(self) -> None:
        """Kill it and its descendants, whatever state they are in."""
        family = self.children()
        if self._process.returncode is None:
            with suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()
        for each in family:
            with suppress(psutil.NoSuchProcess):
                each.kill()

    def __repr__(self) -> str:
        return "\n".join(["", *self._errors()[-20:]])


Start = Callable[..., Any]


@pytest.fixture
async def consumer(tmp_path: Path) -> AsyncIterator[Start]:
    """Give a function that starts ``python -m consumer ARGUMENTS`` with given variables."""
    started: list[Consumer] = []

    async def start(*arguments: str, env: Mapping[str, str] | None = None) -> Consumer:
        output = Path(tempfile.mkdtemp(dir=tmp_path))
        with (output / "out").open("wb") as out, (output / "err").open("wb") as err:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "consumer", *arguments),
                cwd=ROOT,
                env={**bare_environment(), **(env or {})},
                stdin=asyncio.subprocess.DEVNULL,
                stdout=out,
                stderr=err,
            )
        started.append(Consumer(process, output))
        return started[-1]

    yield start
    for each in started:
        await each.end()
