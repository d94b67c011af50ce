"""The command line: ``python -m consumer run | check | status | events | sync | refresh | …``.

Exit codes: 0 done; 1 something failed or could not be reached; 2 wrong usage or settings.
Every expected error is one line on standard error; a traceback is a fault of ours.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import aclosing, contextmanager
from pathlib import Path
from typing import Any, NoReturn

import click
import orjson
import structlog
import uvloop
from rich.console import Console

from consumer import app, metrics
from consumer.app import Plan, Role
from consumer.cli import check, events, operations, status
from consumer.config import types
from consumer.config.settings import LogSettings, Settings
from consumer.config.sources import BadSettings, load
from consumer.errors import ChiveError
from consumer.runtime import lifecycle, logs, services
from consumer.runtime.tasks import unless_stopped, wait_for_stop
from procedures.client import Query, new_id
from procedures.messages import Cancel, Command, DidSync, Emit, RecordRefresh, is_record_uri
from procedures.operations import Operation, Status
from procedures.operations import encode as encode_operation

_FAILED, _MISUSED, _INTERRUPTED = 1, 2, 130
_PATIENCE = 10.0


def main() -> None:
    """Run the command line of this process."""
    with _errors_as_lines():
        cli(prog_name="python -m consumer")


@contextmanager
def _errors_as_lines() -> Iterator[None]:
    try:
        yield
    except BadSettings as bad:
        _fail(bad.lines, _MISUSED)
    except ChiveError as error:
        _fail([str(error)], _FAILED)
    except BrokenPipeError:
        # Whoever read our output has seen enough; nothing may be written at exit either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)


def _fail(lines: tuple[str, ...] | list[str], code: int) -> NoReturn:
    for line in lines:
        click.echo(f"error: {logs.escape(line, keep=chr(10))}", err=True)
    sys.exit(code)


def _validated(check: Callable[[str], str]) -> Callable[[Any, Any, Any], Any]:
    def callback(_context: click.Context, _parameter: click.Parameter, value: Any) -> Any:
        try:
            if isinstance(value, tuple):
                return tuple(map(check, value))
            return value if value is None else check(value)
        except ValueError as error:
            raise click.BadParameter(str(error)) from None

    return callback


def _with_settings(command: Callable[..., None]) -> Callable[..., None]:
    """Give ``command`` the effective settings first, and the options that name their sources."""

    @click.option("--config", type=click.Path(path_type=Path), help="Settings file (TOML).")
    @click.option(
        "--relay",
        metavar="URL",
        callback=_validated(types.relay_url),
        help="The relay or PDS whose firehose is read.",
    )
    @click.option("--data-dir", type=click.Path(path_type=Path), help="Embedded servers' data.")
    @functools.wraps(command)
    def with_settings(
        *, config: Path | None, relay: str | None, data_dir: Path | None, **options: Any
    ) -> None:
        overrides: dict[str, Any] = {"relay": {"url": relay}} if relay else {}
        overrides |= {"data_dir": data_dir} if data_dir else {}
        command(load(config, overrides), **options)

    return with_settings


def _briefly(settings: Settings) -> Settings:
    """Let a short command's errors be its own lines alone, and not be long in coming."""
    logs.configure(LogSettings(level="error"))
    logging.disable()
    kafka = settings.kafka
    patience = min(kafka.request_timeout, _PATIENCE)
    kafka = kafka.model_copy(update={"request_timeout": patience})
    return settings.model_copy(update={"kafka": kafka})


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
def cli() -> None:
    """Turn the AT Protocol firehose into verified record changes in Kafka."""


@cli.command()
@_with_settings
@click.option(
    "--role",
    "roles",
    type=click.Choice([role.value for role in Role]),
    multiple=True,
    help="What to run in this process; may be repeated.  [default: all]",
)
@click.option(
    "--workers", type=click.IntRange(1, 64), help="Run so many worker processes under this one."
)
@click.option("--name", hidden=True, help="What the logs call this process.")
def run(
    settings: Settings, *, roles: tuple[str, ...], workers: int | None, name: str | None
) -> None:
    """Run the consumer until SIGTERM or Ctrl-C.

    Without settings it starts an embedded Kafka and PostgreSQL in .chive/ and reads the public
    relay.
    """
    wanted = frozenset(map(Role, roles)) or frozenset(Role)
    if workers and Role.WORKER not in wanted:
        raise click.UsageError("--workers needs the role worker")
    logs.configure(settings.log)
    if name:
        structlog.contextvars.bind_contextvars(process=name)
    plan = Plan(settings, wanted, workers, click.get_current_context().params["config"])
    lifecycle.run(lambda stop: app.run(plan, stop))


@cli.command("check")
@_with_settings
@click.option("--json", "as_json", is_flag=True, help="JSON instead of TOML.")
def check_command(settings: Settings, *, as_json: bool) -> None:
    """Show the effective settings; ask whether all can be reached.

    Secrets are masked.
    """
    answers = uvloop.run(check.check(_briefly(settings)))
    if as_json:
        _print_json(check.as_json(settings, answers))
    else:
        click.echo(check.as_toml(settings, answers))
    if any(answer.ok is False for answer in answers.values()):
        sys.exit(_FAILED)


@cli.command("status")
@_with_settings
@click.option("--json", "as_json", is_flag=True, help="JSON instead of tables.")
def status_command(settings: Settings, *, as_json: bool) -> None:
    """Show positions, lag, repos by state and what waits."""
    settings = services.attached(_briefly(settings))

    async def read() -> status.Report:
        async with services.read_only(settings) as found:
            return await status.read(found)

    seen = uvloop.run(read())
    if as_json:
        _print_json(seen)
    else:
        status.render(seen, Console(soft_wrap=True, highlight=False))


@cli.command("events")
@_with_settings
@click.option("--follow", "-f", "follows", is_flag=True, help="Wait for more, until Ctrl-C.")
@click.option("--from-start", is_flag=True, help="With --follow: first everything that is kept.")
@click.option(
    "--did", "dids", multiple=True, callback=_validated(types.did), help="Only this repo."
)
@click.option(
    "--collection",
    "collections",
    multiple=True,
    callback=_validated(types.pattern),
    help="Only records of this collection, or pattern such as 'pub.chive.*'.",
)
@click.option("--type", "types", type=click.Choice(metrics.EVENT_TYPES), multiple=True)
@click.option("--json", "as_json", is_flag=True, help="The events as published, one a line.")
def events_command(
    settings: Settings,
    *,
    dids: tuple[str, ...],
    collections: tuple[str, ...],
    types: tuple[str, ...],
    follows: bool,
    from_start: bool,
    as_json: bool,
) -> None:
    """Show the events that are kept, or those to come."""
    settings = services.attached(_briefly(settings))
    wanted = events.Filter.of(dids, collections, types)
    client, topics = services.kafka_of(settings)

    async def show() -> None:
        found = events.events(
            client, topics, wanted, from_start=from_start or not follows, follow=follows
        )
        async with aclosing(found):
            async for event, value in found:
                line = logs.escape_json(value.decode()) if as_json else events.line(event)
                sys.stdout.write(f"{line}\n")
                sys.stdout.flush()

    lifecycle.run(lambda stop: unless_stopped(stop, show()))


def _waiting(command: Callable[..., None]) -> Callable[..., None]:
    command = click.option("--json", "as_json", is_flag=True, help="The operation as JSON.")(
        command
    )
    return click.option("--no-wait", is_flag=True, help="Print the id and leave it to itself.")(
        command
    )


def _carry_out(settings: Settings, command: Command, *, no_wait: bool, as_json: bool) -> NoReturn:
    """Send a command, wait for its operation's end, and exit with what that was."""
    settings = services.attached(_briefly(settings))

    async def send_and_wait() -> Operation | None:
        async with services.read_only(settings) as found:
            await operations.send(found, command)
            if no_wait:
                return None
            return await operations.watched(found, command.id, Console(stderr=True))

    try:
        operation = uvloop.run(send_and_wait())
    except KeyboardInterrupt:
        _fail([f"operation {command.id} goes on; see 'consumer operations'"], _INTERRUPTED)
    if operation is None:
        if as_json:
            _print_json({"id": command.id})
        else:
            click.echo(command.id)
        sys.exit(0)
    _print_operations([operation], as_json=as_json)
    sys.exit(operations.exit_code(operation))


def _print_operations(found: list[Operation], *, as_json: bool) -> None:
    for operation in found:
        if as_json:
            click.echo(logs.escape_json(encode_operation(operation).decode()))
        else:
            click.echo(operations.summary(operation))


@cli.command("sync")
@_with_settings
@click.argument("did", callback=_validated(types.did))
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
        requested_by=operations.requester(),
        requested_at=time.time(),
    )
    _carry_out(settings, command, no_wait=no_wait, as_json=as_json)


def _record_uri(text: str) -> str:
    if not is_record_uri(text):
        raise ValueError(f"'{text}' is not at://DID/collection/rkey")
    return text


@cli.command("refresh")
@_with_settings
@click.argument("uri", metavar="AT-URI", callback=_validated(_record_uri))
@_waiting
def refresh_command(settings: Settings, *, uri: str, no_wait: bool, as_json: bool) -> None:
    """Fetch one record again, and take over what its repository says.

    Exit codes: 0 completed, 1 failed, 3 cancelled.
    """
    command = RecordRefresh(
        id=new_id(), uri=uri, requested_by=operations.requester(), requested_at=time.time()
    )
    _carry_out(settings, command, no_wait=no_wait, as_json=as_json)


@cli.command("cancel")
@_with_settings
@click.argument("operation_id", metavar="ID")
def cancel_command(settings: Settings, *, operation_id: str) -> None:
    """Stop an operation; what was injected already still applies."""
    settings = services.attached(_briefly(settings))
    command = Cancel(
        id=new_id(),
        operation_id=operation_id,
        requested_by=operations.requester(),
        requested_at=time.time(),
    )

    async def stop() -> Operation | None:
        async with services.read_only(settings) as found:
            await operations.send(found, command)
            return await operations.cancelled(found, operation_id, _PATIENCE)

    operation = uvloop.run(stop())
    if operation is None or operation.status is not Status.CANCELLED:
        known = "there is none" if operation is None else f"it is {operation.status}"
        _fail([f"operation {operation_id} was not cancelled: {known}"], _FAILED)
    click.echo(operations.summary(operation))


@cli.command("operations")
@_with_settings
@click.option("--did", callback=_validated(types.did), help="Only of this repo.")
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
    settings = services.attached(_briefly(settings))
    query = Query(frozenset(map(Status, statuses)) or frozenset(Status), did, limit)

    async def show(stop: asyncio.Event) -> None:
        async with services.read_only(settings) as found:
            while True:
                shown = await operations.listed(found, query)
                if watch:
                    click.clear()
                _print_operations(shown, as_json=as_json)
                if not watch or await wait_for_stop(stop, 1.0):
                    return

    lifecycle.run(show)


def _print_json(value: object) -> None:
    text = orjson.dumps(value, option=orjson.OPT_INDENT_2).decode()
    click.echo(logs.escape_json(text))
