"""``python -m bench.recovering``: how long the product needs after each fault of its servers.

The whole product runs, and accounts write at a steady rate all the time.  What is measured is the
time from the end of the fault until it has caught up: every commit that was made is in
``chive.events``, and none comes later than 2 s after it was made.  A process that is killed is
started again at once; its fault ends with its death.
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import click
import orjson

from bench import outages
from bench.outages import Fault
from bench.processes import RelayProcess, relaying
from bench.traffic import Spec, Traffic, traffic
from consumer.config.settings import KafkaSettings, LogSettings, Settings
from consumer.embedded import EmbeddedStack
from consumer.embedded.ports import LOOPBACK
from consumer.embedded.process import Server
from consumer.errors import Fatal, Transient
from consumer.kafka.reader import PartitionReader, Record, TopicPartition
from consumer.kafka.topics import Topic
from consumer.kafka.transaction import OutRecord
from consumer.kafka.writer import Writer
from consumer.runtime import logs
from consumer.services import Services, at, opened, scope_of
from consumer.store import identities
from consumer.store.rows import Identity
from consumer.verify.frames import peek
from tests.support.cluster import BROKERS, clustered
from tests.support.pds import Pds, silence
from tests.support.pgbouncer import pooling, program
from tests.support.proxy import TcpProxy
from tests.support.web import Web, web

_CHECKOUT = Path(__file__).parents[1]
_PARTITIONS = 8
_ACCOUNTS, _RECORDS = 200, 10
_AT_ONCE, _EVERY = 5, 0.1  # commits, and seconds between them
_LATE = 2.0  # seconds: a commit that takes longer was held up
_CALM = 5.0  # seconds without a late one, after which it has caught up
_DEADLINE = 150.0
_RUNS = ("servers", "roles", "pooler", "brokers")  # methods of ``Bench``
_SYNCED = 500  # records of the repository that is synced

Key = tuple[str, str]
"""The path of a record behind its DID, and a revision of it."""


class Arrival(NamedTuple):
    """When a commit was made, and when its event was read (Unix seconds)."""

    made: float
    read: float

    @property
    def took(self) -> float:
        return self.read - self.made


class Recovery(NamedTuple):
    """Seconds from a fault's end until it has caught up, and the longest that a commit took."""

    seconds: float
    latest: float


def recovery(arrivals: Iterable[Arrival], ended: float) -> Recovery:
    """Return what came of a fault that ``ended`` (Unix seconds) before the last of ``arrivals``."""
    recovered, latest = ended, 0.0
    for each in arrivals:
        latest = max(latest, each.took)
        if each.made <= ended or each.took > _LATE:
            recovered = max(recovered, each.read)
    return Recovery(recovered - ended, latest)


@dataclass
class Flow:
    """Commits that accounts make at a steady rate, and their events as they are read."""

    services: Services
    relay: RelayProcess
    made: Traffic
    processes: list[Server] = field(default_factory=list)
    waiting: dict[Key, float] = field(default_factory=dict)
    arrivals: list[Arrival] = field(default_factory=list)
    _seen: set[Key] = field(default_factory=set)
    _at: int = 0

    async def begin(self) -> None:
        """Let all accounts appear, and wait for their events."""
        await self._make(self.made.opening)
        await self.caught_up(time.time())

    async def write(self) -> None:
        """Make commits until cancelled.  Raises ``Fatal`` when there are no more."""
        while True:
            await self._make(_AT_ONCE)
            await asyncio.sleep(_EVERY)

    async def _make(self, frames: int) -> None:
        new = self.made.frames[self._at : self._at + frames]
        if len(new) < frames:
            raise Fatal("there are no more commits")
        now, scope = time.time(), scope_of(self.services.settings)
        for look in map(peek, new):
            for path in filter(scope.wants, look.paths):
                self.waiting[f"{look.did}/{path}", str(look.rev)] = now
        self._at += frames
        await self.relay.allow(self._at)

    async def read(self) -> None:
        """Read events until cancelled.  Raises ``Fatal`` if one comes twice."""
        name = self.services.topics.name(Topic.EVENTS)
        positions: dict[TopicPartition, int | None] = {
            TopicPartition(name, number): None for number in range(_PARTITIONS)
        }
        while True:
            try:
                async with await PartitionReader.open(self.services.client, positions) as reader:
                    while True:
                        for record in await reader.fetch(wait=0.2):
                            place = TopicPartition(record.topic, record.partition)
                            positions[place] = record.offset + 1
                            self._take(record)
            except Transient:
                await asyncio.sleep(0.2)

    def _take(self, record: Record) -> None:
        event = orjson.loads(record.value) if record.value else {}
        if event.get("type") != "record":
            return
        key = (event["uri"].removeprefix("at://"), event["rev"])
        if key in self._seen:
            raise Fatal(f"an event came twice: {key}")
        self._seen.add(key)
        made = self.waiting.pop(key, None)
        if made is not None:
            self.arrivals.append(Arrival(made, time.time()))

    async def caught_up(self, ended: float) -> Recovery:
        """Wait until it has caught up with what was made while the fault lasted, and since.

        Raises ``Fatal`` when that takes too long, or a process has ended.
        """
        while True:
            for server in self.processes:
                if server.exit_status is not None:
                    raise server.failure(f"ended with status {server.exit_status}")
            now = time.time()
            oldest = min(self.waiting.values(), default=now)
            if now > ended + _CALM and oldest > max(ended, now - _LATE):
                break
            if now > ended + _DEADLINE:
                raise Fatal(f"not caught up {_DEADLINE:.0f} s after the fault")
            await asyncio.sleep(0.1)
        found = recovery(self.arrivals, ended)
        self.arrivals.clear()
        return found


@dataclass
class Run:
    """Processes of one deployment, and what flows through it."""

    flow: Flow
    folder: Path
    environment: Mapping[str, str]
    relay_proxy: TcpProxy

    @property
    def processes(self) -> list[Server]:
        return self.flow.processes

    @property
    def services(self) -> Services:
        return self.flow.services

    async def start(self, *arguments: str) -> Server:
        """Start ``consumer run ARGUMENTS``."""
        name = f"consumer-{len(self.processes)}"
        server = Server(name, self.folder, environment=dict(self.environment))
        self.processes.append(server)
        await self.again(server, *arguments)
        return server

    async def again(self, server: Server, *arguments: str) -> None:
        """Start a process that has ended."""
        await server.start([sys.executable, "-m", "consumer", "run", *arguments])

    def killed(self, name: str, server: Server, *arguments: str) -> Fault:
        """Return the fault that a process is killed that was started with ``arguments``."""
        return outages.killed(name, server, lambda: self.again(server, *arguments))

    async def suffer(self, faults: Sequence[Fault]) -> None:
        """Let the accounts write, produce the faults one by one, and print what came of them."""
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self.flow.read())]
            await self.flow.begin()
            tasks.append(group.create_task(self.flow.write()))
            await self.flow.caught_up(time.time())
            for fault in faults:
                began = time.time()
                await fault.produce()
                ended = time.time()
                found = await self.flow.caught_up(ended)
                if fault.holds_up and found.latest < (ended - began) / 2:
                    raise Fatal(f"{fault.name}: it held nothing up")
                show(fault.name, f"{found.seconds:.1f}", f"{found.latest:.1f}")
            for task in tasks:
                task.cancel()


def show(*cells: str) -> None:
    """Print a row of the table."""
    click.echo(f"| {' | '.join(cells)} |")


@dataclass
class Bench:
    """What all runs share: servers, traffic, and hosts on loopback."""

    folder: Path
    stack: EmbeddedStack
    made: Traffic
    directory: Web
    site: Web
    seconds: float

    @asynccontextmanager
    async def run(
        self, name: str, *, kafka: str | None = None, replicas: int = 1, dsn: str | None = None
    ) -> AsyncIterator[Run]:
        """Prepare a deployment; ``kafka`` and ``dsn`` are addresses other than the stack's."""
        settings = at(
            Settings(
                kafka=KafkaSettings(
                    topic_prefix=f"{name}.", partitions=_PARTITIONS, replication_factor=replicas
                )
            ),
            kafka or self.stack.bootstrap_servers,
            dsn or self.stack.dsn,
        )
        folder = self.folder / name
        folder.mkdir()
        async with (
            opened(settings, asyncio.Event()) as services,
            relaying(self.made, folder) as relay,
            TcpProxy(int(relay.url.rpartition(":")[2])) as proxy,
        ):
            await self._know(services)
            flow = Flow(services, relay, self.made)
            run = Run(flow, folder, self._environment(settings, folder, proxy), proxy)
            try:
                yield run
            finally:
                await asyncio.gather(*[server.stop(5.0) for server in run.processes])

    def _environment(self, settings: Settings, folder: Path, proxy: TcpProxy) -> dict[str, str]:
        kept = {key: value for key, value in os.environ.items() if not key.startswith("CHIVE_")}
        assert settings.postgres.dsn is not None
        return {
            **kept,
            "PYTHONPATH": str(_CHECKOUT),
            "CHIVE_KAFKA__BOOTSTRAP_SERVERS": str(settings.kafka.bootstrap_servers),
            "CHIVE_KAFKA__TOPIC_PREFIX": settings.kafka.topic_prefix,
            "CHIVE_KAFKA__PARTITIONS": str(_PARTITIONS),
            "CHIVE_KAFKA__REPLICATION_FACTOR": str(settings.kafka.replication_factor),
            "CHIVE_POSTGRES__DSN": settings.postgres.dsn.get_secret_value(),
            "CHIVE_DATA_DIR": str(folder),
            "CHIVE_GATEWAY__BIND": f"{LOOPBACK}:0",
            "CHIVE_RELAY__URL": f"ws://{LOOPBACK}:{proxy.port}",
            "CHIVE_RELAY__START": "oldest",
            "CHIVE_IDENTITY__PLC_URL": self.directory.origin,
            "CHIVE_NETWORK__ALLOW_LOOPBACK": "true",
            "CHIVE_DISCOVERY__SOURCES": self.site.origin,
            "CHIVE_DISCOVERY__SWEEP_EVERY": "0",
            "CHIVE_LOG__FORMAT": "json",
        }

    async def _know(self, services: Services) -> None:
        now = time.time()
        known = [
            Identity(did, key, self.site.origin, None, None, now)
            for did, key in self.made.keys.items()
        ]
        async with services.database.transaction() as connection:
            await identities.write(connection, known)

    # -- the runs ------------------------------------------------------------------------

    async def servers(self) -> None:
        """Everything in one process, while its servers fail."""
        kafka, postgres = self.stack.kafka, self.stack.postgres
        async with self.run("servers") as run:
            process = await run.start()
            await run.suffer(
                [
                    outages.stopped("PostgreSQL", postgres, self.seconds),
                    outages.frozen("PostgreSQL", postgres.server, self.seconds),
                    outages.killed_backends(self.stack.dsn),
                    outages.read_only(self.stack.dsn, self.seconds),
                    outages.stopped("Kafka", kafka, self.seconds),
                    outages.frozen("Kafka", kafka.server, self.seconds),
                    outages.open_transaction(
                        self.stack.bootstrap_servers,
                        run.services.topics.name(Topic.FIREHOSE),
                        self.seconds,
                    ),
                    outages.relay_cut(run.relay_proxy, self.seconds),
                    run.killed("the whole process", process),
                ]
            )

    async def roles(self) -> None:
        """Run a process for each role, of which each is killed."""
        async with self.run("roles") as run:
            named = {
                role: (await run.start("--role", role), "--role", role)
                for role in ("tailer", "worker", "fetcher")
            }
            await run.start("--role", "worker")
            await run.suffer(
                [run.killed(f"the {role}", *named[role]) for role in ("tailer", "worker")]
            )
            await self._killed_in_a_sync(run, *named["fetcher"])

    async def _killed_in_a_sync(self, run: Run, fetcher: Server, *arguments: str) -> None:
        """Kill the fetcher while it downloads; what counts is when the sync has completed."""
        pds = Pds(self.directory, self.site)
        repo = pds.account("recovering", _SYNCED)
        pds.says(repo, silence)
        command = {"type": "didSync", "id": "recovering", "did": repo.account.did}
        async with await Writer.open(run.services.client) as writer:
            name = run.services.topics.name(Topic.CONTROL)
            await writer.write(OutRecord(name, 0, None, orjson.dumps(command)))
        began = time.time()
        while not any("getRepo" in path for path in self.site.paths):
            if time.time() > began + _DEADLINE:
                raise Fatal("the sync does not begin")
            await asyncio.sleep(0.1)
        pds.host(repo)
        fault = run.killed("the fetcher, in a download,", fetcher, *arguments)
        began = time.time()
        await fault.produce()
        sql = "SELECT FROM operations WHERE id = 'recovering' AND status = 'completed'"
        while True:
            async with run.services.database.transaction() as connection:
                if await (await connection.execute(sql)).fetchall():
                    break
            if time.time() > began + _DEADLINE:
                raise Fatal("the sync does not complete")
            await asyncio.sleep(0.1)
        show(fault.name, f"{time.time() - began:.1f} (the sync has completed)", "-")

    async def pooler(self) -> None:
        """Everything in one process behind PgBouncer, which is restarted."""
        installed = program()
        if installed is None:
            click.echo("PgBouncer is not installed: run 'make pgbouncer'")
            return
        dsn = self.stack.dsn
        async with (
            pooling(installed, self.folder, dsn, "transaction", 20) as pooler,
            self.run("pooler", dsn=pooler.through(dsn)) as run,
        ):
            await run.start()
            await run.suffer([outages.restarted_pooler(pooler)])

    async def brokers(self) -> None:
        """Everything in one process with three brokers, of which one is killed."""
        async with (
            clustered(self.folder) as cluster,
            self.run("brokers", kafka=cluster.bootstrap_servers, replicas=BROKERS) as run,
        ):
            await run.start()
            await run.suffer([outages.killed_broker(cluster)])


async def _run(folder: Path, seconds: float, only: Sequence[str]) -> None:
    # The spare seconds are those of recoveries; commits are made all the time.
    commits = int(_AT_ONCE / _EVERY * (8 * seconds + 400))
    made = await asyncio.to_thread(traffic, Spec(_ACCOUNTS, _RECORDS, commits))
    async with EmbeddedStack(folder) as stack, web() as directory, web() as site:
        bench = Bench(folder, stack, made, directory, site, seconds)
        show("fault", "caught up after, s", "latest event, s")
        show("---", "---", "---")
        for name in only or _RUNS:
            await getattr(bench, name)()


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--seconds", default=30.0, show_default=True, help="How long a fault lasts.")
@click.option(
    "--only",
    multiple=True,
    type=click.Choice(_RUNS),
    help="Only these runs; may be repeated.",
)
def main(seconds: float, only: tuple[str, ...]) -> None:
    """Measure the recovery from faults of servers."""
    logs.configure(LogSettings(level="error"))
    with tempfile.TemporaryDirectory(prefix="chive-bench-") as name:
        folder = Path(name)
        folder.chmod(0o711)  # the users that servers run as may pass
        asyncio.run(_run(folder, seconds, only))


if __name__ == "__main__":
    main()
