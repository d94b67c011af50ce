"""``consumer sync | refresh | cancel | operations``: commands as anybody may send them."""

from __future__ import annotations

import asyncio
import getpass
import socket
import time
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager, suppress

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from consumer.errors import Fatal, Transient
from consumer.kafka.client import Client
from consumer.kafka.topics import Topic, Topics
from consumer.kafka.transaction import OutRecord
from consumer.kafka.writer import Writer
from consumer.runtime.logs import escape
from consumer.runtime.services import Services
from consumer.store.operations.history import Changes, History
from procedures import messages
from procedures.client import Query, Unavailable, follow
from procedures.messages import Command
from procedures.operations import Operation, Status

COMPLETED, FAILED, CANCELLED = 0, 1, 3  # exit codes
_CODES = {Status.COMPLETED: COMPLETED, Status.FAILED: FAILED, Status.CANCELLED: CANCELLED}


class ControlTopic:
    """Where commands go.  Open with ``opened``; it connects when it is first used."""

    def __init__(self, client: Client, topics: Topics) -> None:
        self._client = client
        self._name = topics.name(Topic.CONTROL)
        self._writer: Writer | None = None
        self._opening = asyncio.Lock()

    @classmethod
    @asynccontextmanager
    async def opened(cls, client: Client, topics: Topics) -> AsyncIterator[ControlTopic]:
        """Give the topic for the length of the block."""
        topic = cls(client, topics)
        try:
            yield topic
        finally:
            await topic._drop(topic._writer)

    async def send(self, command: Command) -> None:
        """Return after the broker's acknowledgement; raise ``Unavailable``."""
        record = OutRecord(self._name, 0, messages.key(command), messages.encode(command))
        writer = None
        try:
            async with self._opening:
                if self._writer is None:
                    self._writer = await Writer.open(self._client)
                writer = self._writer
            await writer.write(record)
        except Transient as error:
            await self._drop(writer)  # what it was given may still arrive, by nobody's doing
            raise Unavailable(str(error)) from error

    async def _drop(self, writer: Writer | None) -> None:
        if writer is not None:
            if self._writer is writer:
                self._writer = None
            await writer.close()


def requester() -> str:
    """Return who is at the command line, for the operation's record."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = "somebody"
    text = f"cli:{user}@{socket.gethostname()}"
    return "".join(each if " " <= each <= "~" else "?" for each in text)[:200]


async def send(services: Services, command: Command) -> None:
    """Send one command.  Raises ``Fatal`` when that fails."""
    try:
        async with ControlTopic.opened(services.client, services.topics) as topic:
            await topic.send(command)
    except Unavailable as error:
        raise Fatal(f"the command was not confirmed: {error}") from error


async def watched(services: Services, identifier: str, console: Console) -> Operation:
    """Follow an operation to its end, with a progress bar where there is a terminal."""
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[what]}"))
    try:
        with Progress(*columns, TimeElapsedColumn(), console=console, transient=True) as progress:
            task = progress.add_task("queued", total=100, what="")
            async with (
                _history(services) as history,
                aclosing(follow(history, identifier)) as steps,
            ):
                async for operation in steps:
                    shown = operation.phase or operation.status
                    records = f"{operation.records_processed} records"
                    progress.update(
                        task, completed=operation.progress, description=str(shown), what=records
                    )
    except Unavailable as error:
        raise Fatal(f"operation {identifier} goes on, but cannot be followed: {error}") from error
    return operation


def exit_code(operation: Operation) -> int:
    """Return what the command's exit code says about the operation's end."""
    return _CODES[operation.status]


def summary(operation: Operation) -> str:
    """Return one line about an operation."""
    what = escape(operation.uri or operation.did or operation.reason or "")
    counts = (
        f"{operation.created} created, {operation.updated} updated, {operation.deleted} deleted"
    )
    why = (
        "" if operation.error is None else f": {operation.failure or ''} {escape(operation.error)}"
    )
    at = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(operation.requested_at))
    stage = "/".join(filter(None, [operation.status, operation.phase]))
    end = f": {why}" if why else ""
    return f"{at}  {operation.id}  {operation.type} {what}  {stage}  {counts}{end}"


async def listed(services: Services, query: Query) -> list[Operation]:
    """Return operations, newest first.  Raises ``Fatal`` when they cannot be read."""
    try:
        history = History(services.database, Changes(services.database))
        return list((await history.page(query)).operations)
    except Unavailable as error:
        raise Fatal(f"operations cannot be read: {error}") from error


async def cancelled(services: Services, identifier: str, patience: float) -> Operation | None:
    """Wait until an operation has ended, at most ``patience`` seconds; None: there is none."""
    async with _history(services) as history:
        operation = await history.get(identifier)
        with suppress(TimeoutError):
            async with asyncio.timeout(patience):
                while operation is not None and not operation.ended:
                    operation = await history.changed(identifier, operation.version)
    return operation


@asynccontextmanager
async def _history(services: Services) -> AsyncIterator[History]:
    changes, stop = Changes(services.database), asyncio.Event()
    listening = asyncio.create_task(changes.run(stop))
    try:
        yield History(services.database, changes)
    finally:
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)
