"""A server as a child process: started, watched, stopped, and never left behind.

Invariants: at most one server per lease file, however its starter ended; the server is in
its own session, so that Ctrl-C in the terminal does not reach it before its users have
drained; when its starter dies, the kernel sends it the stop signal (Linux).
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from consumer.errors import Fatal

_LAUNCHER = Path(__file__).with_name("launch.py")
_POLL = 0.05  # seconds between looks at a lease, a port or a process
_START_ATTEMPTS = 3  # a port can be taken between its choice and its use
_TAIL = 15  # lines of a server's log shown when it fails


@dataclass(frozen=True, slots=True)
class User:
    """The operating system user a server runs as."""

    uid: int
    gid: int


async def take_lock(path: Path, deadline: float) -> int | None:
    """Take the exclusive lock on ``path``; its open descriptor, or None after ``deadline`` s."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    give_up = time.monotonic() + deadline
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= give_up:
                os.close(descriptor)
                return None
            await asyncio.sleep(_POLL)
        except BaseException:
            os.close(descriptor)
            raise
        else:
            return descriptor


class Server:
    """One server process.

    ``argv[0]`` is an absolute path.  ``directory`` holds its log (``NAME.log``, the last
    run's beside it as ``.1``) and its lease (``NAME.lease``): a lock that the server itself
    inherits and holds for as long as any of its processes lives.
    """

    def __init__(
        self,
        name: str,
        directory: Path,
        *,
        stop_signal: signal.Signals = signal.SIGTERM,
        user: User | None = None,
        environment: dict[str, str] | None = None,
    ) -> None:
        self.name = name
        self.log = directory / f"{name}.log"
        self._lease = directory / f"{name}.lease"
        self._stop_signal = stop_signal
        self._user = user
        self._environment = environment
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """The process id of the running server."""
        return self._process.pid if self._process else None

    @property
    def exit_status(self) -> int | None:
        """The exit status of a server that ended; None while it runs or before it was started."""
        return self._process.poll() if self._process else None

    async def start(self, argv: Sequence[str], *, lease_deadline: float = 30.0) -> None:
        """Start the server once its predecessor on the same lease has ended.

        The kernel ties the server to the thread that starts it: call this from a thread that
        lives as long as the server should.  Raises ``Fatal`` if the predecessor still runs after
        ``lease_deadline`` seconds.
        """
        lease = await take_lock(self._lease, lease_deadline)
        if lease is None:
            holder = self._lease.read_text().strip() or "unknown"
            raise Fatal(f"{self.name} (pid {holder}) already runs in {self.log.parent}; stop it")
        try:
            self._process = self._spawn(argv, lease)
            os.ftruncate(lease, 0)
            os.pwrite(lease, str(self._process.pid).encode(), 0)
        finally:
            os.close(lease)  # from here on the server's own descriptor holds the lock

    def _spawn(self, argv: Sequence[str], lease: int) -> subprocess.Popen[bytes]:
        uid, gid = (str(self._user.uid), str(self._user.gid)) if self._user else ("-", "-")
        launcher = [sys.executable, "-I", "-S", str(_LAUNCHER)]
        launcher += [str(os.getpid()), str(self._stop_signal.value), uid, gid]
        if self.log.exists():
            self.log.replace(self.log.with_suffix(".log.1"))
        with self.log.open("wb") as log:
            return subprocess.Popen(  # noqa: S603  the program is ours, and there is no shell
                [*launcher, *argv],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self._environment,
                pass_fds=(lease,),
                start_new_session=True,
            )

    async def wait_ready(self, probe: Callable[[], Awaitable[bool]], deadline: float) -> None:
        """Poll ``probe`` until it is true.

        Raises ``Fatal`` if the server ends first or ``deadline`` seconds have passed.
        """
        give_up = time.monotonic() + deadline
        while not await probe():
            if self.exit_status is not None:
                raise self.failure(f"ended with status {self.exit_status}")
            if time.monotonic() >= give_up:
                raise self.failure(f"was not ready after {deadline:.0f} s")
            await asyncio.sleep(_POLL)

    async def run(self, argv: Sequence[str], deadline: float) -> None:
        """Run a tool to its end.  Raises ``Fatal`` unless it succeeds in ``deadline`` seconds."""
        await self.start(argv)
        try:
            async with asyncio.timeout(deadline):
                while self.exit_status is None:  # noqa: ASYNC110  a child has no event
                    await asyncio.sleep(_POLL)
        except TimeoutError:
            raise self.failure(f"was not done after {deadline:.0f} s") from None
        finally:
            self.kill()
        if self.exit_status:
            raise self.failure(f"failed with status {self.exit_status}")

    async def wait_ended(self) -> Fatal:
        """Wait until a server that should run has ended; return the error to raise."""
        while self.exit_status is None:  # noqa: ASYNC110  a child has no event
            await asyncio.sleep(_POLL * 5)
        return self.failure(f"ended with status {self.exit_status}")

    async def stop(self, deadline: float = 20.0) -> None:
        """Stop the server: its stop signal, and SIGKILL when ``deadline`` seconds have passed."""
        if self._process is None or self._process.poll() is not None:
            return
        self._process.send_signal(self._stop_signal)
        give_up = time.monotonic() + deadline
        while self._process.poll() is None:
            if time.monotonic() >= give_up:
                self.kill()
            await asyncio.sleep(_POLL)

    def kill(self) -> None:
        """Kill the server and all processes of its session."""
        if self._process is not None and self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def failure(self, what: str) -> Fatal:
        """Return the error that says what happened, with the end of the server's log."""
        lines = self.log.read_text(errors="replace").splitlines()[-_TAIL:]
        tail = "\n".join(f"  | {line}" for line in lines)
        return Fatal(f"the embedded {self.name} {what}; its log {self.log} ends with:\n{tail}")


async def start_on_free_ports(server: Server, start_once: Callable[[], Awaitable[None]]) -> None:
    """Start ``server`` by ``start_once``, which chooses its ports; again if one was taken.

    Raises ``Fatal`` when it does not start.
    """
    for attempt in range(1, _START_ATTEMPTS + 1):
        try:
            await start_once()
        except Fatal:
            await server.stop()
            log = server.log.read_text(errors="replace") if server.log.exists() else ""
            if attempt == _START_ATTEMPTS or "already in use" not in log:
                raise
        else:
            return
