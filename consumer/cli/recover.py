"""``consumer recover``: a way back when tables and topics are not of one history."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import click
import uvloop

from consumer.cli.options import briefly, with_settings
from consumer.cli.output import FAILED
from consumer.config.settings import Settings
from consumer.errors import Fatal
from consumer.recovery.findings import Findings, look
from consumer.recovery.rebuild import rebuild
from consumer.services import attached, preparing

_ON_A_LINE = 79


@click.command("recover")
@with_settings
@click.option("--yes", is_flag=True, help="Do it; without, only say what was found.")
@click.option("--force", is_flag=True, help="Also if tables and topics do not contradict.")
def recover_command(settings: Settings, *, yes: bool, force: bool) -> None:
    """Make the tables again after PostgreSQL was restored from a backup, or lost.

    What consumers were told is read from chive.events and becomes what the tables know; then every
    repository is synced, and differences are published.  All processes must be stopped.
    """
    settings = attached(briefly(settings))

    async def recover() -> bool:
        async with preparing(settings) as services:
            found = await look(services)
            wanted = bool(found.contradictions or found.condemned or force)
            click.echo("\n".join(described(found, wanted=wanted)))
            if found.members:
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


class _Line:
    """One line on standard error that is written again and again."""

    def show(self, what: str, done: int) -> None:
        if sys.stderr.isatty():
            click.echo(f"\r{what}: {done:,}".ljust(_ON_A_LINE), err=True, nl=False)


def described(found: Findings, *, wanted: bool) -> Sequence[str]:
    """Return what was found, what will be done, and what consumers see, as lines."""
    lines = ["Found:"]
    lines += [f"  {text}" for text in found.contradictions]
    if found.condemned:
        lines.append(f"  a process has noted: {found.condemned}")
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
