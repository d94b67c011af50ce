"""``python -m bench.sizes``: what a commit costs while everything around it grows.

Each axis makes one thing larger and measures the same load at each step, as fast as it is taken:

``tracked``      rows of ``repos``, of accounts that do nothing;
``records``      rows of ``records``, of the same;
``repository``   records of the one repository that is synced, and then commits;
``partitions``   lanes, also at a steady rate;
``batch``        frames that one batch may have.

A step is the median of some rounds, as a multiple of the floor of the same seconds.
``--record`` writes what was measured to ``bench/sizes.json``, each step in the place of an earlier
one; ``make bench-plots`` draws it.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import psutil
from rich.console import Console

from bench import network
from bench.measured import Measured
from bench.network import Run
from bench.population import Population, Spec, population
from bench.processes import ALL_ROLES
from bench.quiet import Quiet
from consumer.config.settings import LogSettings
from consumer.embedded import EmbeddedStack
from consumer.runtime import logs
from consumer.scope import Scope
from consumer.store.schema import schema_of

RECORDED = Path(__file__).with_name("sizes.json")

_TRACKED = (1_000, 10_000, 100_000, 1_000_000, 10_000_000)
_RECORDS = (100_000, 1_000_000, 10_000_000, 50_000_000)
_REPOSITORY = (100, 1_000, 10_000, 100_000, 1_000_000)
_PARTITIONS = (1, 2, 4, 8, 16, 32)
_BATCH = (25, 100, 400, 1_600)

_ACTIVE = 1_000  # accounts that write
_EACH = 20  # records of each of them
_WARM, _COMMITS, _ROUNDS = 1_000, 3_000, 3
_ONES_COMMITS, _ONES_ROUNDS = 2_500, 2  # of one repository: to make them takes long
_RATE, _RATE_COMMITS = 200, 3_000
_ROLES = ("tailer", "worker", "fetcher")
_NO_SWEEP = "0"  # the hosts of quiet accounts are nowhere

Point = dict[str, Any]
Say = Callable[[str], None]
Add = Callable[[Run, int, int], Awaitable[None]]
"""Adds rows of a run's deployment: how many there are, and are to be."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where to measure which steps: from ``least`` to ``most``."""

    stack: EmbeddedStack
    directory: Path
    least: int
    most: int
    say: Say

    def steps(self, steps: Iterable[int]) -> list[int]:
        """Return those that are wanted."""
        return [step for step in steps if self.least <= step <= self.most]


async def _growing(
    place: Place, name: str, steps: Sequence[int], what: str, add: Add
) -> list[Point]:
    """Measure with more and more rows, which ``add`` makes from one step to the next."""
    points: list[Point] = []
    people = _people(len(steps))
    async with network.placed(
        place.stack, place.directory, people, name, CHIVE_DISCOVERY__SWEEP_EVERY=_NO_SWEEP
    ) as run:
        async with network.consuming(run, [ALL_ROLES]):
            await run.sync()
        there = 0
        for step in steps:
            place.say(f"{step:,} {what}")
            await add(run, there, step)
            there = step
            async with network.consuming(run, [ALL_ROLES]):
                points.append(_point(step, await _live(run)))
        await run.check()
    return points


async def _tracked(place: Place) -> list[Point]:
    """Measure with more and more quiet accounts."""

    async def add(run: Run, there: int, step: int) -> None:
        lanes, scope = run.deployment.partitions, Scope(("*",)).digest
        await _quiet(run).add_repos(there, step, lanes=lanes, scope=scope)

    steps = place.steps(_TRACKED)
    return await _growing(place, "tracked", steps, "tracked repositories", add)


async def _records(place: Place) -> list[Point]:
    """Measure with more and more records of quiet accounts, five of each at the end."""
    steps = place.steps(_RECORDS)

    async def add(run: Run, there: int, step: int) -> None:
        await _quiet(run).add_records(there, step, accounts=max(steps) // 5)

    return await _growing(place, "records", steps, "records", add)


async def _repository(place: Place) -> list[Point]:
    """Measure the sync of one repository, and then its commits; also what memory they take."""
    points: list[Point] = []
    for step in place.steps(_REPOSITORY):
        place.say(f"a repository of {step:,} records")
        one = await asyncio.to_thread(
            population, Spec(1, step, _WARM + _ONES_ROUNDS * _ONES_COMMITS)
        )
        name = f"repository-{step}"
        async with (
            network.placed(place.stack, place.directory, one, name) as run,
            network.consuming(run, _ROLES),
        ):
            before = {role: _resident(run, role) for role in _ROLES}
            synced = await run.sync()
            peak = dict(synced.memory)
            found = await _live(run, _ONES_COMMITS, _ONES_ROUNDS)
            await run.check()
        more = {
            "sync_us": round(synced.total, 1),
            "sync_floors": round(_floors(synced), 2),
            "sync_seconds": round(synced.seconds, 1),
            "idle_mib": {role: round(before[role]) for role in before},
            "peak_mib": {role: round(peak[role]) for role in _ROLES},
        }
        points.append(_point(step, found) | more)
    return points


async def _partitions(place: Place) -> list[Point]:
    """Measure with more and more lanes in one process, also at a steady rate."""
    points: list[Point] = []
    people = _people(1, more=_RATE_COMMITS)
    for step in place.steps(_PARTITIONS):
        place.say(f"{step} partitions")
        async with (
            network.placed(
                place.stack, place.directory, people, f"partitions-{step}", partitions=step
            ) as run,
            network.consuming(run, [ALL_ROLES]),
        ):
            await run.sync()
            found = await _live(run)
            slow = await run.at_rate(_RATE, _RATE_COMMITS)
            await run.check()
        assert slow.lags is not None
        more = {
            "at_200_us": round(slow.total, 1),
            "at_200_floors": round(_floors(slow), 2),
            "at_200_lags_ms": [round(lag) for lag in slow.lags],
        }
        points.append(_point(step, found) | more)
    return points


async def _batch(place: Place) -> list[Point]:
    """Measure with larger and larger batches."""
    points: list[Point] = []
    people = _people(1)
    for step in place.steps(_BATCH):
        place.say(f"batches of {step} frames")
        name, limit = f"batch-{step}", str(step)
        async with (
            network.placed(
                place.stack, place.directory, people, name, CHIVE_WORKER__BATCH_FRAMES=limit
            ) as run,
            network.consuming(run, [ALL_ROLES]),
        ):
            await run.sync()
            points.append(_point(step, await _live(run)))
            await run.check()
    return points


AXES: Mapping[str, Callable[[Place], Coroutine[Any, Any, list[Point]]]] = {
    "tracked": _tracked,
    "records": _records,
    "repository": _repository,
    "partitions": _partitions,
    "batch": _batch,
}


async def _live(run: Run, commits: int = _COMMITS, rounds: int = _ROUNDS) -> Measured:
    await run.through(_WARM)
    found = sorted([await run.through(commits) for _ in range(rounds)], key=_floors)
    return found[(rounds - 1) // 2]


def _people(steps: int, more: int = 0) -> Population:
    return population(Spec(_ACTIVE, _EACH, steps * (_WARM + _ROUNDS * _COMMITS) + more))


def _quiet(run: Run) -> Quiet:
    settings = run.deployment.services.settings
    return Quiet(run.deployment.stack.dsn, schema_of(settings.kafka.topic_prefix))


def _resident(run: Run, role: str) -> float:
    return float(psutil.Process(run.servers[role].pid).memory_info().rss) / 1024 / 1024


def _floors(one: Measured) -> float:
    assert one.floor is not None
    return one.total / one.floor


def _point(step: int, one: Measured) -> Point:
    return {
        "at": step,
        "measured": time.strftime("%Y-%m-%d", time.gmtime()),
        "floor_us": round(one.floor or 0.0, 1),
        "floors": round(_floors(one), 2),
        "us": {
            "own": round(one.own, 1),
            "kafka": round(one.of("kafka"), 1),
            "postgres": round(one.of("postgres"), 1),
        },
        "per_second": round(one.rate),
    }


async def _measure(
    names: Iterable[str],
    least: int,
    most: int,
    parent: Path | None,
    say: Say,
) -> dict[str, list[Point]]:
    found: dict[str, list[Point]] = {}
    for name in names:
        directory = Path(tempfile.mkdtemp(prefix="chive-sizes-", dir=parent))
        try:
            async with EmbeddedStack(directory) as stack:
                found[name] = await AXES[name](Place(stack, directory, least, most, say))
        finally:
            shutil.rmtree(directory, ignore_errors=True)
    return found


def recorded() -> dict[str, list[Point]]:
    """Return what was measured, by axis, in the order of the steps."""
    known: dict[str, list[Point]] = json.loads(RECORDED.read_text()) if RECORDED.exists() else {}
    return known


def merged(known: Sequence[Point], found: Sequence[Point]) -> list[Point]:
    """Return the steps of an axis, those that were ``found`` now in the place of earlier ones."""
    points = {point["at"]: point for point in (*known, *found)}
    return [points[at] for at in sorted(points)]


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--only", "names", multiple=True, type=click.Choice(list(AXES)), help="Repeatable.")
@click.option("--least", default=1, type=click.IntRange(1), help="No step below this.")
@click.option("--most", default=sys.maxsize, type=click.IntRange(1), help="No step above this.")
@click.option("--record", is_flag=True, help=f"Write {RECORDED.name}, which the plots show.")
@click.option("--directory", type=click.Path(path_type=Path), help="For tables: up to 40 GB.")
def main(
    names: tuple[str, ...],
    least: int,
    most: int,
    record: bool,
    directory: Path | None,
) -> None:
    """Measure what a commit costs against the size of what is around it."""
    logs.configure(LogSettings(level="error"))
    console = Console()
    found = asyncio.run(_measure(names or AXES, least, most, directory, console.print))
    console.print_json(json.dumps(found))
    if record:
        known = recorded()
        for name, points in found.items():
            known[name] = merged(known.get(name, ()), points)
        RECORDED.write_text(json.dumps(known, indent=1) + "\n")


if __name__ == "__main__":
    main()
