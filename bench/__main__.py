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
from rich.status import Status

from bench import hosted, network, operations, peers, population, pure, tailing, working
from bench.population import Population, is_made
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
NETWORK, RATES, SMALL = "network", "rates", "small"
MAIN = (*PURE, NETWORK, RATES, SMALL)
PEERS = "peers"
NAMES = (*MAIN, *TAILING, *WORKING, OPERATIONS)

_INTERRUPTED = 130
_PURE_COMMITS, _PURE_ROUNDS = 2_000, 8
_RATES = (50, 200, 1_000, 2_000)  # commits per second
_WORKERS = (1, 2)
_SMALL_RECORDS, _SMALL_COMMITS = 10, 500  # the commits are for the floor
_WIDTH = 120  # of the tables in a file


@dataclass(frozen=True, slots=True)
class Size:
    """How much to measure: ``commits`` and ``frames`` are those of one round.

    ``large``, ``small`` and ``calls``: see ``bench.operations``.  ``network_accounts`` and so on:
    the main load, see ``bench.network``; each rate runs for ``rate_seconds``, but for no more than
    ``rate_commits``.
    """

    network_accounts: int = 300
    network_records: int = 500
    network_commits: int = 60_000
    rate_seconds: int = 60
    rate_commits: int = 60_000
    idle_seconds: int = 30
    peer_verified: int = 3_000
    peer_unverified: int = 20_000

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

    def network(self) -> population.Spec:
        """Return the network of the main load."""
        paced = network.WARM + sum(commits for _, commits in self.rates())
        commits = max(self.network_commits, paced)
        return population.Spec(self.network_accounts, self.network_records, commits)

    def rates(self) -> list[tuple[int, int]]:
        """Return the steady rates: commits per second, and how many."""
        return [(rate, min(rate * self.rate_seconds, self.rate_commits)) for rate in _RATES]

    def unrelated(self) -> Spec:
        """Return the traffic for the tailer alone."""
        return Spec(self.accounts, self.records, self.distinct, related=False)


QUICK = Size(
    network_commits=5_000,
    rate_seconds=15,
    rate_commits=15_000,
    idle_seconds=10,
    peer_verified=1_000,
    peer_unverified=4_000,
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
@click.option("--all", "everything", is_flag=True, help="Measure the parts apart as well.")
@click.option("--peers", "others", is_flag=True, help="Measure what others cost beside it.")
@click.option("--json", "file", type=click.Path(path_type=Path), help="Write all figures there.")
@click.option("--network-accounts", type=click.IntRange(2), help="Accounts of the main load.")
@click.option("--network-records", type=click.IntRange(1), help="Records of each of them.")
@click.option("--network-commits", type=click.IntRange(1), help="Commits at full speed.")
@click.option("--rate-seconds", type=click.IntRange(1), help="How long each steady rate runs.")
@click.option("--accounts", type=click.IntRange(2), help="Accounts of the parts apart.")
@click.option("--records", type=click.IntRange(1), help="Records of each account.")
@click.option("--commits", type=click.IntRange(1), help="Commits in one round.")
@click.option("--frames", type=click.IntRange(1), help="Frames in one round of the tailer alone.")
@click.option("--rounds", type=click.IntRange(1), help="Rounds, of which the median counts.")
def main(
    quick: bool,
    names: tuple[str, ...],
    everything: bool,
    others: bool,
    file: Path | None,
    **sizes: int | None,
) -> None:
    """Measure what a user does: sync a network, follow its commits, fast and at steady rates.

    All costs are CPU time, which other work on the machine changes little.
    """
    given = {name: value for name, value in sizes.items() if value is not None}
    size = Size(**{**asdict(QUICK if quick else Size()), **given})
    wanted = frozenset(names or (NAMES if everything else MAIN)) | ({PEERS} if others else set())
    logs.configure(LogSettings(level="error"))
    console = _console()
    report = Report(wanted, asdict(size))
    load = _load(size, wanted, console)
    with console.status("verification"):
        sample = load.network.traffic if load.network else load.related
        assert sample is not None
        report.pure = pure.measure(sample, min(len(sample.commits), _PURE_COMMITS), _PURE_ROUNDS)
    try:
        code = asyncio.run(_interruptible(report, size, load, console))
    except ChiveError as error:
        console.print(f"error: {error}", style="red", markup=False, highlight=False)
        code = 1
    report.finished()
    report.show(console)  # after an error too: what was measured before it took its time
    if file is not None and code == 0:
        file.write_text(json.dumps(report.as_json(), indent=1) + "\n")
    sys.exit(code)


async def _interruptible(report: Report, size: Size, load: Load, console: Console) -> int:
    work = asyncio.create_task(_measure(report, size, load, console))
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, work.cancel)
    try:
        await work
    except asyncio.CancelledError:
        console.print("interrupted", highlight=False)
        return _INTERRUPTED
    return 0


async def _measure(report: Report, size: Size, load: Load, console: Console) -> None:
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
                if load.network:
                    await _main(report, size, load.network, (stack, directory), status)
                related = load.related
                if report.wanted & set(WORKING):
                    assert related is not None
                    status.update("worker and end to end")
                    found = await working.measure(
                        stack, directory, related, size.commits, size.rounds, report.wanted
                    )
                    report.rounds |= found.rounds
                    report.idle, report.shares = found.idle, found.shares
                    report.functions = found.functions
                if OPERATIONS in report.wanted:
                    assert related is not None
                    status.update(OPERATIONS)
                    spec = hosted.Spec(size.large, size.small)
                    report.operations = await operations.measure(
                        stack, directory, related, spec, size.calls
                    )
    finally:
        shutil.rmtree(directory, ignore_errors=True)


async def _main(
    report: Report, size: Size, made: Population, place: tuple[EmbeddedStack, Path], status: Status
) -> None:
    """Measure the main load."""
    found = report.network
    if NETWORK in report.wanted:
        for workers in _WORKERS:
            status.update(f"a network, {workers} worker processes")
            await network.full_speed(*place, made, size.network_commits, workers, found)
    if RATES in report.wanted:
        status.update("steady rates")
        await network.steady(*place, made, size.rates(), size.idle_seconds, found)
    if SMALL in report.wanted:
        status.update("small repositories")
        spec = population.Spec(size.small, _SMALL_RECORDS, _SMALL_COMMITS)
        many = await asyncio.to_thread(population.population, spec)
        await network.small(*place, many, found)
    if PEERS in report.wanted:
        status.update(PEERS)
        report.peers = await peers.measure(*place, made, size.peer_verified, size.peer_unverified)


@dataclass(frozen=True, slots=True)
class Load:
    """What was made beforehand, as far as it is needed."""

    network: Population | None
    related: Traffic | None


def _load(size: Size, wanted: frozenset[str], console: Console) -> Load:
    made = related = None
    if wanted & {*MAIN, PEERS}:
        spec = size.network()
        if not is_made(spec):
            _announce(console)
        made = population.population(spec)
    if wanted & {*WORKING, OPERATIONS} or made is None:
        related = _traffic(size.related(wanted), console)
    return Load(made, related)


def _console() -> Console:
    console = Console()
    return console if console.is_terminal else Console(width=_WIDTH)


def _traffic(spec: Spec, console: Console) -> Traffic:
    if not spec.path.exists():
        _announce(console)
    return traffic(spec)


def _announce(console: Console) -> None:
    console.print("making signed traffic; it is kept for the next run", highlight=False)


if __name__ == "__main__":
    main()
