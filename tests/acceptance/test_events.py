"""The whole main job as processes: frames go in, ``consumer events`` shows what came out."""

from __future__ import annotations

import os
import signal

import httpx
import orjson
import psutil
from prometheus_client import generate_latest

import consumer.app  # noqa: F401  # every module, so that all labels are known
from consumer import metrics
from consumer.tail.cursor import KEPT
from consumer.version import version
from tests.support.accounts import COLLECTION, Accounts
from tests.support.consumer import Consumer, Start
from tests.support.deployment import Deployment
from tests.support.eventually import eventually


def shown(events: Consumer) -> list[tuple[str, str]]:
    """Return DID and path of every record event that was printed, in order."""
    lines = events.out.split("\n")[:-1]
    parsed = [orjson.loads(line) for line in lines]
    return [(e["did"], f"{e['collection']}/{e['rkey']}") for e in parsed if e["type"] == "record"]


def shown_records(events: Consumer) -> list[tuple[str, str]]:
    """Return the same of what ``--records`` printed."""
    values = [orjson.loads(each)["value"] for each in events.out.splitlines()]
    return [
        (each["did"], f"{each['collection']}/{each['rkey']}")
        for each in values
        if each["type"] == "record"
    ]


async def follow(consumer: Start, environment: dict[str, str], *arguments: str) -> Consumer:
    events: Consumer = await consumer(
        *("events", "--follow", "--from-start", "--json", *arguments), env=environment
    )
    return events


async def test_what_is_written_is_shown_and_a_restart_goes_on(
    consumer: Start, deployment: Deployment, accounts: Accounts
) -> None:
    environment = accounts.environment(deployment)
    first = await consumer("run", env=environment)
    await first.saying("process_running")
    events = await follow(consumer, environment)
    await accounts.write(3)
    await eventually(lambda: set(shown(events)) == accounts.paths, deadline=60)
    assert await first.stopped() == 0

    newest = accounts.seq
    await accounts.write(2)
    second = await consumer("run", env=environment)
    await eventually(lambda: set(shown(events)) == accounts.paths, deadline=60)
    assert (accounts.relay.cursors[-1] or 0) in range(newest - KEPT, newest + 1)
    assert len(shown(events)) == len(accounts.paths)
    assert await second.stopped() == 0
    events.signal(signal.SIGINT)
    assert await events.ended() == 0
    assert events.lines == []


async def test_filters_and_readable_lines(
    consumer: Start, deployment: Deployment, accounts: Accounts
) -> None:
    environment = accounts.environment(deployment)
    running = await consumer("run", env=environment)
    await running.saying("process_running")
    someone, other = (repo.account.did for repo in accounts.repos[:2])
    await accounts.write(2)
    one = await follow(consumer, environment, "--did", someone)
    none = await follow(consumer, environment, "--collection", "site.standard.*")
    syncs = await follow(consumer, environment, "--type", "sync")
    wanted = {(did, path) for did, path in accounts.paths if did == someone}
    await eventually(lambda: set(shown(one)) == wanted, deadline=60)
    await eventually(lambda: syncs.out.count("\n") >= len(accounts.repos))
    assert {orjson.loads(line)["type"] for line in syncs.out.splitlines()} == {"sync"}
    assert other not in one.out
    assert none.out == ""

    readable = await consumer("events", "--type", "record", "--did", someone, env=environment)
    assert await readable.ended() == 0
    lines = readable.out.splitlines()
    assert len(lines) == 2
    assert all(someone in line and COLLECTION in line and "create" in line for line in lines)

    bounded = ("events", "--from-beginning", "--records")
    two = await consumer(*bounded, "--type", "record", "--limit", "2", env=environment)
    assert await two.ended() == 0
    assert two.out.count("\n") == 2
    assert all(orjson.loads(each)["value"] for each in two.out.splitlines())
    whole = await consumer(*bounded, "--until", "now", "--topic", "events", env=environment)
    assert await whole.ended() == 0
    assert wanted < set(shown_records(whole)) == accounts.paths
    nothing = await consumer("events", "--since", "0s", env=environment)
    assert (await nothing.ended(), nothing.out) == (0, "")
    odd = await consumer("events", "--topic", "control", env=environment)
    assert await odd.ended() == 1
    assert "is no topic of events; there are" in odd.lines[0]

    status = await consumer("status", "--json", env=environment)
    assert await status.ended() == 0
    seen = orjson.loads(status.out)
    assert seen["cursors"][0]["seq"] == accounts.seq
    assert seen["repos"]["total"] == len(accounts.repos)
    assert seen["records"] == len(accounts.paths)
    assert sum(lane["owned"] for lane in seen["lanes"]) == len(seen["lanes"])
    await only_known_series(running)
    assert await running.stopped() == 0


async def only_known_series(process: Consumer) -> None:
    """Check that nothing the network sent became a label, and that work left its traces."""
    async with httpx.AsyncClient() as client:
        text = (await client.get(f"{await process.url()}/metrics")).text
    known = series(generate_latest(metrics.REGISTRY).decode())
    ours = ("lane=", "root=", "chive_build_info{")  # labels that the process itself chooses
    assert {s for s in series(text) - known if not any(part in s for part in ours)} == set()
    assert f'version="{version()}"' in text
    assert 'chive_events_total{source="firehose",type="record"} 24.0' in text
    assert 'chive_tail_frames_total{kind="#commit",outcome="forwarded"} 24.0' in text
    assert "chive_worker_lag_seconds{lane=" in text
    assert "chive_tail_lag_seconds " in text


def series(text: str) -> set[str]:
    """Return the series of an exposition with labels of ours."""
    lines = [line for line in text.splitlines() if line.startswith("chive_")]
    return {line.rpartition(" ")[0] for line in lines if "{" in line}


async def test_worker_processes_share_the_lanes_and_are_replaced(
    consumer: Start, deployment: Deployment, accounts: Accounts
) -> None:
    environment = accounts.environment(deployment)
    parent = await consumer("run", "--workers", "2", env=environment)
    for name in ("worker-1", "worker-2"):
        await parent.saying("lane_claimed", process=name, deadline=60)
    events = await follow(consumer, environment)
    await accounts.write(2)
    await eventually(lambda: set(shown(events)) == accounts.paths, deadline=60)

    victim = parent.said("worker_started", name="worker-1")[0]["pid"]
    os.kill(victim, signal.SIGKILL)
    await parent.saying("worker_killed", name="worker-1", signal="SIGKILL")
    await accounts.write(2)
    await parent.saying("worker_started", name="worker-1", times=2)
    await eventually(lambda: set(shown(events)) == accounts.paths, deadline=60)
    assert len(shown(events)) == len(accounts.paths)
    assert await parent.stopped() == 0


async def test_worker_processes_die_with_a_parent_that_is_killed(
    consumer: Start, deployment: Deployment, accounts: Accounts
) -> None:
    parent = await consumer("run", "--workers", "2", env=accounts.environment(deployment))
    for name in ("worker-1", "worker-2"):
        await parent.saying("process_running", process=name)
    children = parent.children()
    assert len(children) == 2
    parent.signal(signal.SIGKILL)
    assert await parent.ended() == -signal.SIGKILL
    await eventually(lambda: not any(psutil.pid_exists(child.pid) for child in children))


async def test_the_second_signal_ends_a_process_whose_worker_hangs(
    consumer: Start, deployment: Deployment, accounts: Accounts
) -> None:
    parent = await consumer("run", "--workers", "1", env=accounts.environment(deployment))
    await parent.saying("process_running", process="worker-1")
    (child,) = parent.children()
    child.suspend()
    parent.signal(signal.SIGTERM)
    await parent.saying("process_stopping")
    parent.signal(signal.SIGTERM)
    assert await parent.ended(deadline=3) == -signal.SIGTERM
    await eventually(lambda: not psutil.pid_exists(child.pid))


async def test_a_worker_process_that_fails_takes_everything_down(
    consumer: Start, deployment: Deployment, accounts: Accounts
) -> None:
    environment = accounts.environment(deployment)
    parent = await consumer("run", "--workers", "2", env=environment)
    await parent.saying("process_running", process="worker-2")
    (child, *_) = parent.children()
    child.terminate()  # it ends with status 0, though the parent was not told to stop
    assert await parent.ended() == 1
    assert parent.said("root_died", root="workers")
    assert "ended with status 0" in parent.lines[-1]
