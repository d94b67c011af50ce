"""Secrets that change while a process runs: passwords that are rotated, tokens that expire.

A file is read again whenever the secret is needed.  A command runs again too, but its output is
kept for ``_KEPT_SECONDS``, so that a pool that fills costs one run.  What was refused is kept for
``_REFUSED_SECONDS``.
"""

from __future__ import annotations

import asyncio
import os
import shlex
import signal
import time
from contextlib import suppress
from dataclasses import dataclass, field

from consumer.config.secrets import read_secret
from consumer.config.section import Section
from consumer.errors import Transient
from consumer.metrics.labels import Service
from consumer.printable import escape

_KEPT_SECONDS = 30.0
_REFUSED_SECONDS = 5.0
_COMMAND_SECONDS = 10.0
_MAX_OUTPUT = 64 * 1024
_MAX_QUOTE = 200


@dataclass(slots=True)
class Secret:
    """The secret ``name`` of a section, by whichever of its settings it is given.

    ``service`` is what cannot be used without it.
    """

    section: Section
    name: str
    service: Service
    _kept: tuple[str, float] | None = None  # the output of a command, and when it was printed
    _running: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def setting(self) -> str:
        """The name of the setting that gives it, for people."""
        ways = (self.name, f"{self.name}_file", f"{self.name}_command")
        given = [way for way in ways if getattr(self.section, way, None) is not None]
        return f"{self.service}.{given[-1] if given else self.name}"

    def at_once(self) -> str | None:
        """Return the value, or what its file holds now; None if it is given in no such way.

        Raises ``Transient`` if there is nothing in the file: it may be about to be replaced.
        """
        file = getattr(self.section, f"{self.name}_file", None)
        if file is None:
            value = getattr(self.section, self.name, None)
            return None if value is None else str(value.get_secret_value())
        try:
            return read_secret(file)
        except ValueError as error:
            raise Transient(f"{self.setting}: {error}", self.service) from None

    async def read(self) -> str | None:
        """Return the secret as it is now; None if it is not given.

        Raises ``Transient`` that names the setting if its file or command gives nothing.
        """
        command = getattr(self.section, f"{self.name}_command", None)
        if command is None:
            return self.at_once()
        async with self._running:
            if self._kept is None or time.monotonic() - self._kept[1] >= _KEPT_SECONDS:
                self._kept = None
                self._kept = (await self._output(command), time.monotonic())
            return self._kept[0]

    def refused(self) -> None:
        """Note that a server has refused the secret: it is asked for anew."""
        if self._kept is not None and time.monotonic() - self._kept[1] >= _REFUSED_SECONDS:
            self._kept = None

    async def _output(self, command: str) -> str:
        try:
            async with asyncio.timeout(_COMMAND_SECONDS):
                return await output_of(command)
        except TimeoutError:
            why = f"did not end in {_COMMAND_SECONDS:g} s"
        except OSError as error:
            why = f"cannot run: {error.strerror}"
        except ValueError as error:
            why = str(error)
        raise Transient(f"{self.setting}: the command {why}", self.service)


async def output_of(command: str) -> str:
    """Run ``command`` without a shell, and return what it prints, without the last newline.

    It and its children are killed if the caller is cancelled.  Raises ``OSError`` if it cannot be
    started, ``ValueError`` that says why it gave nothing.
    """
    process = await asyncio.create_subprocess_exec(
        *shlex.split(command),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    try:
        printed, complained = await asyncio.gather(_all(process.stdout), _all(process.stderr))
        status = await process.wait()
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    if status:
        said = escape(complained.strip().rpartition("\n")[2][-_MAX_QUOTE:]) or "nothing"
        raise ValueError(f"ended with status {status} and said: {said}")
    secret = printed.removesuffix("\n").removesuffix("\r")
    if not secret or "\0" in secret:
        raise ValueError("printed no secret")
    return secret


async def _all(stream: asyncio.StreamReader | None) -> str:
    parts = bytearray()
    while stream is not None and (part := await stream.read(_MAX_OUTPUT)):
        parts += part
        if len(parts) > _MAX_OUTPUT:
            raise ValueError(f"printed more than {_MAX_OUTPUT} bytes")
    return parts.decode(errors="replace")
