"""``python -m bench.guard``: no cost of the main load is much worse than what is recorded.

Costs are multiples of the floor that is measured beside them, the median of some runs, so that
another machine, or a busy one, changes them little.  Only the steady rates need one that keeps up:
on a machine that is too busy for them batches are larger, and cheaper; then they do not count.
``--record`` writes ``bench/recorded.json`` anew, after a change that is meant to cost more, or
costs less.
"""

from __future__ import annotations

import json
import statistics
import subprocess  # our own module
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

_RECORDED = Path(__file__).with_name("recorded.json")
_TOLERANCE = 0.25
_LATE = 1_000.0  # ms, the p99 of a rate that the machine does not keep up with
_LOAD = ("--quick", "--only", "verify", "--only", "network", "--only", "rates")
_SIZE = ("--network-accounts", "100", "--network-commits", "10000")


def ratios(report: Mapping[str, Any]) -> dict[str, float]:
    """Return the costs that a report of the benchmark (``--json``) tells, in floors by name."""
    steps = {
        name: float(step["floors"])
        for name, step in report["network"]["steps"].items()
        if step["lags"] is None or step["lags"][1] <= _LATE
    }
    return {"verify": float(report["pure"]["ratio"]), **steps}


def medians(runs: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the median of each ratio that at least half of the runs have."""
    names = dict.fromkeys(name for run in runs for name in run)
    found = {name: [run[name] for run in runs if name in run] for name in names}
    return {
        name: statistics.median(of_runs)
        for name, of_runs in found.items()
        if len(of_runs) * 2 >= len(runs)
    }


def worse(recorded: Mapping[str, float], found: Mapping[str, float]) -> list[str]:
    """Return the names of what is missing, or worse than the tolerance lets it be."""
    bounds = {name: ratio * (1 + _TOLERANCE) for name, ratio in recorded.items()}
    return [name for name, bound in bounds.items() if found.get(name, float("inf")) > bound]


def _run() -> tuple[str, dict[str, float]]:
    """Run the benchmark once; return the form of the core, and the ratios."""
    with tempfile.TemporaryDirectory(prefix="chive-guard-") as directory:
        file = Path(directory) / "report.json"
        argv = [sys.executable, "-m", "bench", *_LOAD, *_SIZE, "--json", str(file)]
        done = subprocess.run(argv, stdout=subprocess.PIPE, text=True, check=False)
        if done.returncode:
            raise click.ClickException(f"the benchmark failed:\n{done.stdout}")
        report = json.loads(file.read_text())
    return str(report["machine"]["core"]), ratios(report)


def _table(recorded: Mapping[str, float], found: Mapping[str, float]) -> Table:
    table = Table(title="CPU in floors")
    for column in ("", "recorded", "found", "change"):
        table.add_column(column, justify="right" if column else "left")
    bad = worse(recorded, found)
    for name, ratio in found.items():
        before = recorded.get(name)
        change = f"{ratio / before - 1:+.0%}" if before else "new"
        shown = f"[red]{change}[/red]" if name in bad else change
        table.add_row(name, f"{before:.1f}" if before else "", f"{ratio:.1f}", shown)
    return table


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--runs", default=5, show_default=True, type=click.IntRange(1))
@click.option("--record", is_flag=True, help="Write what is found to bench/recorded.json.")
def main(runs: int, record: bool) -> None:
    """Fail when a cost of the main load is more than 25 % worse than recorded."""
    console = Console()
    outcomes = []
    for number in range(1, runs + 1):
        with console.status(f"run {number} of {runs}"):
            core, outcome = _run()
            outcomes.append(outcome)
    found = medians(outcomes)
    recorded = json.loads(_RECORDED.read_text())
    console.print(_table(recorded["floors"], found))
    if record:
        rounded = {name: round(ratio, 2) for name, ratio in found.items()}
        _RECORDED.write_text(json.dumps({"core": core, "floors": rounded}, indent=1) + "\n")
        return
    if core != recorded["core"]:
        raise click.ClickException(f"recorded with the core as {recorded['core']}, found {core}")
    if bad := worse(recorded["floors"], found):
        names = ", ".join(bad)
        raise click.ClickException(f"more than {_TOLERANCE:.0%} worse, or not measured: {names}")


if __name__ == "__main__":
    main()
