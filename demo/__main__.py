"""``python -m demo``: see ``--help``.

Exit codes: 0 everything agrees; 1 something differs or failed; 130 interrupted before the end.
Ctrl-C ends the traffic and goes on to the comparison; before the traffic, and the second time,
it ends everything at once.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Coroutine
from typing import Any

import click
from rich.console import Console
from rich.text import Text

from consumer.config.settings import LogSettings
from consumer.errors import ChiveError
from consumer.runtime import logs
from demo.run import Control, Options, prepared, run
from demo.xrpc import XrpcFailed

_INTERRUPTED = 130


@click.command()
@click.option("--for", "seconds", type=click.FloatRange(min=1), help="Seconds of traffic.")
@click.option("--accounts", default=8, show_default=True, type=click.IntRange(min=6))
@click.option("--rate", default=25.0, show_default=True, help="Commits per second, at most.")
@click.option("--seed", default=1, show_default=True, help="The same seed, the same people.")
@click.option("--keep", is_flag=True, help="Keep the data directory with all logs.")
@click.option("--prepare", is_flag=True, help="Only download and install what is needed.")
def main(prepare: bool, **chosen: Any) -> None:
    """Show the main job on a real network on loopback, and prove the outcome."""
    logs.configure(LogSettings())
    console, control = Console(), Control()
    work = prepared(console) if prepare else run(Options(**chosen), console, control)
    try:
        sys.exit(asyncio.run(_interruptible(work, console, control)))
    except (ChiveError, XrpcFailed) as error:
        console.print(Text(f"error: {error}", style="red"))
        sys.exit(1)


async def _interruptible(work: Coroutine[Any, Any, int], console: Console, control: Control) -> int:
    demo = asyncio.create_task(work)

    def interrupt() -> None:
        if control.traffic and not control.stop.is_set():
            control.stop.set()
        else:
            demo.cancel()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, interrupt)
    try:
        return await demo
    except asyncio.CancelledError:
        console.print("interrupted", highlight=False)
        return _INTERRUPTED


if __name__ == "__main__":
    main()
