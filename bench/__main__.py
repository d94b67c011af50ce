"""``python -m bench``: see ``--help``.  Leaves nothing behind but its traffic in the cache."""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import click
from rich.console import Console

from bench import hosted, operations, pure, tailing, working
from bench.report import Report
from bench.traffic import Spec, Traffic, traffic
from consumer.config.settings import LogSettings
from consumer.embedded import EmbeddedStack
from consumer.errors import ChiveError
from consumer.runtime import logs

PURE = ("verify",)
TAILING = ("tailer-relevant", "tailer-all")
WORKING = ("worker", "end-to-end-1", "end-to-end-2", "profile")
OPERATIONS = "operations"
NAMES = (*PURE, *TAILING, *WORKING, OPERATIONS)

_INTERRUPTED = 130
_PURE_COMMITS, _PURE_ROUNDS = 2_000, 8
_WIDTH = 120  # of the tables in a file


@dataclass(frozen=True, slots=True)
class Size:
    """How much to measure: ``commits`` and ``frames`` are those of one round.

    ``large``, ``small`` and ``calls``: see ``bench.operations``.
    """

    accounts: int = 300
    records: int = 200
    commits: int = 4_000
    frames: int = 150_000
    distinct: int = 10_000  # unrelated frames that are made; the relay begins again behind them
    rounds: int = 3
    large: int = 100_000
    small: int = 2_000
    calls: int = 150

    def related(self, wanted: frozenset[str]) -> Spec:
        """Return the traffic for everything but the tailer alone."""
        needed = max(1, len(wanted & {*WORKING, OPERATIONS})) * self.commits * self.rounds
        return Spec(self.accounts, self.records, needed)

    def unrelated(self) -> Spec:
        """Return the traffic for the tailer alone."""
        return Spec(self.accounts, self.records, self.distinct, related=False)


QUICK = Size(
    accounts=60,
    records=100,
    commits=1_000,
    frames=40_000,
    distinct=4_000,
    rounds=2,
    large=20_000,
    small=200,
    calls=50,
)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--quick", is_flag=True, help="Less of everything; the figures are rougher.")
@click.option(
    "--only", "names", multiple=True, type=click.Choice(NAMES), help="Measure this; repeatable."
)
@click.option("--json", "file", type=click.Path(path_type=Path), help="Write all figures there.")
@click.option("--accounts", type=click.IntRange(2), help="Accounts of the network.")
@click.option("--records", type=click.IntRange(1), help="Records of each account.")
@click.option("--commits", type=click.IntRange(1), help="Commits in one round.")
@click.option("--frames", type=click.IntRange(1), help="Frames in one round of the tailer alone.")
@click.option("--rounds", type=click.IntRange(1), help="Rounds, of which the median counts.")
def main(quick: bool, names: tuple[str, ...], file: Path | None, **sizes: int | None) -> None:
    """Measure what a verified commit costs, from the relay's socket to chive.events, and a sync."""
    given = {name: value for name, value in sizes.items() if value is not None}
    size = Size(**{**asdict(QUICK if quick else Size()), **given})
    wanted = frozenset(names or NAMES)
    logs.configure(LogSettings(level="error"))
    console = _console()
    report = Report(wanted, asdict(size))
    related = _traffic(size.related(wanted), console)
    with console.status("verification"):
        report.pure = pure.measure(related, min(size.commits, _PURE_COMMITS), _PURE_ROUNDS)
    try:
        code = asyncio.run(_interruptible(report, size, related, console))
    except ChiveError as error:
        console.print(f"error: {error}", style="red", markup=False, highlight=False)
        sys.exit(1)
    if code == 0:
        report.finished()
        report.show(console)
        if file is not None:
            file.write_text(json.dumps(report.as_json(), indent=1) + "\n")
    sys.exit(code)


async def _interruptible(report: Report, size: Size, related: Traffic, console: Console) -> int:
    work = asyncio.create_task(_measure(report, size, related, console))
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, work.cancel)
    try:
        await work
    except asyncio.CancelledError:
        console.print("interrupted", highlight=False)
        return _INTERRUPTED
    return 0


async def _measure(report: Report, size: Size, related: Traffic, console: Console) -> None:
    """Measure what needs Kafka and PostgreSQL."""
    if report.wanted <= set(PURE):
        return
    directory = Path(tempfile.mkdtemp(prefix="chive-bench-"))
    try:
        with console.status("starting Kafka and PostgreSQL") as status:
            async with EmbeddedStack(directory) as stack:
                for name in sorted(report.wanted & set(TAILING)):
                    status.update(name)
                    unrelated = _traffic(size.unrelated(), console)
                    forward = name.rpartition("-")[2]
                    report.rounds[name] = await tailing.measure(
                        stack, directory, unrelated, forward, size.frames, size.rounds
                    )
                if report.wanted & set(WORKING):
                    status.update("worker and end to end")
                    found = await working.measure(
                        stack, directory, related, size.commits, size.rounds, report.wanted
                    )
                    report.rounds |= found.rounds
                    report.idle, report.shares = found.idle, found.shares
                    report.functions = found.functions
                if OPERATIONS in report.wanted:
                    status.update(OPERATIONS)
                    spec = hosted.Spec(size.large, size.small)
                    report.operations = await operations.measure(
                        stack, directory, related, spec, size.calls
                    )
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _console() -> Console:
    console = Console()
    return console if console.is_terminal else Console(width=_WIDTH)


def _traffic(spec: Spec, console: Console) -> Traffic:
    if not spec.path.exists():
        console.print("making signed traffic; it is kept for the next run", highlight=False)
    return traffic(spec)


if __name__ == "__main__":
    main()
