"""``consumer sync | refresh | discover | cancel | operations``: commands and what they came to."""

from __future__ import annotations

import asyncio
import getpass
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager, suppress
from typing import NoReturn

import click
import uvloop
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from consumer.cli.options import ANSWER_SECONDS, briefly, validated, with_settings
from consumer.cli.output import FAILED, INTERRUPTED, fail, print_json
from consumer.config import types
from consumer.config.settings import Settings
from consumer.control.topic import ControlTopic
from consumer.errors import Fatal
from consumer.printable import escape, escape_json
from consumer.runtime import lifecycle
from consumer.runtime.tasks import wait_for_stop
from consumer.services import Services, attached, read_only
from consumer.store.operations.history import Changes, History
from procedures.client import Query, Unavailable, follow, new_id
from procedures.messages import (
    Cancel,
    Command,
    DidSync,
    Discover,
    Emit,
    RecordRefresh,
    is_record_uri,
)
from procedures.operations import Operation, Status, encode

_COMPLETED, _CANCELLED = 0, 3  # exit codes, beside those of every command
_CODES = {Status.COMPLETED: _COMPLETED, Status.FAILED: FAILED, Status.CANCELLED: _CANCELLED}


def _waiting(command: Callable[..., None]) -> Callable[..., None]:
    command = click.option("--json", "as_json", is_flag=True, help="The operation as JSON.")(
        command
    )
    return click.option("--no-wait", is_flag=True, help="Print the id and do not wait.")(command)


def _carry_out(settings: Settings, command: Command, *, no_wait: bool, as_json: bool) -> NoReturn:
    """Send a command, wait for its operation's end, and exit with what that was."""
    settings = attached(briefly(settings))

    async def send_and_wait() -> Operation | None:
        async with read_only(settings) as found:
            await send(found, command)
            if no_wait:
                return None
            return await watched(found, command.id, Console(stderr=True))

    try:
        operation = uvloop.run(send_and_wait())
    except KeyboardInterrupt:
        fail([f"operation {command.id} goes on; see 'consumer operations'"], INTERRUPTED)
    if operation is None:
        if as_json:
            print_json({"id": command.id})
        else:
            click.echo(command.id)
        sys.exit(0)
    print_operations([operation], as_json=as_json)
    sys.exit(exit_code(operation))


def print_operations(found: list[Operation], *, as_json: bool) -> None:
    for operation in found:
        if as_json:
            click.echo(escape_json(encode(operation).decode()))
        else:
            click.echo(summary(operation))


@click.command("sync")
@with_settings
@click.argument("did", callback=validated(types.did))
@click.option("--emit-all", is_flag=True, help="Publish every record, also the unchanged ones.")
@_waiting
def sync_command(
    settings: Settings, *, did: str, emit_all: bool, no_wait: bool, as_json: bool
) -> None:
    """Make the index of DID equal to its repository.

    Exit codes: 0 completed, 1 failed, 3 cancelled.
    """
    command = DidSync(
        id=new_id(),
        did=did,
        emit=Emit.ALL if emit_all else Emit.CHANGES,
        requested_by=requester(),
        requested_at=time.time(),
    )
    _carry_out(settings, command, no_wait=no_wait, as_json=as_json)


def _record_uri(text: str) -> str:
    if not is_record_uri(text):
        raise ValueError(f"'{text}' is not at://DID/collection/rkey")
    return text


@click.command("refresh")
@with_settings
@click.argument("uri", metavar="AT-URI", callback=validated(_record_uri))
@_waiting
def refresh_command(settings: Settings, *, uri: str, no_wait: bool, as_json: bool) -> None:
    """Fetch one record again, and take over what its repository says.

    Exit codes: 0 completed, 1 failed, 3 cancelled.
    """
    command = RecordRefresh(
        id=new_id(), uri=uri, requested_by=requester(), requested_at=time.time()
    )
    _carry_out(settings, command, no_wait=no_wait, as_json=as_json)


@click.command("discover")
@with_settings
@click.option("--collection", callback=validated(types.nsid), help="Only the listing of this one.")
@click.option(
    "--source", callback=validated(types.http_origin), help="Only at this one of the sources."
)
@_waiting
def discover_command(
    settings: Settings, *, collection: str | None, source: str | None, no_wait: bool, as_json: bool
) -> None:
    """Read the listings of repositories again, now.

    Exit codes: 0 completed, 1 failed, 3 cancelled.
    """
    command = Discover(
        id=new_id(),
        collection=collection,
        source=source,
        requested_by=requester(),
        requested_at=time.time(),
    )
    _carry_out(settings, command, no_wait=no_wait, as_json=as_json)


@click.command("cancel")
@with_settings
@click.argument("operation_id", metavar="ID")
def cancel_command(settings: Settings, *, operation_id: str) -> None:
    """Stop an operation; what was injected already still applies."""
    settings = attached(briefly(settings))
    command = Cancel(
        id=new_id(),
        operation_id=operation_id,
        requested_by=requester(),
        requested_at=time.time(),
    )

    async def stop() -> Operation | None:
        async with read_only(settings) as found:
            await send(found, command)
            return await cancelled(found, operation_id, ANSWER_SECONDS)

    operation = uvloop.run(stop())
    if operation is None or operation.status is not Status.CANCELLED:
        known = "there is none" if operation is None else f"it is {operation.status}"
        fail([f"operation {operation_id} was not cancelled: {known}"], FAILED)
    click.echo(summary(operation))


@click.command("operations")
@with_settings
@click.option("--did", callback=validated(types.did), help="Only of this repo.")
@click.option("--status", "statuses", type=click.Choice([s.value for s in Status]), multiple=True)
@click.option("--limit", default=50, show_default=True, type=click.IntRange(1, 1000))
@click.option("--watch", is_flag=True, help="Show them again every second, until Ctrl-C.")
@click.option("--json", "as_json", is_flag=True, help="One operation a line, as published.")
def operations_command(
    settings: Settings,
    *,
    did: str | None,
    statuses: tuple[str, ...],
    limit: int,
    watch: bool,
    as_json: bool,
) -> None:
    """List operations, the newest first."""
    settings = attached(briefly(settings))
    query = Query(frozenset(map(Status, statuses)) or frozenset(Status), did, limit)

    async def show(stop: asyncio.Event) -> None:
        async with read_only(settings) as found:
            while True:
                shown = await listed(found, query)
                if watch:
                    click.clear()
                print_operations(shown, as_json=as_json)
                if not watch or await wait_for_stop(stop, 1.0):
                    return

    lifecycle.run(show)


def requester() -> str:
    """Return who is at the command line, for the operation's record."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = "unknown"
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
    why = ": ".join(filter(None, [operation.failure, escape(operation.error or "")]))
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
