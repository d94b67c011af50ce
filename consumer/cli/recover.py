"""``consumer recover``: a way back when tables and topics are not of one history."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import click
import uvloop
from pydantic import SecretStr

from consumer.cli.options import briefly, validated, with_settings
from consumer.cli.output import FAILED
from consumer.config.secrets import read_secret
from consumer.config.settings import Settings
from consumer.errors import Fatal
from consumer.recovery.adopt import adopt
from consumer.recovery.findings import Findings, look
from consumer.recovery.rebuild import rebuild
from consumer.services import Services, preparing, stack_of
from consumer.shard import WHOLE

_ON_A_LINE = 79


def _connection_string(path: str) -> str:
    return read_secret(Path(path))


@click.command("recover")
@with_settings
@click.option("--yes", is_flag=True, help="Do it; without, only say what was found.")
@click.option("--force", is_flag=True, help="Also if tables and topics do not contradict.")
@click.option(
    "--from",
    "prefix",
    metavar="PREFIX",
    help="Begin anew under kafka.topic_prefix with the repositories of this earlier prefix.",
)
@click.option(
    "--from-dsn-file",
    "server",
    metavar="FILE",
    callback=validated(_connection_string),
    help="The connection string of the earlier prefix's tables, if on another server.",
)
def recover_command(
    settings: Settings, *, yes: bool, force: bool, prefix: str | None, server: str | None
) -> None:
    """Find a way back after PostgreSQL or Kafka was restored from a backup, or lost.

    PostgreSQL: what consumers were told is read from chive.events and becomes what the tables
    know; then every repository is synced, and differences are published.

    Kafka, or another cluster or number of partitions or shards: set a new kafka.topic_prefix and
    give the earlier one with --from; every repository of the shard is synced, and published anew.

    All processes must be stopped.
    """
    settings = briefly(settings)
    if prefix is not None:
        _begin_anew(settings, prefix, server, yes=yes)
        return
    if server is not None:
        raise click.UsageError("--from-dsn-file is for --from")

    async def recover() -> bool:
        async with _served(settings) as services:
            found = await look(services)
            wanted = bool(found.contradictions or found.halted or force)
            click.echo("\n".join(described(found, wanted=wanted)))
            if yes and found.members:
                raise Fatal(
                    f"{found.members} members of this deployment's groups are connected: stop all "
                    "processes; one that was killed is forgotten after some seconds"
                )
            if not (yes and wanted):
                return not wanted
            await rebuild(services, found, _Line().show)
        click.echo("\nThe tables are made. Start the consumer: it syncs every repository.")
        return True

    if not uvloop.run(recover()):
        click.echo("\nNothing was changed: run it again with --yes.")
        sys.exit(FAILED)


def _begin_anew(settings: Settings, prefix: str, server: str | None, *, yes: bool) -> None:
    """Take the repositories of ``prefix`` over into the deployment of the settings.

    ``server``: the connection string of its tables, None for that of the settings.
    """
    at = None
    if server is not None:
        at = settings.postgres.model_copy(update={"dsn": SecretStr(server), "dsn_file": None})
    mine = settings.kafka.topic_prefix
    if prefix == mine:
        raise Fatal(
            f"kafka.topic_prefix is {mine} already: set a new one, of new topics and tables"
        )
    click.echo(
        f"Will be done:\n"
        f"  topics and tables with the prefix {mine} are made, where they are missing\n"
        f"  the repositories that {prefix} knew{_of_shard(settings)} are synced there, and "
        "published anew\n"
        f"  topics and tables of {prefix} stay as they are: remove them yourself\n"
        f"Consumers of {prefix}events:\n"
        f"  read {mine}events from its beginning, into an index that is empty"
    )
    if not yes:
        click.echo("\nNothing was changed: run it again with --yes.")
        sys.exit(FAILED)

    async def take_over() -> int:
        async with _served(settings) as services:
            return await adopt(services, prefix, at)

    count = uvloop.run(take_over())
    click.echo(f"\n{count:,} repositories are taken over. Start the consumer: it syncs them.")


def _of_shard(settings: Settings) -> str:
    shard = settings.scope.shard
    return "" if shard == str(WHOLE) else f", of those the shard {shard},"


@asynccontextmanager
async def _served(settings: Settings) -> AsyncIterator[Services]:
    """Give the servers; embedded ones, which nothing else may be using, run during the block."""
    async with stack_of(settings, asyncio.Event()) as served, preparing(served) as services:
        yield services


class _Line:
    """One line on standard error that is written again and again."""

    def show(self, what: str, done: int) -> None:
        if sys.stderr.isatty():
            click.echo(f"\r{what}: {done:,}".ljust(_ON_A_LINE), err=True, nl=False)


def described(found: Findings, *, wanted: bool) -> Sequence[str]:
    """Return what was found, what will be done, and what consumers see, as lines."""
    lines = ["Found:"]
    lines += [f"  {text}" for text in found.contradictions]
    if found.halted:
        lines.append(f"  a process has noted: {found.halted}")
    if found.members:
        lines.append(f"  {found.members} connected members of its groups: stop all processes first")
    if not wanted:
        return [*lines, "  tables and topics are of one history: there is nothing to recover"]
    return [
        *lines,
        f"  up to {found.events:,} events, and {found.operations:,} states of operations",
        "Will be done:",
        "  records and account states become what chive.events says of them",
        "  every repository is marked for a sync, which the consumer begins when it is started",
        "  operations that had not ended are failed, those asked for since the backup come back",
        "  commands on chive.control that were not carried out are passed over: send them again",
        "Consumers of chive.events:",
        "  go on where they are; what they know stays, unless the hosts say otherwise",
        "  see what has changed meanwhile as events with source backfill",
        "  should take a repository as incomplete until its next sync event says active",
    ]
