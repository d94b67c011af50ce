"""``python -m bench.plots``: draws ``docs/cost-against-size.svg`` from ``bench/sizes.json``.

One panel for each axis of ``bench.sizes``.  Needs the extra ``bench`` (``make bench-plots``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.sizes import Point, recorded

_FILE = Path(__file__).parents[1] / "docs" / "cost-against-size.svg"
_OWN, _KAFKA, _POSTGRES = "#4c72b0", "#dd8452", "#55a868"
_PARTS = {
    "own": ("our processes", _OWN),
    "kafka": ("Kafka", _KAFKA),
    "postgres": ("PostgreSQL", _POSTGRES),
}


def _costs(axes: Axes, points: Sequence[Point], label: str) -> None:
    """Draw what a commit costs in floors, as an area for each part of it."""
    at = [point["at"] for point in points]
    below = [0.0] * len(points)
    for part, (name, colour) in _PARTS.items():
        above = [
            low + point["us"][part] / point["floor_us"]
            for low, point in zip(below, points, strict=True)
        ]
        axes.fill_between(at, below, above, color=colour, alpha=0.75, label=name, linewidth=0)
        below = above
    axes.plot(at, below, color="black", marker="o", markersize=3, linewidth=1)
    axes.set_ylim(0, max(16.0, 1.3 * max(below)))
    _ended(axes, at, label, "floors a commit")


def _memory(axes: Axes, points: Sequence[Point], label: str) -> None:
    """Draw the largest memory of the processes that sync a repository."""
    at = [point["at"] for point in points]
    for role, colour in (("fetcher", _OWN), ("worker", _KAFKA)):
        axes.plot(at, [p["peak_mib"][role] for p in points], marker="o", color=colour, label=role)
    axes.axhline(256, color="grey", linestyle="--", linewidth=1)
    axes.set_ylim(0, 300)
    _ended(axes, at, label, "peak MiB")


def _slow(axes: Axes, points: Sequence[Point], label: str) -> None:
    """Draw what a commit costs at full speed, and at 200 a second."""
    at = [point["at"] for point in points]
    for key, name, colour in (
        ("at_200_floors", "200 a second", _KAFKA),
        ("floors", "full speed", _OWN),
    ):
        axes.plot(at, [p[key] for p in points], marker="o", color=colour, label=name)
    axes.set_ylim(0, 80)
    _ended(axes, at, label, "floors a commit")


def _ended(axes: Axes, at: Sequence[int], label: str, unit: str) -> None:
    axes.set_xscale("log")
    axes.set_xticks(at, [_short(step) for step in at])
    axes.minorticks_off()
    axes.set_xlabel(label)
    axes.set_ylabel(unit)
    axes.grid(visible=True, which="major", color="#dddddd", linewidth=0.5)
    axes.legend(fontsize=7, frameon=False)


def _short(step: int) -> str:
    """Return a step as it is written at an axis, such as 50 M."""
    for unit, sign in ((1_000_000, " M"), (1_000, " k")):
        if step >= unit and step % unit == 0:
            return f"{step // unit}{sign}"
    return str(step)


_PANELS: Sequence[tuple[str, str, Callable[[Axes, Sequence[Point], str], None]]] = (
    ("tracked", "tracked repositories", _costs),
    ("records", "rows of records", _costs),
    ("repository", "records of the repository", _costs),
    ("repository", "records of the repository that is synced", _memory),
    ("partitions", "partitions", _slow),
    ("batch", "frames that a batch may have", _costs),
)


def draw(found: Mapping[str, Sequence[Point]]) -> Figure:
    """Return the figure of what was ``found``: the steps of each axis."""
    figure = Figure(figsize=(10, 5.6), layout="constrained")
    grid: Any = figure.subplots(2, 3)
    for axes, (name, label, panel) in zip(grid.flat, _PANELS, strict=True):
        if points := found.get(name):
            panel(axes, points, label)
    return figure


def _main() -> None:
    # The same figures make the same file, whenever and wherever.
    mpl.rcParams.update({"svg.hashsalt": "chive", "svg.fonttype": "none", "font.size": 8})
    draw(recorded()).savefig(_FILE, metadata={"Date": None})
    print(f"drawn: {_FILE.relative_to(Path.cwd())}")


if __name__ == "__main__":
    _main()
