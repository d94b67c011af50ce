"""What belongs to the system that is measured, and what to the load."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from bench import network_report, peers
from bench.beside import FloorBeside
from bench.latency import percentiles
from bench.measured import Measured
from bench.network import Findings
from bench.processes import peak_mebibytes
from bench.traffic import FIRST_SEQ
from consumer.embedded.process import Server

COSTS = {
    "tailer": 10.0,
    "worker-1": 100.0,
    "worker-2": 50.0,
    "kafka": 20.0,
    "postgres": 30.0,
    "relay": 1.0,
    "host": 2.0,
    "reader": 4.0,
    "floor": 8.0,
}


def test_the_load_itself_does_not_count() -> None:
    measured = Measured(1_000, 2.0, COSTS)
    assert measured.own == 160.0
    assert measured.total == 210.0
    assert measured.of("worker") == 150.0


def test_the_latency_of_a_commit_begins_with_the_write_that_held_it() -> None:
    written = [(10.0, 100), (20.0, 101), (30.0, 104)]
    seen = {FIRST_SEQ + 99: 10.010, FIRST_SEQ + 100: 20.020, FIRST_SEQ + 103: 30.030}
    p50, p99 = percentiles(seen, written)
    assert p50 == pytest.approx(20.0, abs=0.01)
    assert 29.0 < p99 < 32.0


def test_the_floor_beside_counts_in_its_time(tmp_path: Path) -> None:
    server = Server("floor", tmp_path)
    server.log.write_text("10.0 30.0\n20.0 40.0\n21.0 50.0\n30.0 90.0\n")
    floor = FloorBeside(server)
    assert floor.between(19.0, 22.0) == 45.0
    assert floor.between(22.0, 29.0) is None


def test_a_cost_is_a_multiple_of_the_floor_beside_it() -> None:
    steps = {"commits-1": Measured(1_000, 2.0, COSTS, floor=21.0)}
    assert network_report.as_json(Findings(steps), 35.0)["steps"]["commits-1"]["floors"] == 10.0


def test_what_others_cost_stands_beside_ours() -> None:
    found = Findings({"commits-1": Measured(1_000, 2.0, COSTS)})
    others = {peers.SDK: Measured(100, 1.0, {"peer": 300.0, "kafka": 50.0}, floor=70.0)}
    console = Console(width=160)
    with console.capture() as capture:
        console.print(network_report.beside_peers(found, others, 35.0))
    ours, sdk = (line for line in capture.get().splitlines() if "│" in line)
    assert "6.0" in ours
    assert "exactly once" in ours
    assert all(text in sdk for text in (peers.SDK, "350", "5.0", "may lose and repeat"))


def test_the_peak_memory_includes_children() -> None:
    alone = peak_mebibytes(os.getpid())
    assert alone > 20.0
    program = [sys.executable, "-c", "print(1, flush=True); input()"]
    with subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        assert peak_mebibytes(os.getpid()) > alone
        child.communicate(b"\n")


def test_the_tables_show_costs_latencies_and_aims() -> None:
    found = Findings(
        steps={
            "commits-1": Measured(1_000, 2.0, COSTS, dict.fromkeys(COSTS, 77.0)),
            "rate-200": Measured(1_000, 5.0, {"consumer": 900.0}, {}, (41.0, 93.0)),
        },
        idle={"consumer": 12.0, "kafka": 20.0, "postgres": 5.0},
        alone={"kafka": 15.0, "postgres": 0.0},
    )
    console = Console(width=120)
    with console.capture() as capture:
        network_report.show(found, 35.0, console)
    shown = capture.get()
    for text in ("500", "210", "6.0", "≤ 6", "41/93", "25.7", "≤ 26", "77.0", "12.0, ≤ 10"):
        assert text in shown
    plain = network_report.as_json(found, 35.0)["steps"]["commits-1"]
    assert (plain["total_us"], plain["floors"], plain["memory"]["kafka"]) == (210.0, 6.0, 77.0)
