"""Commands and what they came to: ``consumer sync``, ``reconcile``, ``refresh`` and so on."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable, Sequence
from typing import NoReturn

import click
import uvloop
from rich.console import Console

from consumer.cli.following import (
    COMPLETED,
    cancelled,
    exit_code,
    held_back_by,
    listed,
    outcome,
    requester,
    send,
    summary,
    watched,
)
from consumer.cli.options import ANSWER_SECONDS, briefly, validated, with_settings
from consumer.cli.output import FAILED, INTERRUPTED, fail, print_json
from consumer.cli.selecting import selecting
from consumer.config import types
from consumer.config.settings import Settings
from consumer.printable import escape_json
from consumer.runtime import lifecycle
from consumer.runtime.tasks import wait_for_stop
from consumer.services import attached, read_only
from procedures.client import Query, new_id
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
from procedures.operations import Operation, Status, encode
from procedures.selections import By, Selection


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
        sys.exit(COMPLETED)
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
            return operation, None if operation and operation.ended else await held_back_by(found)

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
