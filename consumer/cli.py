"""The command line: ``python -m consumer run | check | status | events``.

Exit codes: 0 done; 1 something failed or could not be reached; 2 wrong usage or settings.
Every expected error is one line on standard error; a traceback is a fault of ours.
"""

from __future__ import annotations

import functools
import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import aclosing, contextmanager
from pathlib import Path
from typing import Any, NoReturn

import click
import orjson
import structlog
import uvloop
from rich.console import Console

from consumer import app, check, follow, lifecycle, logs, metrics, services, setting_types, status
from consumer.app import Plan, Role
from consumer.configuration import BadSettings, load
from consumer.errors import ChiveError
from consumer.lifecycle import unless_stopped
from consumer.settings import LogSettings, Settings

_FAILED, _MISUSED = 1, 2
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
        callback=_validated(setting_types.relay_url),
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
    "--did", "dids", multiple=True, callback=_validated(setting_types.did), help="Only this repo."
)
@click.option(
    "--collection",
    "collections",
    multiple=True,
    callback=_validated(setting_types.pattern),
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
    wanted = follow.Filter.of(dids, collections, types)
    client, topics = services.kafka_of(settings)

    async def show() -> None:
        found = follow.events(
            client, topics, wanted, from_start=from_start or not follows, follow=follows
        )
        async with aclosing(found):
            async for event, value in found:
                sys.stdout.write(value.decode() if as_json else follow.line(event))
                sys.stdout.write("\n")
                sys.stdout.flush()

    lifecycle.run(lambda stop: unless_stopped(stop, show()))


def _print_json(value: object) -> None:
    click.echo(orjson.dumps(value, option=orjson.OPT_INDENT_2).decode())
