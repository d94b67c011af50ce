"""Worker processes: spread, restarted after a signal, fatal when they fail, never left behind."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import psutil
import pytest

from consumer.errors import Fatal
from consumer.runtime.children import WorkerProcesses
from tests.support.eventually import eventually

ROOT = Path(__file__).parents[3]

# Notes its name, number and pid in a file, then lives until told to stop.
CHILD = """
import os, signal, sys, time
from pathlib import Path

directory = Path(sys.argv[1])
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
note = directory / f"{sys.argv[3]}.{os.getpid()}"
note.write_text(os.environ["NUMBER"])
if (directory / "fail").exists():
    sys.exit(3)
time.sleep(60)
"""


class Children:
    """Two children that leave notes in ``directory``."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.stop = asyncio.Event()
        program = [sys.executable, "-c", CHILD, str(directory)]
        self.processes = WorkerProcesses(program, [{"NUMBER": "1"}, {"NUMBER": "2"}])

    def pids(self, name: str) -> set[int]:
        notes = self.directory.glob(f"{name}.*")
        return {int(note.suffix[1:]) for note in notes if note.read_text()}

    @asynccontextmanager
    async def running(self) -> AsyncIterator[asyncio.Task[None]]:
        task = asyncio.create_task(self.processes.run(self.stop))
        try:
            await eventually(lambda: self.pids("worker-1") and self.pids("worker-2"))
            yield task
        finally:
            task.cancel()
            await asyncio.wait({task})


@pytest.fixture
def children(tmp_path: Path) -> Children:
    return Children(tmp_path)


async def test_they_run_with_their_own_environment_and_drain(children: Children) -> None:
    async with children.running() as task:
        assert {n.read_text() for n in children.directory.glob("worker-2.*")} == {"2"}
        children.stop.set()
        await asyncio.wait_for(task, 10)
    assert not any(psutil.pid_exists(pid) for pid in children.pids("worker-*"))


async def test_one_that_a_signal_killed_starts_again(children: Children) -> None:
    async with children.running() as task:
        (first,) = children.pids("worker-1")
        os.kill(first, signal.SIGKILL)
        await eventually(lambda: len(children.pids("worker-1")) == 2)
        assert len(children.pids("worker-2")) == 1
        children.stop.set()
        await asyncio.wait_for(task, 10)


async def test_one_that_fails_ends_them_all(children: Children) -> None:
    async with children.running() as task:
        (first,) = children.pids("worker-1")
        (children.directory / "fail").touch()
        os.kill(first, signal.SIGKILL)
        with pytest.raises(Fatal, match="worker-1 ended with status 3"):
            await asyncio.wait_for(task, 10)
    assert not any(psutil.pid_exists(pid) for pid in children.pids("worker-*"))


async def test_one_that_ends_unasked_without_an_error_is_a_failure_too(children: Children) -> None:
    async with children.running() as task:
        (first,) = children.pids("worker-1")
        os.kill(first, signal.SIGTERM)
        with pytest.raises(Fatal, match="worker-1 ended with status 0"):
            await asyncio.wait_for(task, 10)


PARENT = """
import asyncio, sys
from consumer.runtime.children import WorkerProcesses

program = [sys.executable, *sys.argv[1:]]
asyncio.run(WorkerProcesses(program, [{"NUMBER": "1"}, {"NUMBER": "2"}]).run(asyncio.Event()))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's help is Linux's")
async def test_they_die_with_a_parent_that_is_killed(children: Children) -> None:
    arguments = ["-c", CHILD, str(children.directory)]
    parent = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PARENT, *arguments, cwd=ROOT
    )
    try:
        await eventually(lambda: children.pids("worker-1") and children.pids("worker-2"))
    finally:
        parent.kill()
        await parent.wait()
    pids = children.pids("worker-*")
    await eventually(lambda: not any(psutil.pid_exists(pid) for pid in pids))
