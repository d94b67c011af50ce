"""``python -m tests.fuzz``: see ``--help``."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from random import Random

import click
from rich.console import Console
from rich.table import Table

from tests.fuzz.targets import Target, judged, targets

_SLOW = 1.0  # seconds for any input of up to 2 MB
_FINDINGS = Path(".fuzz")
_TARGETS = {target.name: target for target in targets()}


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--seconds", default=60.0, show_default=True, help="For all targets together.")
@click.option("--seed", type=int, help="Repeat a run; by default a new one each time.")
@click.option("--target", "names", multiple=True, type=click.Choice(list(_TARGETS)))
def main(seconds: float, seed: int | None, names: Sequence[str]) -> None:
    """Try hostile input for a while; what crashes or takes longer than 1 s is kept in .fuzz/."""
    seed = Random().getrandbits(32) if seed is None else seed
    table = Table(title=f"hostile input, seed {seed}")
    for column in ("target", "cases", "refused", "worst ms", "findings"):
        table.add_column(column, justify="left" if column == "target" else "right")
    chosen = [_TARGETS[name] for name in names or _TARGETS]
    found = 0
    for target in chosen:
        cases, refused, worst, findings = _tried(target, Random(seed), seconds / len(chosen))
        found += findings
        row = (f"{cases:,}", f"{refused:,}", f"{worst * 1e3:.1f}", f"{findings}")
        table.add_row(target.name, *row)
    console = Console()
    console.print(table)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    console.print(f"peak memory {peak:.0f} MiB", highlight=False)
    sys.exit(1 if found else 0)


def _tried(target: Target, chance: Random, seconds: float) -> tuple[int, int, float, int]:
    cases = refused = findings = 0
    worst, end = 0.0, time.monotonic() + seconds
    while time.monotonic() < end:
        data = target.case(chance)
        cases += 1
        try:
            accepted, took = judged(target, data)
        except Exception as error:  # noqa: BLE001 - that is what we are looking for
            findings += _kept(target, data, repr(error))
            continue
        refused += not accepted
        worst = max(worst, took)
        if took > _SLOW:
            findings += _kept(target, data, f"took {took:.1f} s")
    return cases, refused, worst, findings


def _kept(target: Target, data: bytes, why: str) -> int:
    _FINDINGS.mkdir(exist_ok=True)
    path = _FINDINGS / f"{target.name}-{hash(data) & 0xFFFFFFFF:08x}"
    path.write_bytes(data)
    click.echo(f"{target.name}: {why[:200]}: {path}", err=True)
    return 1


if __name__ == "__main__":
    main()
