"""The model of a whole network, and that docs/scaling.md shows what it says."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from bench import model as module
from bench.model import Model, Servers, markdown, model_of, processes
from bench.workers import RECORDED

PAGE = Path(__file__).parents[3] / "docs" / "scaling.md"


@pytest.fixture(scope="module")
def measured() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(RECORDED.read_text())
    return found


@pytest.fixture(scope="module")
def whole(measured: dict[str, Any]) -> Model:
    return model_of(measured)


def test_the_page_shows_what_the_model_says(measured: dict[str, Any], whole: Model) -> None:
    page = PAGE.read_text()
    assert markdown(whole) in page, "python -m bench.model prints the tables of the page"
    assert processes(measured) in page, "python -m bench.model prints the tables of the page"


def test_costs_grow_with_the_commits(measured: dict[str, Any], whole: Model) -> None:
    twice = model_of(measured, {"commits": 2 * whole.network.commits})
    for group in ("worker", "kafka", "postgres"):
        assert twice.cores(group) == pytest.approx(2 * whole.cores(group))
    assert twice.kafka_per_day("firehose") == pytest.approx(2 * whole.kafka_per_day("firehose"))
    assert twice.table_bytes == whole.table_bytes


def test_there_are_as_many_shards_as_the_scarcest_resource_asks_for(whole: Model) -> None:
    assert whole.shards - 1 < max(whole.limits.values()) <= whole.shards


def test_larger_servers_need_fewer_shards(measured: dict[str, Any], whole: Model) -> None:
    large = model_of(measured, {"disk": 1e18, "log": 1e12, "reads": 1e9})
    assert (large.shards, large.tailer(1)) == (1, whole.tailer(1))


def test_a_tailer_of_many_shards_pays_for_the_look_at_each_frame(whole: Model) -> None:
    looks = whole.network.commits * whole.costs.other_shard / 1e6
    assert whole.tailer(1_000_000) == pytest.approx(looks, rel=0.01)


def test_what_is_assumed_can_be_changed_by_name(measured: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="repositories is none of repos, records"):
        model_of(measured, {"repositories": 1.0})
    runner = CliRunner()
    said = runner.invoke(module.main, ["--set", "commits=1", "--set", "burst=2"])
    assert (said.exit_code, "| 1 / 2 |" in said.output) == (0, True)
    assert runner.invoke(module.main, ["--set", "commits"]).exit_code == 2
    assert runner.invoke(module.main, ["--set", "comets=1"]).exit_code == 2


def test_a_small_network_is_one_deployment(measured: dict[str, Any]) -> None:
    small = model_of(measured, {"repos": 1e5, "records": 1e7, "commits": 20.0})
    assert (small.shards, small.recovery(1)) == (1, 0.0)


def test_a_burst_is_caught_up_with_by_what_is_left_of_the_servers(whole: Model) -> None:
    burst = replace(whole.network, burst=10.0, burst_seconds=600.0)
    slow, fast, fastest = [
        replace(whole, network=burst, servers=with_log(whole, times)) for times in (0.5, 4.0, 10.0)
    ]
    assert slow.recovery(1) == math.inf
    assert fast.recovery(1) == pytest.approx(1_200.0)
    assert fastest.recovery(1) == 0.0


def with_log(whole: Model, times: float) -> Servers:
    """Return servers whose log takes the sustained rate so many times, and nothing less."""
    return Servers(log=times * whole.network.commits * whole.commit_log, reads=1e9, cores=1e9)
