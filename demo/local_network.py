"""The reference PDS and PLC directory on loopback, from npm ``@atproto/dev-env``.

Installed once into the cache, from the lock beside ``serve.mjs``: a directory there is
complete or absent.  The Node process ends with its standard input, so it never outlives us.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import shutil
import signal
from asyncio.subprocess import PIPE, Process
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from consumer.embedded.process import Server, take_lock
from consumer.errors import Fatal

_SOURCE = Path(__file__).with_name("network")
_FILES = ("package.json", "package-lock.json", "serve.mjs", "node20.mjs")
_MIN_NODE = 20
_INSTALL_DEADLINE = 900.0  # seconds, for each of the two steps
_START_DEADLINE = 120.0
_ANSWER_DEADLINE = 30.0
_STOP_DEADLINE = 10.0

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Endpoints:
    """Where the PDS and the PLC directory answer, and the PDS's administrator."""

    pds: str
    plc: str
    admin_password: str

    @property
    def firehose(self) -> str:
        """The URL to set as ``CHIVE_RELAY__URL``."""
        return self.pds.replace("http://", "ws://")

    def environment(self) -> dict[str, str]:
        """Return the settings that point a consumer at this network.

        All accounts are new and change handles soon: identities are refreshed without a pause.
        """
        return {
            "CHIVE_RELAY__URL": self.firehose,
            "CHIVE_RELAY__START": "oldest",
            "CHIVE_IDENTITY__PLC_URL": self.plc,
            "CHIVE_IDENTITY__REFRESH_INTERVAL": "5",
            "CHIVE_NETWORK__ALLOW_LOOPBACK": "true",
            "CHIVE_DISCOVERY__PACE": "100",
        }


async def installed(cache: Path, say: Say) -> Path:
    """Return the directory with the packages, installing them into ``cache`` if needed."""
    directory = cache / f"network-{_identity(await _node_version())}"
    if _complete(directory):
        return directory
    lock = await take_lock(_lock_of(directory), deadline=0)
    if lock is None:
        say(f"waiting for another process that installs {directory}")
        lock = await take_lock(_lock_of(directory), _INSTALL_DEADLINE)
    if lock is None:
        raise Fatal(f"another process has been installing {directory} for too long")
    try:
        if not _complete(directory):
            await _install(directory, say)
    finally:
        os.close(lock)
    return directory


def _found(program: str) -> str:
    path = shutil.which(program)
    if path is None:
        raise Fatal(f"{program} is not there: the PDS needs Node {_MIN_NODE} or newer with npm")
    return path


async def _node_version() -> int:
    process = await asyncio.create_subprocess_exec(_found("node"), "--version", stdout=PIPE)
    output, _ = await process.communicate()
    major = int(output.decode().strip().lstrip("v").partition(".")[0])
    if major < _MIN_NODE:
        raise Fatal(f"Node {_MIN_NODE} or newer is needed, found {output.decode().strip()}")
    return major


def _identity(node: int) -> str:
    # Compiled modules belong to one major version of Node.
    digest = hashlib.sha256(b"".join((_SOURCE / name).read_bytes() for name in _FILES))
    return f"{digest.hexdigest()[:8]}-node{node}"


def _complete(directory: Path) -> bool:
    return directory.is_dir()


def _lock_of(directory: Path) -> Path:
    directory.parent.mkdir(parents=True, exist_ok=True)
    return directory.with_name(f"{directory.name}.lock")


async def _install(directory: Path, say: Say) -> None:
    staging = directory.with_name(f"{directory.name}.partial")
    _stage(staging)
    say("installing the reference PDS from npm, once (1/2: packages, about a minute)")
    # No install scripts of 600 packages; the one native module is built explicitly.
    await _npm(staging, "ci", "--ignore-scripts")
    say("installing the reference PDS from npm, once (2/2: building SQLite, 1 to 3 minutes)")
    await _npm(staging, "rebuild", "better-sqlite3", "--ignore-scripts=false")
    _publish(staging, directory)


def _stage(staging: Path) -> None:
    shutil.rmtree(staging, ignore_errors=True)  # what an interrupted installation left
    staging.mkdir()
    for name in _FILES:
        shutil.copy(_SOURCE / name, staging)


def _publish(staging: Path, directory: Path) -> None:
    staging.rename(directory)


async def _npm(directory: Path, command: str, *arguments: str) -> None:
    quiet = ["--no-audit", "--no-fund", "--no-update-notifier", "--loglevel=error"]
    argv = [_found("npm"), command, *arguments, "--prefix", str(directory), *quiet]
    # Of node-gyp: one compiler per core.
    environment = {**os.environ, "JOBS": "max", **_headers()}
    # npm takes its time over SIGTERM; what it leaves is cleared before the next attempt.
    server = Server("npm", directory, stop_signal=signal.SIGKILL, environment=environment)
    await server.run(argv, _INSTALL_DEADLINE)


def _headers() -> dict[str, str]:
    """Point node-gyp to the headers that came with Node: else it would download them."""
    root = Path(_found("node")).resolve().parents[1]
    installed = (root / "include" / "node" / "node_version.h").is_file()
    return {"npm_config_nodedir": str(root)} if installed else {}


@dataclass(frozen=True, slots=True)
class _Node:
    process: Process
    stdin: asyncio.StreamWriter
    stdout: asyncio.StreamReader


class LocalNetwork:
    """``async with LocalNetwork(packages, work) as network``: running, at ``endpoints``.

    ``packages`` is what ``installed`` returned; ``work`` takes the PDS's files and the log
    ``network.log``.
    """

    def __init__(self, packages: Path, work: Path) -> None:
        self._packages = packages
        self._work = work
        self._running: _Node | None = None
        self._asking = asyncio.Lock()
        self.endpoints = Endpoints("", "", "")

    async def __aenter__(self) -> Self:
        try:
            self._running = await self._start()
            ready = await self._line(self._running, _START_DEADLINE)
        except BaseException:
            await self._stop()
            raise
        self.endpoints = Endpoints(ready["pds"], ready["plc"], ready["adminPassword"])
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stop()

    async def newest_seq(self) -> int:
        """Return the seq of the newest frame of the firehose; 0 before the first."""
        if self._running is None:
            raise Fatal("the local network is not running")
        async with self._asking:
            self._running.stdin.write(b"seq\n")
            await self._running.stdin.drain()
            return int((await self._line(self._running, _ANSWER_DEADLINE))["seq"])

    async def _start(self) -> _Node:
        log = self._open_log()
        try:
            process = await asyncio.create_subprocess_exec(
                _found("node"),
                str(self._packages / "serve.mjs"),
                stdin=PIPE,
                stdout=PIPE,
                stderr=log,
                env={**os.environ, "TMPDIR": str(self._work), "LOG_ENABLED": "false"},
                start_new_session=True,
            )
        finally:
            os.close(log)
        if process.stdin is None or process.stdout is None:
            raise Fatal("the local network has no pipes")
        return _Node(process, process.stdin, process.stdout)

    def _open_log(self) -> int:
        self._work.mkdir(parents=True, exist_ok=True)
        return os.open(self._work / "network.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)

    async def _line(self, node: _Node, deadline: float) -> dict[str, Any]:
        """Read the next JSON line; the PDS's own log lines are passed over."""
        with suppress(TimeoutError):
            async with asyncio.timeout(deadline):
                while line := await node.stdout.readline():
                    with suppress(ValueError):
                        return dict(json.loads(line))
        raise Fatal(f"the local network does not answer:\n{self._log_tail()}")

    def _log_tail(self) -> str:
        return (self._work / "network.log").read_text(errors="replace")[-2000:]

    async def _stop(self) -> None:
        node, self._running = self._running, None
        if node is None:
            return
        node.stdin.close()
        try:
            async with asyncio.timeout(_STOP_DEADLINE):
                await node.process.communicate()
        except TimeoutError:
            with suppress(ProcessLookupError):
                os.killpg(node.process.pid, signal.SIGKILL)
            await node.process.communicate()
