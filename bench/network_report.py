"""The tables of the main load."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

from rich.console import Console, ConsoleRenderable
from rich.table import Table

from bench import peers
from bench.measured import APART, SERVERS, Measured
from bench.network import Findings
from bench.processes import ALL_ROLES

_ROLES = ("tailer", "worker", "fetcher", ALL_ROLES)
_LOAD = tuple(group for group in APART if group != "floor")
_HEADS = {
    "worker": "workers",
    ALL_ROLES: "all\nroles",
    "kafka": "Kafka",
    "postgres": "Postgre-\nSQL",
    "host": "hosts",
}
_TITLES = {
    "sync-1": "record synced, 1 worker",
    "sync-2": "record synced, 2 workers",
    "sync-all": "record synced, one process",
    "small": "small repository synced",
    "commits-1": "commit, 1 worker",
    "commits-2": "commit, 2 workers",
}

_COMMITS = ("commits-1", "commits-2")
_OURS = (
    "signature, hashes, tree, inversion, chain; finds holes",
    "to Kafka, exactly once, in order",
)
_DONE = {
    peers.SYNC: ("signature, record proofs", "nothing: events are dropped"),
    peers.SDK: ("nothing", "to Kafka, may lose and repeat"),
}

# In floors, which machines share more than µs; of the latency, p50 and p99 in ms.
_AIMS = {"sync": 1.5, "commits": 6.0, "rate-200": 26.0, "rate-1000": 12.0, "small": 150.0}
_LAG_AIMS = (50.0, 120.0)
_IDLE_AIM = 10.0  # ms of CPU per second


def show(found: Findings, floor: float, console: Console) -> None:
    """Print what was found; ``floor`` in µs, for what has none that was measured beside it."""
    if found.steps:
        console.print(_costs(found.steps, floor))
        console.print(_beside(found.steps, floor))
    if found.alone:
        console.print(_idle(found), highlight=False)


def as_json(found: Findings, floor: float) -> dict[str, Any]:
    """Return what was found as plain values, costs also in floors."""
    return {
        "steps": {
            name: {
                **asdict(one),
                "per_second": one.rate,
                "own_us": one.own,
                "total_us": one.total,
                "floors": one.total / (one.floor or floor),
            }
            for name, one in found.steps.items()
        },
        "idle_ms_per_s": found.idle,
        "servers_alone_ms_per_s": found.alone,
    }


def beside_peers(found: Findings, others: Mapping[str, Measured], floor: float) -> Table:
    """Return a table of what others cost and do, beside our own full speed."""
    table = Table(title="others on the same commits: CPU µs per commit", padding=0)
    heads = ("per s", "own", "Kafka", "all", "floors", "checks", "publishes")
    for column in ("", *heads):
        right = column not in ("", "checks", "publishes")
        table.add_column(column, justify="right" if right else "left")
    ours = {_title(name): found.steps[name] for name in _COMMITS if name in found.steps}
    for name, one in {**ours, **others}.items():
        costs = (one.own, one.cpu.get("kafka", 0.0), one.total)
        table.add_row(
            name,
            f"{one.rate:,.0f}",
            *map(_number, costs),
            f"{one.total / (one.floor or floor):,.1f}",
            *_DONE.get(name, _OURS),
        )
    return table


def _costs(steps: Mapping[str, Measured], floor: float) -> Table:
    title = "the main load: CPU µs for each record, repository or commit"
    table = Table(title=title, padding=0)
    heads = [*map(_head, (*_ROLES, *SERVERS)), "all", "floors", "aim", "p50/p99\nms"]
    for column in ("", "per s", *heads):
        table.add_column(column, justify="right" if column else "left", no_wrap=True)
    for name, one in steps.items():
        table.add_row(_title(name), *_cells(name, one, floor))
    return table


def _cells(name: str, one: Measured, floor: float) -> Iterator[str]:
    yield f"{one.rate:,.0f}"
    for group in (*_ROLES, *SERVERS):
        yield _number(one.of(group))
    yield _number(one.total)
    ratio = one.total / (one.floor or floor)
    yield f"{ratio:,.1f}"
    aim = _AIMS.get(name) or _AIMS.get(name.partition("-")[0])
    yield "" if aim is None else _judged(f"≤ {aim:g}", reached=ratio <= aim)
    if one.lags is not None:
        reached = all(lag <= aim for lag, aim in zip(one.lags, _LAG_AIMS, strict=True))
        yield _judged("/".join(f"{lag:.0f}" for lag in one.lags), reached=reached)


def _beside(steps: Mapping[str, Measured], floor: float) -> ConsoleRenderable:
    """Return the memory of each process, and what the load itself costs."""
    title = "peak memory in MiB; CPU µs of the load itself; the floor beside it"
    table = Table(title=title, padding=0)
    groups = {group for one in steps.values() for group in one.memory} - set(APART)
    processes = sorted(groups, key=_order)
    for column in ("", *map(_head, (*processes, *_LOAD)), "floor"):
        table.add_column(column, justify="right" if column else "left", no_wrap=True)
    for name, one in steps.items():
        sizes = (_number(one.memory.get(group, 0.0)) for group in processes)
        table.add_row(
            _title(name),
            *sizes,
            *(_number(one.of(group)) for group in _LOAD),
            _number(one.floor or floor),
        )
    return table


def _idle(found: Findings) -> str:
    own = sum(spent for group, spent in found.idle.items() if group not in (*SERVERS, *APART))
    judged = _judged(f"{own:.1f}, ≤ {_IDLE_AIM:g}", reached=own <= _IDLE_AIM)
    servers = ", ".join(
        f"{name} {found.idle[group]:.1f} ({found.alone[group]:.1f} without a consumer)"
        for name, group in zip(("Kafka", "PostgreSQL"), SERVERS, strict=True)
    )
    return f"when nothing happens, CPU ms per second: all roles in one process {judged}; {servers}"


def _order(group: str) -> tuple[int, str]:
    return (*_ROLES, *SERVERS).index(group.partition("-")[0]), group


def _title(name: str) -> str:
    return _TITLES.get(name) or f"commit, {int(name.rpartition('-')[2]):,} a second"


def _head(group: str) -> str:
    return _HEADS.get(group, group)


def _number(value: float) -> str:
    if not value:
        return ""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def _judged(text: str, *, reached: bool) -> str:
    return f"[green]{text}[/green]" if reached else f"[red]{text}[/red]"
