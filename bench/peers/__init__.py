"""What others cost on the same commits, as a user would pick them.

npm ``@atproto/sync`` verifies signatures and record proofs, and publishes nothing.  The Python
SDK's firehose client with a plain producer verifies nothing.  Neither keeps a cursor, inverts
operations, follows chains, finds holes or publishes exactly once.
"""

from __future__ import annotations

import shutil
import sys
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

from bench.beside import floor_beside
from bench.deployment import deployed, until
from bench.measured import Measured, between
from bench.population import Population
from bench.processes import executing, hosting, relaying
from bench.traffic import FIRST_SEQ
from consumer.embedded import EmbeddedStack
from consumer.embedded.jars import cache_home
from consumer.errors import Fatal
from consumer.kafka.topics import Topic
from demo.local_network import installed

_PROGRAM = Path(__file__).with_name("sync.mjs")
_DEADLINE = 600.0
_WARM = 500  # commits that are not measured

SYNC, SDK = "@atproto/sync", "SDK and producer"


async def measure(
    stack: EmbeddedStack, directory: Path, network: Population, verified: int, unverified: int
) -> dict[str, Measured]:
    """Measure both by name: a sample of ``verified`` commits, and ``unverified`` ones."""
    packages = await installed(cache_home(), lambda _: None)
    node = shutil.which("node")
    if node is None:
        raise Fatal("node is not there: npm @atproto/sync needs it")
    sync = (node, str(_PROGRAM), str(packages))
    sdk = (sys.executable, "-m", "bench.peers.sdk")
    return {
        SYNC: await _measured(stack, directory, network, sync, verified),
        SDK: await _measured(stack, directory, network, sdk, unverified, "kafka"),
    }


async def _measured(
    stack: EmbeddedStack,
    directory: Path,
    network: Population,
    program: tuple[str, ...],
    commits: int,
    *uses: str,
) -> Measured:
    """Measure ``commits`` commits of a program that is told where everything is.

    ``uses`` are the servers whose costs are its own.
    """
    async with AsyncExitStack() as running:
        enter = running.enter_async_context
        deployment = await enter(deployed(stack, directory, "peers"))
        place = deployment.directory
        relay = await enter(relaying(network.traffic, place))
        floor = await enter(floor_beside(network.traffic.path, place))
        _, plc = await enter(hosting(network.repos, place))
        where = (relay.url, plc, stack.bootstrap_servers)
        topic = deployment.services.topics.name(Topic.EVENTS)
        marks = [FIRST_SEQ + passed - 1 for passed in (_WARM, _WARM + commits)]
        argv = (*program, *where, topic, *map(str, marks))
        peer = await enter(executing("peer", place, *argv))

        async def passed(mark: int) -> None:
            async def said() -> bool:
                return f"passed {mark}\n" in peer.log.read_text()

            await relay.allow(mark - FIRST_SEQ + 1)
            await until(f"the peer passed {mark}", said, [peer], _DEADLINE)

        await passed(marks[0])
        with deployment.unwatched():
            begun = deployment.usage(peer=[peer])
            await passed(marks[1])
            ended = deployment.usage(peer=[peer])
        measured = between(begun, ended, commits, seconds=ended.time - begun.time)
        return replace(
            measured,
            cpu={group: measured.cpu[group] for group in ("peer", *uses)},
            memory=deployment.memory(peer=[peer]),
            floor=floor.between(begun.time, ended.time),
        )
