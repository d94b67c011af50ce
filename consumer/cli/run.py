"""``consumer run``: the roles of this process, until a signal ends it."""

from __future__ import annotations

import click
import structlog

from consumer import app
from consumer.app import Plan, Role
from consumer.cli.options import with_settings
from consumer.config.settings import Settings
from consumer.runtime import lifecycle, logs


@click.command("run")
@with_settings
@click.option(
    "--role",
    "roles",
    type=click.Choice([role.value for role in Role]),
    multiple=True,
    help="What to run in this process; may be repeated.  [default: all]",
)
@click.option(
    "--workers", type=click.IntRange(1, 64), help="Run that many worker processes under this one."
)
@click.option("--name", hidden=True, help="What the logs call this process.")
def run_command(
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
