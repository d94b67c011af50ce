"""Worker processes under one parent: started, watched, restarted, and never left behind.

A child is ``python -m consumer run --role worker`` on the stack that the parent uses.  One that
a signal killed is restarted after a pause; its lanes move meanwhile.  One that ends by itself
has said why on standard error, and ends the whole process.  On Linux the
kernel kills the children when the parent dies, however that happens; everywhere they are in
process groups of their own, so that Ctrl-C reaches only the parent, which tells them to drain.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from asyncio.subprocess import Process
from collections.abc import Mapping, Sequence
from contextlib import suppress

import structlog

from consumer import metrics
from consumer.embedded import launch
from consumer.errors import Fatal
from consumer.runtime.lifecycle import DRAIN_SECONDS, Backoff
from consumer.runtime.tasks import cancel, first_of, joined, wait_for_stop

_KILL_SECONDS = DRAIN_SECONDS + 4.0
_STEADY_SECONDS = 60.0  # a child that ran this long did not fail at its start

_log = structlog.get_logger()


class WorkerProcesses:
    """The root that keeps ``count`` worker processes running.

    ``program`` is what each of them executes, with ``--name`` and its name behind;
    ``environments`` has one mapping per process, on top of the parent's own environment.
    """

    def __init__(self, program: Sequence[str], environments: Sequence[Mapping[str, str]]) -> None:
        self._program = tuple(program)
        self._environments = tuple(environments)

    async def run(self, stop: asyncio.Event) -> None:
        """Run them until told to stop, then let them drain.  Raises ``Fatal`` if one fails."""
        keepers = [
            asyncio.create_task(self._keep(f"worker-{number}", environment, stop))
            for number, environment in enumerate(self._environments, 1)
        ]
        try:
            await asyncio.gather(*keepers)  # raises the first failure at once
        finally:
            await cancel(keepers, _KILL_SECONDS)

    async def _keep(self, name: str, environment: Mapping[str, str], stop: asyncio.Event) -> None:
        loop, backoff = asyncio.get_running_loop(), Backoff()
        while not stop.is_set():
            began = loop.time()
            status = await self._live(name, environment, stop)
            if stop.is_set():
                return
            if status >= 0:
                raise Fatal(f"{name} ended with status {status}; its last lines are above")
            if loop.time() - began > _STEADY_SECONDS:
                backoff.reset()
            pause = backoff.pause()
            _log.error(
                "worker_killed",
                name=name,
                signal=signal.Signals(-status).name,
                pause=round(pause, 2),
            )
            metrics.WORKER_RESTARTS.inc()
            await wait_for_stop(stop, pause)

    async def _live(self, name: str, environment: Mapping[str, str], stop: asyncio.Event) -> int:
        """Run one process to its end and return its exit status (negative: the signal)."""
        process = await self._start(name, environment)
        _log.info("worker_started", name=name, pid=process.pid)
        metrics.WORKER_PROCESSES.inc()
        ended = asyncio.create_task(process.wait())
        try:
            await first_of(joined(ended), stop.wait())
        finally:
            await _ended(process, ended)
            metrics.WORKER_PROCESSES.dec()
        return ended.result()

    async def _start(self, name: str, environment: Mapping[str, str]) -> Process:
        tied = [launch.__file__, str(os.getpid()), str(signal.SIGKILL.value), "-", "-"]
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-I", "-S", *tied, *self._program, "--name", name),
            env={**os.environ, **environment},
            stdin=asyncio.subprocess.DEVNULL,
            start_new_session=True,
        )


async def _ended(process: Process, ended: asyncio.Task[int]) -> None:
    """Tell the process to drain, and kill it if that takes too long or the wait is cancelled."""
    try:
        _send(process, signal.SIGTERM)
        await asyncio.wait({ended}, timeout=_KILL_SECONDS)
    finally:
        _send(process, signal.SIGKILL)
        await asyncio.wait({ended})


def _send(process: Process, number: signal.Signals) -> None:
    if process.returncode is None:
        with suppress(ProcessLookupError):
            process.send_signal(number)
