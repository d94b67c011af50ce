"""The tailer alone: frames per second with nothing relevant among them, and with all forwarded.

A deployment of its own, no worker.  The frames are of unrelated collections and of accounts that
are not tracked; the relay sends as fast as they are taken.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from bench.deployment import Deployment, Usage, deployed, until
from bench.measured import Measured, between
from bench.processes import RelayProcess, consumer, relaying
from bench.traffic import FIRST_SEQ, Traffic
from consumer.embedded import EmbeddedStack
from consumer.embedded.process import Server
from consumer.shard import Shard

_WARM_UP = 4  # the part of a round that goes first, unmeasured


@dataclass(frozen=True, slots=True)
class _Stage:
    """A tailer that follows a relay."""

    deployment: Deployment
    relay: RelayProcess
    tailer: Server

    async def pass_on(self, before: int, after: int) -> Measured:
        """Let frames ``before`` to ``after`` pass, and measure them."""
        begun = self._usage()
        await self.relay.allow(after)

        async def arrived() -> bool:
            sent = await self.relay.sent()
            return sent.frames >= after and await self.deployment.has_tailed(FIRST_SEQ + after - 1)

        await until(f"frame {after} tailed", arrived, [self.tailer])
        ended = self._usage()
        taken = (await self.relay.sent()).at
        return between(begun, ended, after - before, seconds=taken - begun.time)

    def _usage(self) -> Usage:
        return self.deployment.usage(tailer=[self.tailer])


async def measure(
    stack: EmbeddedStack,
    directory: Path,
    traffic: Traffic,
    forward: str,
    frames: int,
    rounds: int,
    shard: str = "1/1",
) -> list[Measured]:
    """Measure ``rounds`` times ``frames`` frames; ``forward`` and ``shard`` are the settings."""
    async with (
        deployed(stack, directory, f"{forward}-{Shard.parse(shard).of}", shard=shard) as deployment,
        relaying(traffic, deployment.directory) as relay,
    ):
        environment = deployment.environment(
            relay.url, CHIVE_RELAY__FORWARD=forward, CHIVE_SCOPE__SHARD=shard
        )
        async with consumer("tailer", deployment.directory, environment) as tailer:
            stage = _Stage(deployment, relay, tailer)
            warm = frames // _WARM_UP
            await stage.pass_on(0, warm)
            return [
                await stage.pass_on(warm + n * frames, warm + (n + 1) * frames)
                for n in range(rounds)
            ]
