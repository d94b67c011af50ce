"""The worker alone, and end to end: from the relay's socket to ``chive.events``.

All scenarios use one deployment.  The genesis commits of all accounts pass first, unmeasured:
after them all repositories are known, active and complete, and every process is warm.  Identities
are in PostgreSQL from the beginning, so no frame is parked and nothing is fetched.

The scenarios, on new commits each time: end to end with one worker process and with two; the
worker on frames that the tailer has forwarded before; the same with a worker that samples itself.
Every round checks that all its commits were verified and applied: each op on a wanted record
must have become an event.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from bench.deployment import PARTITIONS, Deployment, deployed, last_seqs, until
from bench.measured import Measured, between
from bench.processes import RelayProcess, begin_profile, consumer, relaying
from bench.traffic import FIRST_SEQ, Traffic
from consumer.config.settings import Settings
from consumer.embedded import EmbeddedStack
from consumer.embedded.process import Server
from consumer.errors import Fatal
from consumer.kafka.topics import Topics
from consumer.scope import Scope
from consumer.verify.frames import CommitFrame, decode_frame, peek

_SCOPE = Scope(Settings().scope.collections)
_IDLE_SECONDS = 5.0
_MOVED = 2  # worker processes share the lanes once this part of them has moved


@dataclass(frozen=True, slots=True)
class Findings:
    """Rounds by scenario (``worker``, ``end-to-end-1``, ``end-to-end-2``); shares of a worker.

    ``idle``: what one tailer and one worker cost when nothing happens, in CPU ms per second.
    """

    rounds: dict[str, list[Measured]] = field(default_factory=dict)
    idle: dict[str, float] = field(default_factory=dict)
    shares: dict[str, float] = field(default_factory=dict)
    functions: list[tuple[str, int]] = field(default_factory=list)


async def measure(
    stack: EmbeddedStack,
    directory: Path,
    traffic: Traffic,
    commits: int,
    rounds: int,
    wanted: frozenset[str],
) -> Findings:
    """Measure the scenarios in ``wanted``, each round over ``commits`` commits."""
    findings = Findings()
    async with (
        deployed(stack, directory, "bench") as deployment,
        relaying(traffic, deployment.directory) as relay,
    ):
        await deployment.know(traffic.keys)
        environment = deployment.environment(relay.url)
        async with consumer("tailer", deployment.directory, environment) as tailer:
            run = _Run(deployment, relay, tailer, traffic, environment)
            async with AsyncExitStack() as workers:
                await workers.enter_async_context(run.worker("worker-1"))
                await run.introduce()
                findings.idle.update(await run.idle())
                await _end_to_end(run, workers, findings, commits, rounds, wanted)
            if "worker" in wanted:
                findings.rounds["worker"] = [await run.behind("worker-3", commits * rounds)]
            if "profile" in wanted:
                profile = deployment.directory / "profile.json"
                await run.behind("worker-4", commits * rounds, profile)
                found = json.loads(profile.read_text())
                findings.shares.update(found["shares"])
                findings.functions.extend(found["functions"])
            await run.check_repos()
    return findings


async def _end_to_end(
    run: _Run,
    workers: AsyncExitStack,
    findings: Findings,
    commits: int,
    rounds: int,
    wanted: frozenset[str],
) -> None:
    for number in (1, 2):
        name = f"end-to-end-{number}"
        if name not in wanted:
            continue
        while len(run.workers) < number:
            tokens = await run.tokens()
            await workers.enter_async_context(run.worker(f"worker-{len(run.workers) + 1}"))
            await run.shared(tokens)
        findings.rounds[name] = [await run.through(commits) for _ in range(rounds)]


@dataclass(slots=True)
class _Run:
    """The processes of the deployment, and how much of the traffic has passed."""

    deployment: Deployment
    relay: RelayProcess
    tailer: Server
    traffic: Traffic
    environment: dict[str, str]
    workers: list[Server] = field(default_factory=list)
    at: int = 0  # frames allowed so far

    @asynccontextmanager
    async def worker(self, name: str, profile: Path | None = None) -> AsyncIterator[Server]:
        """Run one more worker process during the block."""
        directory = self.deployment.directory
        async with consumer(name, directory, self.environment, profile=profile) as server:
            self.workers.append(server)
            try:
                yield server
            finally:
                self.workers.remove(server)

    async def introduce(self) -> None:
        """Let the genesis commits of all accounts pass."""
        await self._pass(self.traffic.opening)
        await self.check_repos()

    async def idle(self) -> dict[str, float]:
        """Return the CPU ms per second of each group while no frame comes."""
        usage = self._groups()
        begun = self.deployment.usage(**usage)
        await asyncio.sleep(_IDLE_SECONDS)
        ended = self.deployment.usage(**usage)
        seconds = ended.time - begun.time
        return {group: (ended.cpu[group] - begun.cpu[group]) / seconds * 1e3 for group in ended.cpu}

    async def through(self, commits: int) -> Measured:
        """Measure ``commits`` commits from the relay to the events."""
        usage = self._groups()
        begun, decided = self.deployment.usage(**usage), await self.deployment.decided()
        frames = await self._pass(commits)
        ended = self.deployment.usage(**usage)
        await self._check(frames, decided)
        return between(begun, ended, commits, seconds=self.deployment.published_at - begun.time)

    async def behind(self, name: str, commits: int, profile: Path | None = None) -> Measured:
        """Measure a new worker on ``commits`` commits in Kafka, from its first batch on."""
        decided = await self.deployment.decided()
        frames = await self._forward(commits)
        waiting = _Waiting(_lane_seqs(self.deployment.services.topics, frames), self.deployment)
        async with self.worker(name, profile) as server:
            await until("a worker begins", waiting.has_begun, self._servers())
            if profile:
                begin_profile(server)
            begun, done = self.deployment.usage(worker=[server]), await waiting.done()
            if done >= commits:
                raise Fatal(f"a worker decided {commits} commits in one look: measure more")
            await self._published(frames)
            ended = self.deployment.usage(worker=[server])
        await self._check(frames, decided)
        seconds = self.deployment.published_at - begun.time
        return between(begun, ended, commits - done, seconds=seconds)

    async def tokens(self) -> dict[int, str]:
        """Return the owner's token of each lane."""
        rows = await self.deployment.rows("SELECT lane, token::text FROM lanes")
        return {int(str(lane)): str(token) for lane, token in rows}

    async def shared(self, before: dict[int, str]) -> None:
        """Wait until a new worker process has taken over its share of the lanes."""

        async def moved() -> bool:
            tokens = await self.tokens()
            changed = sum(token != before[lane] for lane, token in tokens.items())
            return changed >= PARTITIONS // _MOVED

        await until("lanes are shared", moved, self._servers())

    async def check_repos(self) -> None:
        """Raise unless every repository is known and active."""
        found = await self.deployment.rows("SELECT sync_state, count(*) FROM repos GROUP BY 1")
        if found != [("active", len(self.traffic.keys))]:
            raise Fatal(f"{len(self.traffic.keys)} repositories should be active: {found}")

    async def _pass(self, frames: int) -> list[bytes]:
        passed = await self._allow(frames)
        await self._published(passed)
        return passed

    async def _forward(self, frames: int) -> list[bytes]:
        """Let frames pass to Kafka while no worker runs."""
        passed = await self._allow(frames)
        last = FIRST_SEQ + self.at - 1
        await until("frames forwarded", lambda: self.deployment.has_tailed(last), self._servers())
        return passed

    async def _allow(self, frames: int) -> list[bytes]:
        passed = self.traffic.frames[self.at : self.at + frames]
        if len(passed) < frames:
            raise Fatal("the traffic is too short for this")
        self.at += frames
        await self.relay.allow(self.at)
        return passed

    async def _published(self, frames: Sequence[bytes]) -> None:
        last = last_seqs(self.deployment.services.topics, frames)
        await until("all published", lambda: self.deployment.has_published(last), self._servers())

    async def _check(self, frames: Iterable[bytes], decided_before: int) -> None:
        """Raise unless every op on a wanted record became an event, deletes with a tombstone."""
        expected = sum(map(_out_rows, frames))
        found = await self.deployment.decided() - decided_before
        if found != expected:
            raise Fatal(f"{expected} rows for Kafka should have been decided, not {found}")

    def _groups(self) -> dict[str, list[Server]]:
        return {"tailer": [self.tailer], "worker": list(self.workers)}

    def _servers(self) -> list[Server]:
        return [self.tailer, *self.workers]


@dataclass(slots=True)
class _Waiting:
    """Frames, as (lane, seq), that are in Kafka before their worker starts."""

    frames: Sequence[tuple[int, int]]
    deployment: Deployment
    _before: dict[int, tuple[int, int]] | None = None

    async def has_begun(self) -> bool:
        """Tell whether a lane has moved since the first call."""
        lanes = await self.deployment.lanes()
        if self._before is None:
            self._before = lanes
        return lanes != self._before

    async def done(self) -> int:
        """Return how many of the frames are behind the lanes' positions."""
        lanes = await self.deployment.lanes()
        return sum(seq <= lanes[lane][0] for lane, seq in self.frames)


def _lane_seqs(topics: Topics, frames: Iterable[bytes]) -> list[tuple[int, int]]:
    looks = map(peek, frames)
    return [(topics.partition_of(look.did or ""), look.seq or 0) for look in looks]


def _out_rows(data: bytes) -> int:
    frame = decode_frame(data)
    assert isinstance(frame, CommitFrame)
    return sum(1 + (op.action == "delete") for op in frame.ops if _SCOPE.wants(op.path))
