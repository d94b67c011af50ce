"""``python -m demo`` as a process: its verdict, and that it leaves nothing running."""

from __future__ import annotations

import asyncio
import shutil
import signal
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from consumer.embedded.jars import cache_home
from demo.local_network import installed
from tests.support.consumer import ROOT, bare_environment

pytestmark = [pytest.mark.network, pytest.mark.services, pytest.mark.timeout(1800)]


class Demo:
    """One run; ``seen`` is every process it was ever seen to have started."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.output: list[str] = []
        self.seen: set[psutil.Process] = set()

    async def until(self, text: str) -> None:
        """Read its output up to a line with ``text``."""
        while text not in (line := await self._line()):
            assert line, "".join(["it ended early\n", *self.output])

    async def ended(self) -> int:
        """Read the rest of its output and return its exit code."""
        while await self._line():
            pass
        return await self.process.wait()

    def left(self) -> list[psutil.Process]:
        """Return the processes of its that still run."""
        return [each for each in self.seen if each.is_running()]

    async def _line(self) -> str:
        assert self.process.stdout is not None
        line = (await self.process.stdout.readline()).decode()
        self.output.append(line)
        with suppress(psutil.NoSuchProcess):
            self.seen.update(psutil.Process(self.process.pid).children(recursive=True))
        return line


@pytest.fixture
def work(server_directory: Path) -> Path:
    """Give the demo a directory for its temporary files."""
    return Path(tempfile.mkdtemp(dir=server_directory))


@pytest.fixture
async def demo(work: Path) -> AsyncIterator[Demo]:
    """Start a short demo, with the packages in place."""
    if shutil.which("npm") is None:
        pytest.skip("Node with npm is not installed: no reference PDS")
    await installed(cache_home(), print)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-u", "-m", "demo", "--for", "10", "--accounts", "6"),
        cwd=ROOT,
        env={**bare_environment(), "TMPDIR": str(work)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    run = Demo(process)
    yield run
    if process.returncode is None:
        process.kill()
        await process.wait()
    for each in run.left():
        each.kill()


def leftovers(directory: Path) -> list[Path]:
    return list(directory.glob("chive-*"))


async def test_an_interrupt_while_it_starts_leaves_nothing(demo: Demo, work: Path) -> None:
    await demo.until("starting the reference PDS")
    demo.process.send_signal(signal.SIGINT)
    assert await demo.ended() == 130, "".join(demo.output)
    assert len(demo.seen) > 2  # PostgreSQL with its children, Kafka
    assert demo.left() == []
    assert leftovers(work) == []


async def test_an_interrupt_in_the_traffic_goes_on_to_the_verdict(demo: Demo, work: Path) -> None:
    await demo.until("people begin to write")
    demo.process.send_signal(signal.SIGINT)
    assert await demo.ended() == 0, "".join(demo.output)
    assert any(line.startswith("equal:") for line in demo.output)
    assert len(demo.seen) > 4  # Node and the consumer beside them
    assert demo.left() == []
    assert leftovers(work) == []
