"""A server process is started once, reported when it fails, and gone when it should be."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import psutil
import pytest

from consumer.embedded.process import Server
from consumer.errors import Fatal
from tests.support.eventually import eventually

SLEEP = [sys.executable, "-c", "import time; print('up', flush=True); time.sleep(600)"]
IGNORING = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)"
DEAF = [sys.executable, "-c", f"{IGNORING}; {SLEEP[2]}"]


async def started(server: Server, argv: list[str]) -> None:
    await server.start(argv)
    await eventually(lambda: "up" in server.log.read_text())


async def test_it_stops_when_told(tmp_path: Path) -> None:
    server = Server("sleeper", tmp_path)
    await started(server, SLEEP)
    await server.stop()
    assert server.exit_status == -signal.SIGTERM


async def test_one_that_does_not_listen_is_killed(tmp_path: Path) -> None:
    server = Server("deaf", tmp_path)
    await started(server, DEAF)
    await server.stop(deadline=0.1)
    assert server.exit_status == -signal.SIGKILL


async def test_a_second_one_on_the_same_lease_is_refused(tmp_path: Path) -> None:
    server = Server("sleeper", tmp_path)
    await started(server, SLEEP)
    try:
        with pytest.raises(Fatal, match=rf"sleeper \(pid {server.pid}\) already runs"):
            await Server("sleeper", tmp_path).start(SLEEP, lease_deadline=0.1)
    finally:
        server.kill()
    again = Server("sleeper", tmp_path)
    await started(again, SLEEP)
    again.kill()


async def test_one_that_ends_early_is_reported_with_its_last_words(tmp_path: Path) -> None:
    server = Server("loser", tmp_path)
    await server.start([sys.executable, "-c", "raise SystemExit('no luck today')"])

    async def never() -> bool:
        return False

    with pytest.raises(Fatal, match=r"loser ended with status 1(?s:.*)no luck today"):
        await server.wait_ready(never, deadline=30)
    assert "no luck today" in str(await server.wait_ended())


async def test_one_that_is_never_ready_is_reported(tmp_path: Path) -> None:
    server = Server("sleeper", tmp_path)
    await server.start(SLEEP)

    async def never() -> bool:
        return False

    with pytest.raises(Fatal, match="not ready after 0 s"):
        await server.wait_ready(never, deadline=0)
    server.kill()


async def test_a_tool_runs_to_its_end(tmp_path: Path) -> None:
    await Server("tool", tmp_path).run([sys.executable, "-c", "print('done')"], deadline=30)
    assert (tmp_path / "tool.log").read_text() == "done\n"
    with pytest.raises(Fatal, match="tool failed with status 3"):
        await Server("tool", tmp_path).run([sys.executable, "-c", "exit(3)"], deadline=30)
    with pytest.raises(Fatal, match="was not done after 0 s"):
        await Server("tool", tmp_path).run(SLEEP, deadline=0)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a service of Linux")
async def test_it_ends_with_its_parent_however_that_ends(tmp_path: Path) -> None:
    program = textwrap.dedent(f"""
        import asyncio, os, signal
        from pathlib import Path
        from consumer.embedded.process import Server
        async def main():
            server = Server("sleeper", Path({str(tmp_path)!r}))
            await server.start({SLEEP!r})
            while "up" not in server.log.read_text():
                await asyncio.sleep(0.01)
            print(server.pid, flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
        asyncio.run(main())
    """)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    parent = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, stdout=subprocess.PIPE, env=environment
    )
    output, _ = await parent.communicate()
    assert parent.returncode == -signal.SIGKILL
    await eventually(lambda: not psutil.pid_exists(int(output)), what="the server's end")
