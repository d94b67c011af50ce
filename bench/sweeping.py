"""``python -m bench.sweeping``: what it costs to compare repositories with their hosts.

A whole round as fast as hosts may be asked; then for a minute the pace of a real day, and no
sweep, to tell what the searches beside it use.
What is measured is this process, which sweeps, and PostgreSQL.  The hosts are scripted, on
loopback; every repository is in step.
"""

from __future__ import annotations

import asyncio
import subprocess  # our own module
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import click
import httpx
import psutil

from bench.deployment import Deployment, Usage, deployed
from bench.listed import REV, did_of
from consumer.config.settings import DiscoverySettings, LogSettings, NetworkSettings, RelaySettings
from consumer.embedded import EmbeddedStack
from consumer.embedded.ports import LOOPBACK
from consumer.errors import Fatal
from consumer.fetch.discovery import planner, role
from consumer.runtime import logs
from consumer.scope import Repos, Scope
from consumer.store.arrays import Texts

_DAY = 86_400.0
_POLL = 0.2
_PATIENCE = 600.0
_TRACK = """
INSERT INTO repos (did, lane, sync_state, rev, pds)
SELECT did, 0, 'active', %s, pds FROM unnest(%s, %s) AS new (did, pds)
"""


async def _get(port: int, path: str) -> dict[str, object]:
    async with httpx.AsyncClient(trust_env=False) as client:
        found: dict[str, object] = (await client.get(f"http://{LOOPBACK}:{port}{path}")).json()
        return found


async def _track(place: Deployment, port: int, repos: int) -> None:
    listed = await _get(port, "/xrpc/com.atproto.sync.listHosts?limit=1000")
    hosts = listed["hosts"]
    assert isinstance(hosts, list)
    pds = [f"http://{hosts[number % len(hosts)]['hostname']}" for number in range(repos)]
    async with place.services.database.transaction() as connection:
        dids = Texts([did_of(number) for number in range(repos)])
        await connection.execute(_TRACK, [REV, dids, Texts(pds)])
        await connection.execute("ANALYZE repos")


async def _sweep(
    place: Deployment, port: int, every: float, done: Callable[[], Awaitable[bool]]
) -> tuple[float, float, float]:
    """Sweep until it is ``done``.

    Returns the seconds it took, and the CPU seconds of this process and of PostgreSQL.
    """
    settings = place.services.settings.model_copy(
        update={
            "relay": RelaySettings(url=f"ws://{LOOPBACK}:{port}"),
            "network": NetworkSettings(allow_loopback=True),
            "discovery": DiscoverySettings(sweep_every=every),
        }
    )
    services, stop, process = place.services, asyncio.Event(), psutil.Process()
    scope = Scope(("pub.chive.*",), Repos.LISTED)
    before, own, began = place.usage(), process.cpu_times(), time.monotonic()
    work = asyncio.create_task(
        role.discover(settings, scope, services.topics, services.database, stop)
    )
    try:
        while not await done():
            if work.done():
                work.result()
            if time.monotonic() - began > _PATIENCE:
                raise Fatal(f"the round has not ended in {_PATIENCE:g} s")
            await asyncio.sleep(_POLL)
        seconds, after, now = time.monotonic() - began, place.usage(), process.cpu_times()
    finally:
        stop.set()
        await work
    used = now.user + now.system - own.user - own.system
    return seconds, used, _postgres(before, after)


def _postgres(before: Usage, after: Usage) -> float:
    return after.cpu["postgres"] - before.cpu["postgres"]


async def _round(place: Deployment, port: int, repos: int) -> str:
    async def ended() -> bool:
        return bool(await place.rows("SELECT FROM sweep WHERE ended_at IS NOT NULL"))

    # A round that is late: everything is due at once.
    await place.rows(
        "INSERT INTO sweep (way, began_at, total) VALUES ('hosts', now(), 1) RETURNING total"
    )
    seconds, own, postgres = await _sweep(place, port, _DAY, ended)
    asked = await _get(port, "/asked")
    counts = await place.rows("SELECT finding, repos FROM sweep_counts ORDER BY finding")
    return (
        f"{repos:,} repositories in {seconds:.1f} s: {asked['total']} requests to "
        f"{asked['ports']} hosts, at most {asked['busiest']} in a second to one; CPU: "
        f"{own:.1f} s of the fetcher, {postgres:.1f} s of PostgreSQL; found: "
        + ", ".join(f"{number} {name}" for name, number in counts)
    )


async def _minute(place: Deployment, port: int, seconds: float, every: float) -> str:
    until = time.monotonic() + seconds

    async def over() -> bool:
        await asyncio.sleep(seconds / 10)
        return time.monotonic() >= until

    before = int(str((await _get(port, "/asked"))["total"]))
    took, own, postgres = await _sweep(place, port, every, over)
    asked = int(str((await _get(port, "/asked"))["total"])) - before
    day = _DAY / took
    return (
        f"{asked} requests in {took:.0f} s; CPU a day: {own * day:.0f} s of the fetcher, "
        f"{postgres * day:.0f} s of PostgreSQL"
    )


async def _run(hosts: int, repos: int, seconds: float) -> None:
    planner._FIRST_EPOCH_SECONDS = 0.0  # noqa: SLF001 - there is no firehose here
    with tempfile.TemporaryDirectory(prefix="chive-bench-") as directory:
        async with EmbeddedStack(Path(directory)) as stack:
            sources = await asyncio.create_subprocess_exec(
                sys.executable,
                *("-m", "bench.listed", str(hosts), str(repos)),
                stdout=subprocess.PIPE,
            )
            try:
                assert sources.stdout is not None
                port = int(await sources.stdout.readline())
                async with deployed(stack, Path(directory), "round") as place:
                    await _track(place, port, repos)
                    click.echo(await _round(place, port, repos))
                for name, every in (("day", _DAY), ("never", 0.0)):
                    async with deployed(stack, Path(directory), name) as place:
                        await _track(place, port, repos)
                        text = await _minute(place, port, seconds, every)
                        click.echo(f"sweep_every = {every:.0f}: {text}")
            finally:
                with suppress(ProcessLookupError):
                    sources.terminate()
                await sources.wait()


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--hosts", default=50, show_default=True, type=click.IntRange(1, 500))
@click.option("--repos", default=10_000, show_default=True, type=click.IntRange(1))
@click.option("--seconds", default=60.0, show_default=True, help="At the pace of a day.")
def main(hosts: int, repos: int, seconds: float) -> None:
    """Measure what a sweep of scripted hosts costs."""
    logs.configure(LogSettings(level="error"))
    asyncio.run(_run(hosts, repos, seconds))


if __name__ == "__main__":
    main()
