"""The command line: ``python -m consumer run | check | status | events | sync | refresh | …``.

Every expected error is one line on standard error; a traceback is a fault of ours.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import click

from consumer import compiled
from consumer.cli import operations
from consumer.cli.check import check_command
from consumer.cli.events import events_command
from consumer.cli.output import FAILED, MISUSED, fail
from consumer.cli.recover import recover_command
from consumer.cli.repo import repo_command
from consumer.cli.run import run_command
from consumer.cli.status import status_command
from consumer.cli.topics import topics_command
from consumer.config.sources import BadSettings
from consumer.errors import ChiveError
from consumer.version import commit, version


def _print_version(context: click.Context, _parameter: click.Parameter, wanted: bool) -> None:
    if wanted:
        click.echo(f"chive-firehose {version()} (commit {commit()}, core: {compiled.FORM})")
        context.exit()


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_version,
    help="Show the version, the commit and the form of the core, and exit.",
)
def cli() -> None:
    """Turn the AT Protocol firehose into verified record changes in Kafka."""


for command in (
    run_command,
    check_command,
    status_command,
    repo_command,
    events_command,
    operations.sync_command,
    operations.reconcile_command,
    operations.refresh_command,
    operations.discover_command,
    operations.forget_command,
    operations.cancel_command,
    recover_command,
    topics_command,
    operations.operations_command,
):
    cli.add_command(command)


def main() -> None:
    """Run the command line of this process."""
    with errors_as_lines():
        cli(prog_name="python -m consumer")


@contextmanager
def errors_as_lines() -> Iterator[None]:
    """Turn the errors that we expect into lines and an exit code."""
    try:
        yield
    except BadSettings as bad:
        fail(bad.lines, MISUSED)
    except ChiveError as error:
        fail([str(error)], FAILED)
    except BrokenPipeError:
        # The reader of our output has closed it; nothing may be written at exit either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
