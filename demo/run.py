"""The demo from beginning to end, as one coroutine with an exit code.

Everything it starts is a context manager: whatever ends it, the traffic stops first, then the
consumer, the PDS, Kafka and PostgreSQL.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from rich.console import Console

from consumer.embedded import EmbeddedStack
from consumer.embedded.jars import cache_home
from consumer.errors import Fatal
from consumer.kafka.client import Client
from consumer.kafka.topics import Topics
from consumer.scope import Scope
from consumer.services import at
from consumer.settings import Settings
from consumer.store.database import Database
from demo.catch_up import Behind, behind, caught_up
from demo.compare import Comparison, compare, fold_events, read_rows
from demo.consumer_process import ConsumerProcess
from demo.feed import Feed
from demo.listing import list_pds
from demo.local_network import LocalNetwork, installed
from demo.traffic import Traffic
from demo.view import View, show_verdict

_CYCLE = 60.0  # seconds over which the happenings are spread when there is no end
_CATCH_UP = 90.0  # seconds the consumer may need for what is left at the end

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Options:
    """How to run the demo.

    ``seconds`` of traffic, None until stopped; ``rate`` commits per second, as far as the PDS
    keeps up; ``keep`` leaves the data directory.
    """

    seconds: float | None
    accounts: int
    rate: float
    seed: int
    keep: bool = False


@dataclass(slots=True)
class Control:
    """How to end the traffic: set ``stop``, while ``traffic`` says that there is any."""

    stop: asyncio.Event = field(default_factory=asyncio.Event)
    traffic: bool = False


@dataclass(frozen=True, slots=True)
class Setting:
    """Everything that runs, and how to look at it."""

    network: LocalNetwork
    consumer: ConsumerProcess
    client: Client
    topics: Topics
    database: Database
    scope: Scope

    async def behind(self) -> Behind:
        """Return how far the consumer is behind the PDS."""
        relay, newest = self.network.endpoints.firehose, await self.network.newest_seq()
        return await behind(self.client, self.topics, self.database, relay, newest)

    async def compared(self) -> Comparison:
        """Compare what the PDS lists, the rows and the fold of the events."""
        listing = await list_pds(self.network.endpoints, self.scope)
        rows = await read_rows(self.database)
        return compare(listing, rows, await fold_events(self.client, self.topics), self.scope)


async def run(options: Options, console: Console, control: Control) -> int:
    """Run the demo and return its exit code."""
    async with _directory(console, keep=options.keep) as directory:
        code = await _run_in(directory, options, console, control)
        if code:
            console.print(f"logs are in {directory}", highlight=False)
    return code


async def _run_in(directory: Path, options: Options, console: Console, control: Control) -> int:
    async with _everything(directory, console) as setting:
        control.traffic = True
        await _make_traffic(setting, options, console, control.stop)
        control.traffic = False
        console.print("traffic has stopped; waiting for the consumer", highlight=False)
        left = await _unless_ended(setting.consumer, caught_up(setting.behind, _CATCH_UP))
        if not left.nothing:
            console.print(f"[red]not caught up:[/red] {left}", highlight=False)
        comparison = await setting.compared()
        show_verdict(console, comparison)
        await setting.consumer.stop()
    return _verdict(console, comparison, setting.consumer.exit_status, caught_up=left.nothing)


def _verdict(
    console: Console, comparison: Comparison, status: int | None, *, caught_up: bool
) -> int:
    if status != 0:
        console.print(f"[red]the consumer ended with status {status}[/red]", highlight=False)
    if comparison.equal and caught_up and status == 0:
        console.print("[green]equal[/green]: the PDS, the rows and the events agree")
        return 0
    console.print("[red]not equal[/red]" if not comparison.equal else "[red]failed[/red]")
    return 1


@asynccontextmanager
async def _directory(console: Console, *, keep: bool) -> AsyncIterator[Path]:
    directory = Path(tempfile.mkdtemp(prefix="chive-demo-"))
    console.print(f"data and logs: {directory}", highlight=False)
    try:
        yield directory
    finally:
        if not keep:
            shutil.rmtree(directory, ignore_errors=True)


@asynccontextmanager
async def _everything(directory: Path, console: Console) -> AsyncIterator[Setting]:
    began = time.monotonic()

    def say(what: str) -> None:
        console.print(f"{time.monotonic() - began:4.0f} s  {what}", highlight=False)

    say("starting Kafka and PostgreSQL")
    data = directory / "data"
    async with EmbeddedStack(data) as stack:
        packages = await installed(cache_home(), say)
        say("starting the reference PDS and PLC directory")
        async with LocalNetwork(packages, directory / "network") as network:
            settings = at(Settings(data_dir=data), stack.bootstrap_servers, stack.dsn)
            environment = {"CHIVE_DATA_DIR": str(data), "CHIVE_LOG__FORMAT": "json"}
            environment |= network.endpoints.environment()
            say(f"starting the consumer on {network.endpoints.firehose}")
            consumer = ConsumerProcess(directory, environment)
            async with consumer, _opened(settings, network, consumer) as setting:
                yield setting


@asynccontextmanager
async def _opened(
    settings: Settings, network: LocalNetwork, consumer: ConsumerProcess
) -> AsyncIterator[Setting]:
    prefix, partitions = settings.kafka.topic_prefix, settings.kafka.partitions
    database = Database(settings.postgres, prefix)
    await database.open()
    try:
        yield Setting(
            network,
            consumer,
            Client(settings.kafka),
            Topics(prefix, partitions),
            database,
            Scope(settings.scope.collections),
        )
    finally:
        await database.close()


async def _make_traffic(
    setting: Setting, options: Options, console: Console, stop: asyncio.Event
) -> None:
    traffic = Traffic(
        setting.network.endpoints,
        seed=options.seed,
        accounts=options.accounts,
        rate=options.rate,
        span=options.seconds or _CYCLE,
    )
    feed = Feed(setting.client, setting.topics)
    view = View(console, traffic, feed)
    following = asyncio.create_task(feed.run())
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(view.run(stop))
            group.create_task(_unless_ended(setting.consumer, traffic.run(stop)))
            group.create_task(_end(stop, options.seconds))
            group.create_task(_failing(following, stop))
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from None
    finally:
        following.cancel()
        await asyncio.wait([following])
        await traffic.close()


async def _end(stop: asyncio.Event, seconds: float | None) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await stop.wait()
    stop.set()


async def _failing(task: asyncio.Task[None], stop: asyncio.Event) -> None:
    """Wait for ``stop``, but raise what ``task`` raises before."""
    stopped = asyncio.create_task(stop.wait())
    await asyncio.wait([task, stopped], return_when=asyncio.FIRST_COMPLETED)
    stopped.cancel()
    if task.done():
        task.result()


async def _unless_ended(consumer: ConsumerProcess, work: Awaitable[T]) -> T:
    """Return the result of ``work``; raise if the consumer ends before it."""
    working, ended = asyncio.ensure_future(work), asyncio.ensure_future(consumer.ended())
    try:
        done, _ = await asyncio.wait([working, ended], return_when=asyncio.FIRST_COMPLETED)
        if working in done:
            return working.result()
        raise Fatal(str(ended.result()))
    finally:
        for task in (working, ended):
            task.cancel()
        await asyncio.wait([working, ended])
