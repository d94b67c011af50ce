"""What was measured, as tables for people and as JSON."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from rich.console import Console
from rich.table import Table

from bench import network, network_report
from bench.measured import Measured, typical
from bench.operations import Findings
from bench.pure import Pure
from consumer import compiled

# In CPU µs per commit or frame, on one core; verification as a multiple of the floor.
_FRAME_AIM = 25.0
_VERIFY_AIM = 2.0
_COMMIT_AIM = 350.0

_CALL_AIM = 150.0  # milliseconds, the median
_LAG_AIM = 2.0  # seconds, the worst
_MEMORY_AIM = 256.0  # MiB

_TITLES = {
    "tailer-relevant": "tailer, nothing relevant",
    "tailer-all": "tailer, all forwarded",
    "worker": "worker",
    "end-to-end-1": "end to end, 1 worker",
    "end-to-end-2": "end to end, 2 workers",
}
_OPERATIONS = {
    "sync-large": "large sync, per record",
    "sync-unchanged": "unchanged, per record",
    "sync-again": "all again, beside live, per record",
    "sync-many": "small syncs, per repository",
    "refresh": "refresh, per call",
}


@dataclass
class Report:
    """All results of one run; what was not asked for is empty.

    ``shares`` and ``functions`` are those of a worker process that sampled itself.
    """

    wanted: frozenset[str]
    size: Mapping[str, int]
    pure: Pure | None = None
    rounds: dict[str, list[Measured]] = field(default_factory=dict)
    idle: dict[str, float] = field(default_factory=dict)
    shares: dict[str, float] = field(default_factory=dict)
    functions: list[tuple[str, int]] = field(default_factory=list)
    operations: Findings | None = None
    network: network.Findings = field(default_factory=network.Findings)
    peers: dict[str, Measured] = field(default_factory=dict)
    load: list[float] = field(default_factory=lambda: [os.getloadavg()[0]])

    @property
    def floor(self) -> float:
        """The floor of this run in µs."""
        assert self.pure is not None
        return self.pure.floor

    def finished(self) -> None:
        """Note how busy the machine is at the end."""
        self.load.append(os.getloadavg()[0])

    def as_json(self) -> dict[str, Any]:
        """Return the report as plain values."""
        return {
            "machine": _machine(),
            "load": self.load,
            "wanted": sorted(self.wanted),
            "size": dict(self.size),
            "pure": asdict(self.pure) | {"ratio": self.pure.ratio} if self.pure else None,
            "rounds": {name: list(map(_plain, found)) for name, found in self.rounds.items()},
            "typical": {name: _plain(typical(found)) for name, found in self.rounds.items()},
            "idle_ms_per_s": self.idle,
            "worker_shares": self.shares,
            "worker_functions": self.functions,
            "operations": self._operations_as_json(),
            "network": network_report.as_json(self.network, self.floor),
            "peers": {name: _plain(one) for name, one in self.peers.items()},
        }

    def _operations_as_json(self) -> dict[str, Any] | None:
        if self.operations is None:
            return None
        steps = {name: _plain(one) for name, one in self.operations.steps.items()}
        return {"steps": steps, **self.operations.figures()}

    def show(self, console: Console) -> None:
        """Print the tables."""
        network_report.show(self.network, self.floor, console)
        if self.peers:
            console.print(network_report.beside_peers(self.network, self.peers, self.floor))
        console.print(self._costs())
        if self.operations:
            console.print(_operations(self.operations.steps))
            console.print(_figures(self.operations.figures()), highlight=False)
        if self.shares and self._whole():
            console.print(self._parts())
        elif self.pure and len(self.pure.shares) > 1:  # samples do not see into compiled code
            console.print(_verification(self.pure))
        if self.idle:
            idle = ", ".join(f"{group} {spent:.1f}" for group, spent in self.idle.items())
            console.print(f"when nothing happens, CPU ms per second: {idle}", highlight=False)
        machine = _machine()
        load = " to ".join(f"{value:.1f}" for value in self.load)
        console.print(
            f"{machine['cores']} cores, load {load}, Python {machine['python']}, core "
            f"{machine['core']}; one account in ten on P-256; floor and verify: the best round.  "
            "Worker, end to end: the median; repositories known and active, identities known",
            style="dim",
            highlight=False,
        )

    def _costs(self) -> Table:
        table = Table(title="CPU µs per commit (per frame for the tailer alone)")
        columns = ("", "per s", "per s of CPU", "ours", "Kafka", "PostgreSQL", "all", "floors")
        for column in (*columns, "aim"):
            table.add_column(column, justify="right" if column else "left", no_wrap=True)
        if self.pure:
            pure = self.pure
            table.add_row("floor", *_pure_cells(pure.floor, 1.0, ""))
            aim = _verdict(pure.ratio <= _VERIFY_AIM, f"≤ {_VERIFY_AIM:g} floors")
            table.add_row("verify", *_pure_cells(pure.verify, pure.ratio, aim))
        for name, title in _TITLES.items():
            if name in self.rounds:
                one = typical(self.rounds[name])
                table.add_row(title, *self._cells(one, _aim(name, one)))
        return table

    def _cells(self, one: Measured, aim: str) -> Iterator[str]:
        yield f"{one.rate:,.0f}"
        yield f"{1e6 / one.own:,.0f}"
        yield f"{one.own:,.1f}"
        yield f"{one.cpu['kafka']:,.1f}"
        yield f"{one.cpu['postgres']:,.1f}"
        yield f"{one.total:,.1f}"
        yield f"{one.total / self.pure.floor:.2f}" if self.pure else ""
        yield aim

    def _whole(self) -> list[Measured]:
        return self.rounds.get("end-to-end-1") or self.rounds.get("worker") or []

    def _parts(self) -> Table:
        """Return where the time of a commit goes, end to end where that was measured."""
        whole = typical(self._whole())
        parts = {name: share * whole.cpu["worker"] for name, share in self.shares.items()}
        parts |= {"Kafka": whole.cpu["kafka"], "PostgreSQL": whole.cpu["postgres"]}
        if "tailer" in whole.cpu:
            parts["tailer"] = whole.cpu["tailer"]
        return _shares("where the time of a commit goes", parts)


def _pure_cells(cost: float, ratio: float, aim: str) -> Sequence[str]:
    return "", f"{1e6 / cost:,.0f}", f"{cost:,.1f}", "", "", f"{cost:,.1f}", f"{ratio:.2f}", aim


def _aim(name: str, one: Measured) -> str:
    if name == "tailer-relevant":
        return _verdict(one.own <= _FRAME_AIM, f"≥ {1e6 / _FRAME_AIM:,.0f} per s of CPU")
    if name.startswith("end-to-end"):
        return _verdict(one.total <= _COMMIT_AIM, f"≤ {_COMMIT_AIM:g} µs")
    return ""


def _verdict(reached: bool, aim: str) -> str:
    return f"[green]{aim}[/green]" if reached else f"[red]{aim}[/red]"


def _operations(steps: Mapping[str, Measured]) -> Table:
    table = Table(title="syncs and refreshes: CPU µs")
    for column in ("", "count", "seconds", "per s", "fetcher", "worker", "others", "all"):
        table.add_column(column, justify="right" if column else "left", no_wrap=True)
    for name, title in _OPERATIONS.items():
        one = steps[name]
        fetcher, worker = one.cpu["fetcher"], one.cpu["worker"]
        costs = (fetcher, worker, one.total - fetcher - worker, one.total)
        table.add_row(
            title,
            f"{one.count:,}",
            f"{one.seconds:.1f}",
            f"{one.rate:,.0f}",
            *(f"{cost:,.0f}" if cost >= 1_000 else f"{cost:.1f}" for cost in costs),
        )
    return table


def _figures(figures: Mapping[str, float]) -> str:
    memory, lag = figures["fetcher_peak_mib"], figures["live_lag_worst_s"]
    middle = figures["refresh_p50_ms"]
    return "\n".join(
        (
            f"fetcher's peak: {memory:.0f} MiB, "
            + _verdict(memory <= _MEMORY_AIM, f"≤ {_MEMORY_AIM:g} MiB"),
            f"live lag beside the large sync: median {figures['live_lag_median_s']:.2f} s, "
            f"worst {lag:.2f} s, " + _verdict(lag <= _LAG_AIM, f"≤ {_LAG_AIM:g} s"),
            f"refresh over XRPC: p50 {middle:.0f} ms, p99 {figures['refresh_p99_ms']:.0f} ms, "
            + _verdict(middle <= _CALL_AIM, f"p50 ≤ {_CALL_AIM:g} ms"),
        )
    )


def _verification(pure: Pure) -> Table:
    parts = {name: share * pure.verify for name, share in pure.shares.items()}
    return _shares("where the time of a verification goes", parts)


def _shares(title: str, parts: Mapping[str, float]) -> Table:
    table = Table(title=title)
    table.add_column("")
    table.add_column("CPU µs", justify="right")
    table.add_column("share", justify="right")
    total = sum(parts.values())
    for name, cost in sorted(parts.items(), key=lambda item: -item[1]):
        table.add_row(name, f"{cost:,.1f}", f"{cost / total:.1%}")
    table.add_section()
    table.add_row("all", f"{total:,.1f}", "")
    return table


def _plain(one: Measured) -> dict[str, Any]:
    return {
        "count": one.count,
        "seconds": one.seconds,
        "per_second": one.rate,
        "cpu_us": dict(one.cpu),
        "own_us": one.own,
        "total_us": one.total,
    }


def _machine() -> dict[str, Any]:
    return {
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "system": platform.platform(),
        "processor": platform.processor(),
        "core": compiled.FORM,
    }
