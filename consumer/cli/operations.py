"""Commands and what they came to: ``consumer sync``, ``reconcile``, ``refresh`` and so on."""

from __future__ import annotations

import asyncio
import getpass
import socket
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import replace
from typing import NoReturn

import click
import uvloop
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from consumer.cli.options import ANSWER_SECONDS, briefly, validated, with_settings
from consumer.cli.output import FAILED, INTERRUPTED, fail, print_json
from consumer.cli.selecting import selecting
from consumer.config import types
from consumer.config.settings import Settings
from consumer.control.topic import ControlTopic
from consumer.errors import Fatal, Transient
from consumer.kafka.stable import left_open, places_of
from consumer.kafka.topics import Topic
from consumer.printable import escape, escape_json
from consumer.runtime import lifecycle
from consumer.runtime.tasks import wait_for_stop
from consumer.services import Services, answering, attached, read_only
from consumer.store.operations.history import Changes, History
from procedures.client import Query, Unavailable, follow, new_id
from procedures.failures import GONE
from procedures.messages import (
    BulkSync,
    Cancel,
    Command,
    DidSync,
    Discover,
    Emit,
    Forget,
    Reconcile,
    RecordRefresh,
    is_record_uri,
)
from procedures.operations import Children, Operation, Status, Type, encode
from procedures.selections import By, Selection

_COMPLETED, _CANCELLED = 0, 3  # exit codes, beside those of every command
_LOOK_SECONDS = 5.0  # between two looks at what holds commands back
_PAGE = 1_000  # operations that are read at once
_FOLLOWED = 10  # operations that are followed at once: the oldest, which the controller works at


def _waiting(command: Callable[..., None]) -> Callable[..., None]:
    command = click.option("--json", "as_json", is_flag=True, help="The operation as JSON.")(
        command
    )
    return click.option("--no-wait", is_flag=True, help="Print the id and do not wait.")(command)


def _carry_out(
    settings: Settings, commands: Sequence[Command], *, no_wait: bool, as_json: bool
) -> NoReturn:
    """Send commands, wait for their operations' ends, and exit with what those were."""
    settings = attached(briefly(settings))
    identifiers = [command.id for command in commands]

    async def send_and_wait() -> list[Operation]:
        async with read_only(settings) as found:
            await send(found, *commands)
            return [] if no_wait else await watched(found, identifiers, Console(stderr=True))

    try:
        ended = uvloop.run(send_and_wait())
    except KeyboardInterrupt:
        fail(
            [f"operation {each} goes on; see 'consumer operations'" for each in identifiers],
            INTERRUPTED,
        )
    if no_wait:
        for identifier in identifiers:
            if as_json:
                print_json({"id": identifier})
            else:
                click.echo(identifier)
        sys.exit(_COMPLETED)
    print_operations(ended, as_json=as_json)
    if len(ended) > 1 and not as_json:
        click.echo(f"in all: {outcome(ended)}")
    sys.exit(exit_code(ended))


def print_operations(found: list[Operation], *, as_json: bool) -> None:
    for operation in found:
        if as_json:
            click.echo(escape_json(encode(operation).decode()))
        else:
            click.echo(summary(operation))


@click.command("sync")
@with_settings
@selecting
@click.option("--emit-all", is_flag=True, help="Publish every record, also the unchanged ones.")
@_waiting
def sync_command(
    settings: Settings,
    *,
    did: str | None,
    selections: Sequence[Selection],
    emit_all: bool,
    no_wait: bool,
    as_json: bool,
) -> None:
    """Make the index of DID, or of many, equal to the repositories.

    Exit codes: 0 completed, 1 failed (also one of many), 3 cancelled.
    """
    emit = Emit.ALL if emit_all else Emit.CHANGES
    by, at = requester(), time.time()
    commands: list[Command] = [
        BulkSync(id=new_id(), selection=each, emit=emit, requested_by=by, requested_at=at)
        for each in selections
    ]
    if did is not None:
        commands.append(DidSync(id=new_id(), did=did, emit=emit, requested_by=by, requested_at=at))
    _carry_out(settings, commands, no_wait=no_wait, as_json=as_json)


@click.command("reconcile")
@with_settings
@selecting
@_waiting
def reconcile_command(
    settings: Settings,
    *,
    did: str | None,
    selections: Sequence[Selection],
    no_wait: bool,
    as_json: bool,
) -> None:
    """Compare DID, or many, with their hosts, and sync those that are behind.

    Exit codes: 0 completed, 1 failed (also: could not ask about one), 3 cancelled.
    """
    by, at = requester(), time.time()
    given = selections if did is None else [Selection(By.DIDS, dids=(did,))]
    commands = [
        Reconcile(id=new_id(), selection=each, requested_by=by, requested_at=at) for each in given
    ]
    _carry_out(settings, commands, no_wait=no_wait, as_json=as_json)


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
    _carry_out(settings, [command], no_wait=no_wait, as_json=as_json)


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
    _carry_out(settings, [command], no_wait=no_wait, as_json=as_json)


@click.command("forget")
@with_settings
@click.argument("did", callback=validated(types.did))
@click.option("--yes", is_flag=True, help="Do not ask whether to go on.")
@_waiting
def forget_command(
    settings: Settings, *, did: str, yes: bool, no_wait: bool, as_json: bool
) -> None:
    """Delete every record of DID from the index, and all that is known of the account.

    Consumers of the events see the deletes.  This does not block the account: its next frame, or a
    listing that names it, brings it in again.

    Without a terminal it needs --yes.

    Exit codes: 0 completed, 1 failed, 2 wrong usage, 3 cancelled.
    """
    if not yes:
        if not sys.stdin.isatty():
            raise click.UsageError("there is no terminal to confirm at: add --yes")
        click.confirm(f"Delete everything that is known of {did}?", abort=True, err=True)
    command = Forget(id=new_id(), did=did, requested_by=requester(), requested_at=time.time())
    _carry_out(settings, [command], no_wait=no_wait, as_json=as_json)


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

    async def stop() -> tuple[Operation | None, str | None]:
        async with read_only(settings) as found:
            await send(found, command)
            operation = await cancelled(found, operation_id, ANSWER_SECONDS)
            return operation, None if operation and operation.ended else await _held(found)

    operation, held = uvloop.run(stop())
    if held is not None:
        fail([f"{held}; operation {operation_id} is cancelled when it ends"], FAILED)
    if operation is None or operation.status is not Status.CANCELLED:
        known = "there is none" if operation is None else f"it is {operation.status}"
        fail([f"operation {operation_id} was not cancelled: {known}"], FAILED)
    click.echo(summary(operation))


@click.command("operations")
@with_settings
@click.option("--did", callback=validated(types.did), help="Only of this repo.")
@click.option("--status", "statuses", type=click.Choice([s.value for s in Status]), multiple=True)
@click.option("--parent", metavar="ID", help="Those that are part of this one.")
@click.option("--limit", default=50, show_default=True, type=click.IntRange(1, 1_000_000))
@click.option("--watch", is_flag=True, help="Show them again every second, until Ctrl-C.")
@click.option("--json", "as_json", is_flag=True, help="One operation a line, as published.")
def operations_command(
    settings: Settings,
    *,
    did: str | None,
    statuses: tuple[str, ...],
    parent: str | None,
    limit: int,
    watch: bool,
    as_json: bool,
) -> None:
    """List operations, the newest first; those that are part of another only when asked for."""
    settings = attached(briefly(settings))
    query = Query(frozenset(map(Status, statuses)) or frozenset(Status), did, limit, parent=parent)

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


async def send(services: Services, *commands: Command) -> None:
    """Send commands.  Raises ``Fatal`` when that fails."""
    try:
        async with ControlTopic.opened(services.client, services.topics) as topic:
            for command in commands:
                async with answering(services.settings, "Kafka to take the command"):
                    await topic.send(command)
    except Unavailable as error:
        raise Fatal(f"the command was not confirmed: {error}") from error


async def watched(
    services: Services, identifiers: Sequence[str], console: Console
) -> list[Operation]:
    """Follow operations to their ends, with one progress bar where there is a terminal."""
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[what]}"))
    newest: dict[str, Operation] = {}
    at_once = asyncio.Semaphore(_FOLLOWED)
    try:
        with Progress(*columns, TimeElapsedColumn(), console=console, transient=True) as progress:
            task = progress.add_task("queued", total=100 * len(identifiers), what="")

            async def followed(history: History, identifier: str) -> None:
                async with at_once, aclosing(follow(history, identifier)) as steps:
                    async for operation in steps:
                        newest[identifier] = operation
                        seen = list(newest.values())
                        progress.update(
                            task,
                            completed=sum(one.progress for one in seen),
                            description=str(operation.phase or operation.status),
                            what=_how_far(seen),
                        )

            async with _history(services) as history, _warned(services, console):
                await asyncio.gather(*(followed(history, each) for each in identifiers))
    except Unavailable as error:
        first = identifiers[0]
        raise Fatal(f"operation {first} goes on, but cannot be followed: {error}") from error
    return [newest[identifier] for identifier in identifiers]


def _listed_entries(operations: Sequence[Operation]) -> str:
    return f"{sum(one.records_processed for one in operations)} entries read"


def _how_far(operations: Sequence[Operation]) -> str:
    if all(one.type is Type.DISCOVERY for one in operations):
        return _listed_entries(operations)
    records = f"{sum(one.records_processed for one in operations)} records"
    found = _all_children(operations)
    if found is None:
        return records
    expected = "?" if found.expected is None else str(found.expected)
    failed = sum(found.failed.values())
    return f"{found.done} of {expected} repositories, {failed} failed, {records}"


def _all_children(operations: Sequence[Operation]) -> Children | None:
    """Return what became of the children of all ``operations`` together; None if they have none."""
    each = [one.children for one in operations if one.children is not None]
    if not each:
        return None
    expected = [one.expected for one in each]
    return Children(
        expected=None if None in expected else sum(number or 0 for number in expected),
        chosen=sum(one.chosen for one in each),
        completed=sum(one.completed for one in each),
        failed=dict(sum((Counter(one.failed) for one in each), Counter[str]())),
        cancelled=sum(one.cancelled for one in each),
        skipped=sum(one.skipped for one in each),
        in_step=None
        if any(one.in_step is None for one in each)
        else sum(one.in_step or 0 for one in each),
    )


def exit_code(operations: Sequence[Operation]) -> int:
    """Return what the command's exit code says about the operations' ends."""
    if any(one.status is Status.CANCELLED for one in operations):
        return _CANCELLED
    well = all(
        one.status is Status.COMPLETED and not (one.children and _unwell(one.children))
        for one in operations
    )
    return _COMPLETED if well else FAILED


def _unwell(found: Children) -> Mapping[str, int]:
    """Return the failures that are no result; that an account is gone is one of a reconcile."""
    if found.in_step is None:
        return found.failed
    return {name: count for name, count in found.failed.items() if name not in GONE}


def _of_reconcile(found: Children, in_step: int) -> str:
    """Return what a reconcile has found."""
    unasked = _unwell(found)
    gone = sum(found.failed.values()) - sum(unasked.values())
    names = ", ".join(f"{name} {count}" for name, count in sorted(unasked.items()))
    expected = "" if found.expected is None else f" of {found.expected}"
    return (
        f"{found.done}{expected} repositories: {in_step} in step, "
        f"{found.completed - in_step} repaired, {gone} gone, "
        f"{sum(unasked.values())} could not be asked about{f' ({names})' if names else ''}, "
        f"{found.cancelled} cancelled, {found.skipped} skipped; "
    )


def outcome(operations: Sequence[Operation]) -> str:
    """Return what came of operations, in a few words."""
    found = _all_children(operations)
    of_children = ""
    if found is not None and found.in_step is not None:
        of_children = _of_reconcile(found, found.in_step)
    elif found is not None:
        names = ", ".join(f"{name} {count}" for name, count in sorted(found.failed.items()))
        failed = f"{sum(found.failed.values())} failed{f' ({names})' if names else ''}"
        expected = "" if found.expected is None else f" of {found.expected}"
        of_children = (
            f"{found.done}{expected} repositories: {found.completed} completed, {failed}, "
            f"{found.cancelled} cancelled, {found.skipped} skipped; "
        )
    if operations and all(one.type is Type.DISCOVERY for one in operations):
        return _listed_entries(operations)
    created, updated, deleted = (
        sum(getattr(one, name) for one in operations) for name in ("created", "updated", "deleted")
    )
    return f"{of_children}{created} created, {updated} updated, {deleted} deleted"


def summary(operation: Operation) -> str:
    """Return one line about an operation."""
    what = escape(operation.uri or operation.did or operation.reason or "")
    why = ": ".join(filter(None, [operation.failure, escape(operation.error or "")]))
    at = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(operation.requested_at))
    stage = "/".join(filter(None, [operation.status, operation.phase]))
    end = f": {why}" if why else ""
    return f"{at}  {operation.id}  {operation.type} {what}  {stage}  {outcome([operation])}{end}"


async def listed(services: Services, query: Query) -> list[Operation]:
    """Return operations, newest first.  Raises ``Fatal`` when they cannot be read."""
    database = services.database
    history = History(database, Changes(database))
    found: list[Operation] = []
    try:
        async with answering(services.settings, f"PostgreSQL at {database.address}"):
            while (left := query.limit - len(found)) > 0:
                page = await history.page(replace(query, limit=min(left, _PAGE)))
                found += page.operations
                if page.cursor is None:
                    break
                query = replace(query, cursor=page.cursor)
    except Unavailable as error:
        raise Fatal(f"operations cannot be read: {error}") from error
    return found


async def cancelled(services: Services, identifier: str, patience: float) -> Operation | None:
    """Wait until an operation has ended, at most ``patience`` seconds; None: there is none."""
    async with _history(services) as history:
        operation = await history.get(identifier)
        with suppress(TimeoutError):
            async with asyncio.timeout(patience):
                while operation is not None and not operation.ended:
                    operation = await history.changed(identifier, operation.version)
    return operation


async def _held(services: Services) -> str | None:
    """Say what keeps commands from being read, None if nothing does.

    Raises ``Transient`` or ``Fatal``.
    """
    control = places_of(services.topics, Topic.CONTROL)
    async with answering(services.settings, "Kafka"):
        found = await left_open(services.client, control)
    return str(found[0]) if found else None


@asynccontextmanager
async def _warned(services: Services, console: Console) -> AsyncIterator[None]:
    """Say once during the block that commands are not read, if they are not."""

    async def watch() -> None:
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            with suppress(Transient):
                if (held := await _held(services)) is not None:
                    console.print(f"{held}: the command waits until it ends", markup=False)
                    return

    watching = asyncio.create_task(watch())
    try:
        yield
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)


@asynccontextmanager
async def _history(services: Services) -> AsyncIterator[History]:
    changes, stop = Changes(services.database), asyncio.Event()
    listening = asyncio.create_task(changes.run(stop))
    try:
        yield History(services.database, changes)
    finally:
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)
