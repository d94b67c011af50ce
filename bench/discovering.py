"""``python -m bench.discovering``: how fast repositories are found, and how politely.

Twice: all repositories at their hosts (``listHosts`` and each host's ``listRepos``), and those of
one collection at one source.  What is measured is this process: repositories found per second,
requests to the busiest host in its busiest second, and the resident memory.  Their syncs are
queued and not carried out.
"""

from __future__ import annotations

import asyncio
import os
import subprocess  # our own module
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import click
import httpx
import psutil

from bench.deployment import Deployment, deployed
from consumer.config.settings import DiscoverySettings, LogSettings, NetworkSettings, RelaySettings
from consumer.embedded import EmbeddedStack
from consumer.embedded.ports import LOOPBACK
from consumer.errors import Fatal
from consumer.fetch.discovery import planner
from consumer.fetch.discovery.role import discover
from consumer.runtime import logs
from consumer.scope import Scope

_COLLECTION = "pub.chive.graph.vote"
_POLL = 0.1
_PATIENCE = 600.0
_MEBIBYTE = 1024 * 1024


async def _found(place: Deployment) -> int:
    ((found,),) = await place.rows("SELECT count(*) FROM found")
    return int(str(found))


async def _measure(place: Deployment, port: int, scope: Scope, repos: int) -> str:
    """Discover all repositories of ``scope``; return what that took."""
    settings = place.services.settings.model_copy(
        update={
            "relay": RelaySettings(url=f"ws://{LOOPBACK}:{port}"),
            "network": NetworkSettings(allow_loopback=True),
            "discovery": DiscoverySettings(sweep_every=0.0, unconfirmed=2 * repos),
        }
    )
    services, stop = place.services, asyncio.Event()
    process = psutil.Process(os.getpid())
    before, cpu, began = process.memory_info().rss, process.cpu_times(), time.monotonic()
    largest = before
    work = asyncio.create_task(discover(settings, scope, services.topics, services.database, stop))
    try:
        while await _found(place) < repos:
            largest = max(largest, process.memory_info().rss)
            if work.done():
                work.result()
            if time.monotonic() - began > _PATIENCE:
                raise Fatal(f"not found in {_PATIENCE:g} s: {repos - await _found(place)}")
            await asyncio.sleep(_POLL)
        seconds, after = time.monotonic() - began, process.cpu_times()
    finally:
        stop.set()
        await work
    async with httpx.AsyncClient(trust_env=False) as client:
        asked = (await client.get(f"http://{LOOPBACK}:{port}/asked")).json()
    used = after.user + after.system - cpu.user - cpu.system
    return (
        f"{repos:,} repositories in {seconds:.1f} s: {repos / seconds:,.0f}/s; "
        f"{asked['total']} requests to {asked['ports']} sources, "
        f"at most {asked['busiest']} in a second to one; "
        f"{used:.1f} s of CPU; {largest / _MEBIBYTE:.0f} MiB resident, "
        f"{(largest - before) / _MEBIBYTE:.0f} more than before"
    )


async def _run(hosts: int, repos: int) -> None:
    planner._FIRST_EPOCH_SECONDS = 0.0  # noqa: SLF001 - there is no firehose here
    with tempfile.TemporaryDirectory(prefix="chive-bench-") as directory:
        async with EmbeddedStack(Path(directory)) as stack:
            for name, scope in (
                ("hosts", Scope(("*",))),
                ("collection", Scope((_COLLECTION,))),
            ):
                sources = await asyncio.create_subprocess_exec(
                    sys.executable,
                    *("-m", "bench.listed", str(hosts), str(repos)),
                    stdout=subprocess.PIPE,
                )
                try:
                    assert sources.stdout is not None
                    port = int(await sources.stdout.readline())
                    async with deployed(stack, Path(directory), name) as place:
                        click.echo(f"{name}: {await _measure(place, port, scope, repos)}")
                finally:
                    with suppress(ProcessLookupError):
                        sources.terminate()
                    await sources.wait()


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--hosts", default=50, show_default=True, type=click.IntRange(1, 500))
@click.option("--repos", default=20_000, show_default=True, type=click.IntRange(1))
def main(hosts: int, repos: int) -> None:
    """Measure how fast repositories are found in the listings of scripted sources."""
    logs.configure(LogSettings(level="error"))
    asyncio.run(_run(hosts, repos))


if __name__ == "__main__":
    main()
