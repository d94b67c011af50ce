"""A Kafka of three brokers, of which a test may stop, freeze and kill each."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from consumer.config.settings import KafkaSettings
from consumer.embedded.jars import cache_home
from consumer.embedded.kafka import EmbeddedKafka
from tests.support.deployment import Deployment
from tests.support.proxy import LOOPBACK, reserve

BROKERS = 3
CLUSTER = "dGhyZWUtYnJva2Vycy0xMg"
_REPLICATED = {
    "offsets.topic.replication.factor": "3",
    "transaction.state.log.replication.factor": "3",
    "transaction.state.log.min.isr": "2",
    "controlled.shutdown.enable": "true",
    "broker.session.timeout.ms": "6000",
}


@dataclass(frozen=True, slots=True)
class Cluster:
    """Three brokers that are controllers, too."""

    brokers: tuple[EmbeddedKafka, ...]

    @property
    def bootstrap_servers(self) -> str:
        return ",".join(broker.bootstrap_servers for broker in self.brokers)

    def signal(self, number: int, which: signal.Signals) -> None:
        """Send a broker a signal: SIGKILL, or SIGSTOP and SIGCONT."""
        pid = self.brokers[number].server.pid
        assert pid is not None
        os.kill(pid, which)

    async def restart(self, number: int) -> None:
        """Stop a broker in order if it runs, and start it at the same address."""
        await self.brokers[number].stop()
        await self.brokers[number].start()


class Replicated(Deployment):
    """A deployment whose topics have three replicas, of which two must have each record."""

    def kafka(self, **values: Any) -> KafkaSettings:
        """Return its Kafka settings, with ``values`` on top."""
        return super().kafka(**{"replication_factor": BROKERS, **values})


@asynccontextmanager
async def clustered(parent: Path) -> AsyncIterator[Cluster]:
    """Run three brokers during the block, with their data below ``parent``."""
    with ExitStack() as held:
        reserved = [[reserve(0) for _ in range(3)] for _ in range(BROKERS)]
        ports = [[held.enter_context(one).getsockname()[1] for one in three] for three in reserved]
        voters = ",".join(f"{n + 1}@{LOOPBACK}:{ports[n][1]}" for n in range(BROKERS))
        folder = Path(tempfile.mkdtemp(prefix="cluster-", dir=parent))
        brokers = tuple(
            _broker(folder / str(n + 1), ports[n], voters, n + 1) for n in range(BROKERS)
        )
        try:
            await asyncio.gather(*[broker.start() for broker in brokers])
            yield Cluster(brokers)
        finally:
            await asyncio.gather(*[broker.stop() for broker in brokers])
            shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
async def cluster(server_directory: Path) -> AsyncIterator[Cluster]:
    """Give the test three brokers."""
    async with clustered(server_directory) as cluster:
        yield cluster


def _broker(directory: Path, ports: list[int], voters: str, node: int) -> EmbeddedKafka:
    directory.mkdir()
    (directory / "ports.json").write_text(str(ports))
    settings = {"node.id": str(node), "controller.quorum.voters": voters, **_REPLICATED}
    return EmbeddedKafka(directory, cache_home(), settings=settings, cluster=CLUSTER)


@pytest.fixture
def replicated(deployment: Deployment, cluster: Cluster) -> Deployment:
    """Give the test topics of its own on the three brokers, and a database."""
    plain = replace(deployment, bootstrap_servers=cluster.bootstrap_servers)
    return Replicated(plain.bootstrap_servers, plain.prefix, plain.dsn, plain.data_dir)
