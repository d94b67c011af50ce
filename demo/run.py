"""The demo from beginning to end, as one coroutine with an exit code.

Everything it starts is a context manager: whatever ends it, the traffic stops first, then the
consumer, the PDS, Kafka and PostgreSQL.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from rich.console import Console

from consumer.config.settings import Settings
from consumer.embedded import EmbeddedStack
from consumer.embedded.jars import cache_home, kafka_jars
from consumer.errors import ChiveError, Fatal
from consumer.services import at
from demo.compare import Comparison
from demo.consumer_process import ConsumerProcess
from demo.feed import Feed
from demo.gateway import Gateway
from demo.local_network import LocalNetwork, Say, installed
from demo.observe import Observer, observing
from demo.repair import all_repaired, call, missed, repair
from demo.traffic import Traffic
from demo.view import View, show_verdict
from demo.xrpc import XrpcFailed

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


async def run(options: Options, console: Console, control: Control) -> int:
    """Run the demo and return its exit code.  After a failure the data directory stays."""
    directory = Path(tempfile.mkdtemp(prefix="chive-demo-"))
    keep = options.keep
    try:
        code = await _run_in(directory, options, console, control)
        keep = keep or code != 0
    except (ChiveError, XrpcFailed):
        keep = True
        raise
    finally:
        if keep:
            console.print(f"data and logs are in {directory}", highlight=False)
        else:
            shutil.rmtree(directory, ignore_errors=True)
    return code


async def prepared(console: Console) -> int:
    """Download Kafka and install the PDS, if that was not done; return the exit code."""
    await kafka_jars(cache_home())
    await installed(cache_home(), _clock(console))
    return 0


async def _run_in(directory: Path, options: Options, console: Console, control: Control) -> int:
    async with _everything(directory, console) as stage:
        observer = stage.observer
        async with _traffic(observer, options) as traffic:
            async with stage.consumer() as consumer:
                await _unless_ended(consumer, observer.started())
                stage.say("the consumer follows the PDS; people begin to write")
                control.traffic = True
                writing = _make_traffic(observer, traffic, options, console, control.stop)
                await _unless_ended(consumer, writing)
                control.traffic = False
                stage.say("traffic has stopped; waiting for the consumer")
                await _unless_ended(consumer, _caught_up(observer, console))
            clean = _stopped_well(consumer, console)
            drift = await missed(observer, traffic.authors)
            stage.say("people wrote while the consumer was down, and the relay forgot it")
            gateway = Gateway.at_a_free_port()
            async with stage.consumer(gateway.environment(drift.asker.did)) as consumer:
                await _unless_ended(consumer, observer.started())
                asked = await _unless_ended(consumer, repair(observer, drift))
                asked += await _unless_ended(consumer, call(gateway, drift))
                for line in asked:
                    console.print(f"        {line}", highlight=False, markup=False)
                done = await _unless_ended(consumer, _repaired(observer, console, len(asked)))
                comparison = await observer.compared()
                show_verdict(console, comparison)
            clean &= _stopped_well(consumer, console)
    return _verdict(console, comparison, fine=done and clean)


async def _caught_up(observer: Observer, console: Console) -> bool:
    left = await observer.caught_up(_CATCH_UP)
    if not left.nothing:
        console.print(f"[red]not caught up:[/red] {left}", highlight=False)
    return left.nothing


async def _repaired(observer: Observer, console: Console, asked: int) -> bool:
    if not await all_repaired(observer, asked):
        console.print("[red]not every command has completed[/red]")
        return False
    return await _caught_up(observer, console)


def _stopped_well(consumer: ConsumerProcess, console: Console) -> bool:
    status = consumer.exit_status
    if status != 0:
        console.print(f"[red]the consumer ended with status {status}[/red]", highlight=False)
    return status == 0


def _verdict(console: Console, comparison: Comparison, *, fine: bool) -> int:
    if comparison.equal and fine:
        console.print("[green]equal[/green]: the PDS, the rows and the events agree")
        return 0
    console.print("[red]not equal[/red]" if not comparison.equal else "[red]failed[/red]")
    return 1


@dataclass(slots=True)
class _Stage:
    """Everything but the consumer; ``environment`` are its settings."""

    directory: Path
    observer: Observer
    environment: dict[str, str]
    say: Say
    runs: int = 0

    def consumer(self, more: Mapping[str, str] | None = None) -> ConsumerProcess:
        """Return a consumer to be run with ``more`` settings, with a log of its own."""
        self.runs += 1
        own = self.directory / f"run-{self.runs}"
        own.mkdir()
        return ConsumerProcess(own, {**self.environment, **(more or {})})


@asynccontextmanager
async def _everything(directory: Path, console: Console) -> AsyncIterator[_Stage]:
    say = _clock(console)
    say("starting Kafka and PostgreSQL")
    data = directory / "data"
    async with EmbeddedStack(data) as stack:
        packages = await installed(cache_home(), say)
        say("starting the reference PDS and PLC directory")
        async with LocalNetwork(packages, directory / "network") as network:
            settings = at(Settings(data_dir=data), stack.bootstrap_servers, stack.dsn)
            environment = {"CHIVE_DATA_DIR": str(data), "CHIVE_LOG__FORMAT": "json"}
            environment |= {"CHIVE_GATEWAY__BIND": "127.0.0.1:0"}
            environment |= network.endpoints.environment()
            async with observing(network, settings) as observer:
                say(f"starting the consumer on {network.endpoints.firehose}")
                say(f"to look inside: python -m consumer status --data-dir {data}")
                yield _Stage(directory, observer, environment, say)


def _clock(console: Console) -> Say:
    began = time.monotonic()

    def say(what: str) -> None:
        console.print(f"{time.monotonic() - began:4.0f} s  {what}", highlight=False, soft_wrap=True)

    return say


@asynccontextmanager
async def _traffic(observer: Observer, options: Options) -> AsyncIterator[Traffic]:
    traffic = Traffic(
        observer.network.endpoints,
        seed=options.seed,
        accounts=options.accounts,
        rate=options.rate,
        span=options.seconds or _CYCLE,
    )
    try:
        yield traffic
    finally:
        await traffic.close()


async def _make_traffic(
    observer: Observer,
    traffic: Traffic,
    options: Options,
    console: Console,
    stop: asyncio.Event,
) -> None:
    feed = Feed(observer.client, observer.topics)
    view = View(console, traffic, feed)
    following = asyncio.create_task(feed.run())
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(view.run(stop))
            group.create_task(traffic.run(stop))
            group.create_task(_end(stop, options.seconds))
            group.create_task(_failing(following, stop))
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from None
    finally:
        following.cancel()
        await asyncio.wait([following])


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
