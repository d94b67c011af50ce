"""Kafka and PostgreSQL in one data directory: started by the first user, shared by others.

``stack.lock`` is held by the process that runs the servers, ``stack.json`` says where they
listen.  A second process on the same data directory attaches; its services end with the
first.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

import structlog

from consumer.embedded.jars import cache_home
from consumer.embedded.kafka import EmbeddedKafka
from consumer.embedded.postgres import EmbeddedPostgres
from consumer.embedded.process import take_lock
from consumer.errors import Fatal

_ATTACH_DEADLINE = 600.0  # seconds; the first process may be downloading
_POLL = 0.2
_FILE = "stack.json"

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where the stack's servers listen, and who runs them."""

    bootstrap_servers: str
    dsn: str
    pid: int


class EmbeddedStack:
    """``async with EmbeddedStack(data_dir) as stack``: both servers, ready.

    Leaving the block stops them if this process started them.  ``cache_dir`` keeps
    downloads; None is the user's cache directory.  Raises ``Fatal`` if they cannot be started.
    """

    def __init__(self, data_dir: Path, cache_dir: Path | None = None) -> None:
        self._data_dir = data_dir.absolute()
        self._lock: int | None = None
        self._addresses: Addresses | None = None
        self.kafka = EmbeddedKafka(self._data_dir / "kafka", cache_home(cache_dir))
        self.postgres = EmbeddedPostgres(self._data_dir / "postgres")

    @property
    def bootstrap_servers(self) -> str:
        """Kafka's address, ``host:port``."""
        return self._running.bootstrap_servers

    @property
    def dsn(self) -> str:
        """PostgreSQL's connection URI; contains its password."""
        return self._running.dsn

    @property
    def attached(self) -> bool:
        """Whether another process runs the servers."""
        return self._addresses is not None and self._lock is None

    @property
    def _running(self) -> Addresses:
        if self._addresses is None:
            raise Fatal("the embedded stack is not started")
        return self._addresses

    async def __aenter__(self) -> Self:
        try:
            self._data_dir.mkdir(parents=True, exist_ok=True)
            self._lock = await self._own_or_attach()
        except OSError as error:
            raise Fatal(
                f"{self._data_dir} cannot be written to ({error.strerror}): set data_dir to a "
                "place for the embedded servers, or kafka.bootstrap_servers and postgres.dsn"
            ) from error
        if self._lock is not None:
            await self._start()
        _log.info("embedded_stack_ready", attached=self.attached, kafka=self.bootstrap_servers)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._lock is not None:
            await self._stop()

    async def ended(self) -> Fatal:
        """Wait until a server has ended by itself, or its owner has; return what to raise."""
        if self._lock is None:
            return await self._owner_gone()
        servers = (self.kafka.server, self.postgres.server)
        while all(each.exit_status is None for each in servers):  # noqa: ASYNC110  no event for it
            await asyncio.sleep(_POLL * 5)
        ended = next(each for each in servers if each.exit_status is not None)
        return await ended.wait_ended()

    async def _own_or_attach(self) -> int | None:
        """Return the lock of the stack, or None with the addresses of the one that runs."""
        give_up = time.monotonic() + _ATTACH_DEADLINE
        while (lock := await take_lock(self._data_dir / "stack.lock", deadline=0)) is None:
            self._addresses = running(self._data_dir)
            if self._addresses is not None:
                break
            if time.monotonic() >= give_up:
                raise Fatal(
                    f"another process has been starting {self._data_dir} for 10 minutes; "
                    "end it and start again"
                )
            await asyncio.sleep(_POLL)
        return lock

    async def _owner_gone(self) -> Fatal:
        while running(self._data_dir) == self._addresses:  # noqa: ASYNC110  another process's end
            await asyncio.sleep(_POLL * 5)
        return Fatal(f"the process {self._running.pid} that ran the embedded stack has ended")

    async def _start(self) -> None:
        self._file.unlink(missing_ok=True)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self.kafka.start())
                group.create_task(self.postgres.start())
        except BaseException as failure:
            await self._stop()
            if isinstance(failure, BaseExceptionGroup):
                raise failure.exceptions[0] from None
            raise
        self._publish(Addresses(self.kafka.bootstrap_servers, self.postgres.dsn, os.getpid()))

    async def _stop(self) -> None:
        self._file.unlink(missing_ok=True)
        await asyncio.gather(self.kafka.stop(), self.postgres.stop())
        if self._lock is not None:
            os.close(self._lock)
        self._lock = self._addresses = None

    @property
    def _file(self) -> Path:
        return self._data_dir / _FILE

    def _publish(self, addresses: Addresses) -> None:
        partial = self._file.with_suffix(".partial")
        partial.touch(mode=0o600)
        partial.write_text(json.dumps(asdict(addresses)))
        partial.replace(self._file)
        self._addresses = addresses


def running(data_dir: Path) -> Addresses | None:
    """Return where the stack of ``data_dir`` listens; None when no process runs it."""
    with contextlib.suppress(OSError, ValueError, TypeError):
        addresses = Addresses(**json.loads((data_dir / _FILE).read_text()))
        os.kill(addresses.pid, 0)
        return addresses
    return None
