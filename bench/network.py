"""What a user does: a network is synced, then its commits come, at full speed or at a steady rate.

Every collection is wanted and every frame forwarded.  Each stage has a deployment of its own on the
same servers, and begins with nothing: the whole network is synced by commands that are sent
together, from scripted hosts.  The relay sends prepared bytes.

``full_speed``: a process for each role, with one worker or several; the commits as fast as they
are taken.  ``steady``: all roles in one process, as ``consumer run`` starts them; some rates, one
after the other, and then nothing at all.
What the load itself costs (relay, hosts, the reader of the events) is noted apart; the floor is
measured beside it.  Every stage
ends with a comparison: the table of records must hold what the commits say.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from bench.beside import FloorBeside, floor_beside
from bench.commands import command
from bench.deployment import PARTITIONS, Deployment, Usage, deployed, last_seqs, until
from bench.latency import reading
from bench.measured import Measured, between
from bench.population import Population
from bench.processes import ALL_ROLES, RelayProcess, consumer, hosting, relaying
from consumer.embedded import EmbeddedStack
from consumer.embedded.process import Server
from consumer.errors import Fatal
from consumer.verify.frames import CommitFrame, decode_frame

SYNC, COMMITS, RATE = "sync", "commits", "rate"

WARM = 2_000  # commits before the first steady rate
_SETTLE_SECONDS = 3.0
_DEADLINE = 1_200.0
_STATES = "SELECT sync_state, count(*) FROM repos WHERE did = ANY(%s) GROUP BY 1"
_HELD = "SELECT did, path, cid FROM records WHERE did = ANY(%s)"


@dataclass
class Findings:
    """Steps by name; ``idle``: CPU ms per second while nothing happens, by group.

    Names: ``sync-1`` and ``commits-1`` with one worker process, ``sync-all`` with all roles in one
    process, ``rate-200`` at 200 commits a second, ``small`` for small repositories.
    ``alone``: the servers without a consumer.
    """

    steps: dict[str, Measured] = field(default_factory=dict)
    idle: dict[str, float] = field(default_factory=dict)
    alone: dict[str, float] = field(default_factory=dict)


async def full_speed(
    stack: EmbeddedStack,
    directory: Path,
    network: Population,
    commits: int,
    workers: int,
    found: Findings,
) -> None:
    """Measure the sync of ``network``, and ``commits`` commits, with ``workers`` processes."""
    names = ("tailer", *(f"worker-{number}" for number in range(1, workers + 1)), "fetcher")
    async with _running(stack, directory, network, f"network-{workers}", names) as run:
        found.steps[f"{SYNC}-{workers}"] = await run.sync()
        found.steps[f"{COMMITS}-{workers}"] = await run.through(commits)
        await run.check()


async def steady(
    stack: EmbeddedStack,
    directory: Path,
    network: Population,
    rates: Sequence[tuple[int, int]],
    idle_seconds: float,
    found: Findings,
) -> None:
    """Measure ``rates``: commits per second, and how many of them."""
    async with AsyncExitStack() as running:
        run = await running.enter_async_context(
            _running(stack, directory, network, "network", [ALL_ROLES])
        )
        found.steps[f"{SYNC}-all"] = await run.sync()
        await run.through(WARM)
        for rate, commits in rates:
            found.steps[f"{RATE}-{rate}"] = await run.at_rate(rate, commits)
        await run.check()
        found.idle = await run.idle(idle_seconds)
        await run.servers[ALL_ROLES].stop()
        found.alone = await run.idle(idle_seconds)


async def small(
    stack: EmbeddedStack, directory: Path, network: Population, found: Findings
) -> None:
    """Measure the sync of many small repositories, per repository."""
    names = ("tailer", "worker", "fetcher")
    async with _running(stack, directory, network, "small", names) as run:
        found.steps["small"] = await run.sync(each=network.spec.records)


@asynccontextmanager
async def _running(
    stack: EmbeddedStack, directory: Path, network: Population, name: str, names: Iterable[str]
) -> AsyncIterator[Run]:
    async with placed(stack, directory, network, name) as run, consuming(run, names):
        yield run


@asynccontextmanager
async def placed(
    stack: EmbeddedStack,
    directory: Path,
    network: Population,
    name: str,
    *,
    partitions: int = PARTITIONS,
    **settings: str,
) -> AsyncIterator[Run]:
    """Provide ``network`` and a deployment called ``name``, in which no process runs yet."""
    async with AsyncExitStack() as running:
        enter = running.enter_async_context
        deployment = await enter(deployed(stack, directory, name, partitions))
        relay = await enter(relaying(network.traffic, deployment.directory))
        floor = await enter(floor_beside(network.traffic.path, deployment.directory))
        host, origin = await enter(hosting(network.repos, deployment.directory))
        environment = deployment.environment(
            relay.url,
            CHIVE_RELAY__FORWARD="all",
            CHIVE_SCOPE__COLLECTIONS="*",
            CHIVE_IDENTITY__PLC_URL=origin,
            CHIVE_NETWORK__ALLOW_LOOPBACK="true",
            **settings,
        )
        yield Run(deployment, relay, floor, host, environment, network)


@asynccontextmanager
async def consuming(run: Run, names: Iterable[str]) -> AsyncIterator[None]:
    """Run the processes called ``names`` during the block."""
    async with AsyncExitStack() as running:
        for each in names:
            server = consumer(each, run.deployment.directory, run.environment)
            run.servers[each] = await running.enter_async_context(server)
        await until("the relay is read", run.relay.is_read, run.servers.values())
        yield
    run.servers.clear()


@dataclass(slots=True)
class Run:
    """The processes of one deployment, and how many commits have passed."""

    deployment: Deployment
    relay: RelayProcess
    floor: FloorBeside
    host: Server
    environment: Mapping[str, str]
    network: Population
    servers: dict[str, Server] = field(default_factory=dict)
    at: int = 0

    async def sync(self, each: int = 1) -> Measured:
        """Measure the syncs of all repositories; costs are for ``each`` records."""
        spec = self.network.spec
        begun = self._usage()
        commands = await command(
            self.deployment, [{"type": "didSync", "did": did} for did in self.network.dids]
        )
        await commands.applied(self.servers.values(), _DEADLINE)
        ended, records = self._usage(), spec.accounts * spec.records
        await commands.check(records)
        return self._measured(begun, ended, records // each, ended.time - begun.time)

    async def through(self, commits: int) -> Measured:
        """Measure ``commits`` commits as fast as they are taken."""
        begun = self._usage()
        frames = self._next(commits)
        await self.relay.allow(self.at)
        await self._published(frames)
        ended = self._usage()
        return self._measured(begun, ended, commits, self.deployment.published_at - begun.time)

    async def at_rate(self, rate: int, commits: int) -> Measured:
        """Measure ``commits`` commits, ``rate`` of them a second, and how late their events are."""
        frames = self._next(commits)
        async with reading(self.deployment) as reader:
            await asyncio.sleep(_SETTLE_SECONDS)
            with self.deployment.unwatched():
                begun = self._usage()
                await self.relay.pace(self.at, rate)
                await until("all events", lambda: reader.has_seen(commits), self._all(), _DEADLINE)
                ended = self._usage()
            lags = reader.lags(await self.relay.written())
        await self._published(frames)
        return self._measured(begun, ended, commits, ended.time - begun.time, lags)

    async def idle(self, seconds: float) -> dict[str, float]:
        """Return the CPU ms per second of each group while nothing happens."""
        await asyncio.sleep(_SETTLE_SECONDS)
        with self.deployment.unwatched():
            begun = self._usage()
            await asyncio.sleep(seconds)
            ended = self._usage()
        spent = {name: (ended.cpu[name] - begun.cpu[name]) * 1e3 for name in ended.cpu}
        return {name: milliseconds / seconds for name, milliseconds in spent.items()}

    async def check(self) -> None:
        """Raise unless all repositories are active, and the records those that the commits left."""
        states = await self.deployment.rows(_STATES, self.network.dids)
        if states != [("active", len(self.network.dids))]:
            raise Fatal(f"{len(self.network.dids)} repositories should be active: {states}")
        rows = await self.deployment.rows(_HELD, self.network.dids)
        held = {(did, path): cid for did, path, cid in rows}
        wrong = sum(held.get(key) != cid for key, cid in _left(self._frames()).items())
        if wrong:
            raise Fatal(f"{wrong} records are not what the commits say")

    def _frames(self) -> list[bytes]:
        return self.network.traffic.frames[: self.at]

    def _next(self, commits: int) -> list[bytes]:
        frames = self.network.traffic.frames[self.at : self.at + commits]
        if len(frames) < commits:
            raise Fatal("the traffic is too short for this")
        self.at += commits
        return frames

    async def _published(self, frames: Sequence[bytes]) -> None:
        """Wait until the events of ``frames`` are in Kafka; those that were parked as well."""
        last = last_seqs(self.deployment.services.topics, frames)

        async def published() -> bool:
            return await self.deployment.has_published(last) and not await self._parked()

        await until("all published", published, self._all(), _DEADLINE)

    async def _parked(self) -> bool:
        ((parked,),) = await self.deployment.rows("SELECT count(*) FROM parked")
        return bool(parked)

    def _usage(self) -> Usage:
        usage = self.deployment.usage(**self._groups())
        return Usage(usage.time, {**usage.cpu, "reader": time.process_time()})

    def _measured(
        self,
        begun: Usage,
        ended: Usage,
        count: int,
        seconds: float,
        lags: tuple[float, float] | None = None,
    ) -> Measured:
        memory = self.deployment.memory(**self._groups())
        floor = self.floor.between(begun.time, ended.time)
        return replace(
            between(begun, ended, count, seconds=seconds), memory=memory, lags=lags, floor=floor
        )

    def _groups(self) -> dict[str, list[Server]]:
        servers = {
            **self.servers,
            "relay": self.relay.server,
            "host": self.host,
            "floor": self.floor.server,
        }
        return {name: [server] for name, server in servers.items() if server.exit_status is None}

    def _all(self) -> list[Server]:
        return list(self.servers.values())


def _left(frames: Iterable[bytes]) -> dict[tuple[str, str], bytes | None]:
    """Return the CID that commits leave at each path they touch, by DID and path."""
    left: dict[tuple[str, str], bytes | None] = {}
    for data in frames:
        frame = decode_frame(data)
        assert isinstance(frame, CommitFrame)
        left |= {(frame.did, op.path): op.cid for op in frame.ops}
    return left
