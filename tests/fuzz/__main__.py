"""``python -m tests.fuzz``: see ``--help``."""

from __future__ import annotations

import resource
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

import click
from rich.console import Console
from rich.table import Table

from consumer.errors import ChiveError
from consumer.runtime.lifecycle import spare_the_collector
from tests.fuzz.grammar import GRAMMARS, Grammar
from tests.fuzz.guided import FINDINGS, available, corpus, guided
from tests.fuzz.recorded import recorded
from tests.fuzz.targets import Target, judged, of_frames, targets
from tests.fuzz.worst import MAX_MEMORY, MAX_SECONDS, measured, worst

_WIDTH = 110  # of the tables in a file


@dataclass(slots=True)
class Tally:
    """What came of one target: ``worst`` in CPU seconds."""

    cases: int = 0
    refused: int = 0
    worst: float = 0.0
    guided: int | None = None
    findings: int = 0


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--seconds", default=60.0, show_default=True, help="For all targets together.")
@click.option("--seed", type=int, help="Repeat a run; by default a new one each time.")
@click.option("--target", "names", multiple=True, help="Only this; repeatable.")
@click.option(
    "--replay", type=click.Path(path_type=Path, exists=True), help="Judge that finding of --target."
)
@click.option("--real/--no-real", default=True, help="Frames of the reference PDS, too.")
@click.option("--worst/--no-worst", "costs", default=True, help="Then measure the worst inputs.")
def main(
    seconds: float,
    seed: int | None,
    names: Sequence[str],
    replay: Path | None,
    real: bool,
    costs: bool,
) -> None:
    """Try hostile input for a while; what crashes or takes longer than 1 s is kept in .fuzz/.

    Half of the time cases are made at random, half of it by atheris, where it is installed.
    """
    spare_the_collector()
    console = Console() if Console().is_terminal else Console(width=_WIDTH)
    seed = Random().getrandbits(32) if seed is None else seed
    everything = list(_everything(console, real))
    chosen = [one for one in everything if not names or one.name in names]
    if not chosen:
        known = ", ".join(one.name for one in everything)
        raise click.BadParameter(f"no target of that name; there are {known}")
    if replay is not None:
        for one in chosen:
            one.fuzzed()(replay.read_bytes())
        return
    if not available():
        console.print("atheris is not installed: half of the time is spent", highlight=False)
    tallies = {one.name: _tried(one, seed, seconds / len(chosen) / 2) for one in chosen}
    console.print(_table(tallies, seed))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    console.print(f"peak memory {peak:.0f} MiB", highlight=False)
    found = sum(tally.findings for tally in tallies.values())
    found += _show_costs(console) if costs and not names else 0
    sys.exit(1 if found else 0)


def _everything(console: Console, real: bool) -> Iterator[Target | Grammar]:
    yield from targets()
    yield from GRAMMARS
    if real and shutil.which("npm") is None:
        console.print("no npm: nothing is recorded from the reference PDS", highlight=False)
    elif real:
        try:
            yield from of_frames("real ", recorded())
        except ChiveError as error:
            raise click.ClickException(str(error)) from error


def _tried(one: Target | Grammar, seed: int, seconds: float) -> Tally:
    tally = Tally()
    if available():
        run = guided(one.name, max(1.0, seconds), seed)
        tally.guided = run.cases
        if run.finding is not None:
            click.echo(f"{one.name}: see {FINDINGS}/\n{run.finding}", err=True)
            tally.findings += 1
    if isinstance(one, Target):
        _try_at_random(one.knowing(corpus(one.name)), Random(seed), seconds, tally)
    return tally


def _try_at_random(target: Target, chance: Random, seconds: float, tally: Tally) -> None:
    end = time.monotonic() + seconds
    for data in target.cases(chance):
        if time.monotonic() >= end:
            return
        tally.cases += 1
        try:
            reason, took = judged(target.judge, data)
        except Exception as error:  # noqa: BLE001 - that is what we are looking for
            _keep(target, data, repr(error))
            tally.findings += 1
            continue
        tally.refused += reason is not None
        tally.worst = max(tally.worst, took)
        if took > MAX_SECONDS:
            _keep(target, data, f"took {took:.1f} s")
            tally.findings += 1


def _keep(target: Target, data: bytes, why: str) -> None:
    FINDINGS.mkdir(exist_ok=True)
    path: Path = FINDINGS / f"{target.name}-{hash(data) & 0xFFFFFFFF:08x}"
    path.write_bytes(data)
    click.echo(f"{target.name}: {why[:200]}: {path}", err=True)


def _table(tallies: dict[str, Tally], seed: int) -> Table:
    table = Table(title=f"hostile input, seed {seed}")
    for column in ("target", "at random", "refused", "worst ms", "guided", "findings"):
        table.add_column(column, justify="left" if column == "target" else "right")
    for name, tally in tallies.items():
        at_random = [f"{tally.cases:,}", f"{tally.refused:,}", f"{tally.worst * 1e3:.1f}"]
        guided_cases = "" if tally.guided is None else f"{tally.guided:,}"
        shown = at_random if tally.cases else ["", "", ""]
        table.add_row(name, *shown, guided_cases, f"{tally.findings}")
    return table


def _show_costs(console: Console) -> int:
    """Show what the worst inputs cost; return how many cost too much."""
    table = Table(title=f"the worst, each alone in a process; at most {MAX_SECONDS:.0f} s of CPU")
    for column in ("input", "bytes", "verdict", "s", "MiB"):
        table.add_column(column, justify="left" if column in {"input", "verdict"} else "right")
    too_much = 0
    for one in worst():
        cost = measured(one.name)
        too_much += cost.too_much
        style = "red" if cost.too_much else None
        figures = (f"{cost.seconds:.2f}", f"{cost.memory:.0f}")
        table.add_row(cost.name, f"{cost.size:,}", cost.verdict, *figures, style=style)
    console.print(table)
    console.print(f"at most {MAX_MEMORY} MiB, of which the modules take most", highlight=False)
    return too_much


if __name__ == "__main__":
    main()
