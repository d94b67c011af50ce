"""One deployment on the embedded servers: its topics and tables, positions and CPU time."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from bench.processes import cpu_seconds, peak_mebibytes
from consumer.config.settings import KafkaSettings, ScopeSettings, Settings
from consumer.embedded import EmbeddedStack
from consumer.embedded.process import Server
from consumer.errors import Fatal
from consumer.kafka.reader import PartitionReader, TopicPartition
from consumer.kafka.topics import Topic, Topics
from consumer.lanes import marker
from consumer.services import Services, at, opened
from consumer.store import identities
from consumer.store.rows import Identity
from consumer.tail.cursor import Cursor
from consumer.verify.frames import peek

PARTITIONS = 8
_PDS = "https://pds.bench.test"
_LOOK_EVERY = 0.1
_DEADLINE = 120.0  # seconds


@dataclass(frozen=True, slots=True)
class Usage:
    """CPU seconds of each group of processes at ``time`` (Unix seconds)."""

    time: float
    cpu: Mapping[str, float]


@dataclass
class Deployment:
    """Topics and a schema on the servers of ``stack``; the processes log to ``directory``."""

    stack: EmbeddedStack
    services: Services
    directory: Path
    _positions: PartitionReader
    _published: dict[int, int] = field(default_factory=dict)
    _cursor: int = 0
    published_at: float = 0.0  # when the newest marker was appended

    @property
    def partitions(self) -> int:
        """The number of lanes."""
        return self.services.topics.partitions

    def environment(self, relay: str, **more: str) -> dict[str, str]:
        """Return the settings of a consumer process."""
        settings = self.services.settings
        return {
            "CHIVE_KAFKA__BOOTSTRAP_SERVERS": self.stack.bootstrap_servers,
            "CHIVE_KAFKA__TOPIC_PREFIX": settings.kafka.topic_prefix,
            "CHIVE_KAFKA__PARTITIONS": str(self.partitions),
            "CHIVE_POSTGRES__DSN": self.stack.dsn,
            "CHIVE_DATA_DIR": str(self.directory),
            "CHIVE_GATEWAY__BIND": "127.0.0.1:0",
            "CHIVE_RELAY__URL": relay,
            "CHIVE_RELAY__START": "oldest",
            "CHIVE_LOG__FORMAT": "json",
            **more,
        }

    def usage(self, **groups: Iterable[Server]) -> Usage:
        """Return the CPU time that the servers of ``groups``, Kafka and PostgreSQL have used."""
        cpu = {
            name: sum(cpu_seconds(server.pid) for server in servers if server.pid is not None)
            for name, servers in self._with_servers(groups).items()
        }
        return Usage(time.time(), cpu)

    def memory(self, **groups: Iterable[Server]) -> dict[str, float]:
        """Return the largest resident memory of each group so far, in MiB."""
        return {
            name: sum(peak_mebibytes(server.pid) for server in servers if server.pid is not None)
            for name, servers in self._with_servers(groups).items()
        }

    async def know(self, keys: Mapping[str, str]) -> None:
        """Write identities (``did:key`` texts by DID) as after answers of the fetcher."""
        fetched = time.time()
        known = [Identity(did, key, _PDS, None, None, fetched) for did, key in keys.items()]
        async with self.services.database.transaction() as connection:
            await identities.write(connection, known)

    async def rows(self, query: str, *parameters: object) -> list[tuple[object, ...]]:
        """Return the rows of a query."""
        async with self.services.database.transaction() as connection:
            return await (await connection.execute(query, parameters)).fetchall()

    async def lanes(self) -> dict[int, tuple[int, int]]:
        """Return (last_seq, last_out_seq) of every lane."""
        found = await self.rows("SELECT lane, last_seq, last_out_seq FROM lanes")
        return {int(str(n)): (int(str(seq)), int(str(out))) for n, seq, out in found}

    async def decided(self) -> int:
        """Return how many rows the lanes have put into the outbox."""
        return sum(out for _, out in (await self.lanes()).values())

    async def has_published(self, last: Mapping[int, int]) -> bool:
        """Tell whether the frames up to ``last`` (seq by lane) are decided and in Kafka."""
        await self._look()
        lanes = await self.lanes()
        return all(
            lane in lanes
            and lanes[lane][0] >= seq
            and self._published.get(lane, 0) >= lanes[lane][1]
            for lane, seq in last.items()
        )

    async def has_caught_up(self, lanes: Mapping[int, tuple[int, int]]) -> bool:
        """Tell whether what the workers' ``lanes`` had decided is in Kafka."""
        await self._look()
        return all(
            self._published.get(lane, 0) >= out
            for lane, (_, out) in lanes.items()
            if lane < self.partitions
        )

    @contextmanager
    def unwatched(self) -> Iterator[None]:
        """Ask Kafka for no positions during the block: each request would be measured."""
        self._positions.pause()
        try:
            yield
        finally:
            self._positions.resume()

    async def has_tailed(self, seq: int) -> bool:
        """Tell whether the tailer's durable cursor is at ``seq``."""
        await self._look()
        return self._cursor >= seq

    def _with_servers(self, groups: Mapping[str, Iterable[Server]]) -> dict[str, Iterable[Server]]:
        kafka, postgres = [self.stack.kafka.server], [self.stack.postgres.server]
        return {**groups, "kafka": kafka, "postgres": postgres}

    async def _look(self) -> None:
        """Read new markers and cursors from Kafka."""
        for record in await self._positions.fetch(wait=0):
            if record.topic == self.services.topics.name(Topic.CURSOR):
                if record.key and record.key.startswith(b"ws") and record.value:
                    self._cursor = Cursor.decode(record.value).seq
            elif record.key == marker.key_of(record.partition) and record.value:
                self._published[record.partition] = marker.decode(record.value).out_seq
                self.published_at = record.timestamp / 1000


@asynccontextmanager
async def deployed(
    stack: EmbeddedStack,
    directory: Path,
    name: str,
    partitions: int = PARTITIONS,
    shard: str = "1/1",
) -> AsyncIterator[Deployment]:
    """Prepare topics and tables of a deployment called ``name``; it logs below ``directory``."""
    kafka = KafkaSettings(topic_prefix=f"{name}.", partitions=partitions)
    scope = ScopeSettings(shard=shard)
    settings = at(Settings(kafka=kafka, scope=scope), stack.bootstrap_servers, stack.dsn)
    async with opened(settings, asyncio.Event()) as services:
        published, cursor = map(services.topics.name, (Topic.PUBLISHED, Topic.CURSOR))
        markers = {TopicPartition(published, lane): None for lane in range(partitions)}
        positions = {**markers, TopicPartition(cursor, 0): None}
        async with await PartitionReader.open(services.client, positions) as reader:
            own = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=directory))
            yield Deployment(stack, services, own, reader)


def last_seqs(topics: Topics, frames: Iterable[bytes]) -> dict[int, int]:
    """Return the seq of the newest of ``frames`` on each lane."""
    last: dict[int, int] = {}
    for frame in frames:
        look = peek(frame)
        last[topics.partition_of(look.did or "")] = look.seq or 0
    return last


async def until(
    what: str,
    done: Callable[[], Awaitable[bool]],
    servers: Iterable[Server],
    deadline: float = _DEADLINE,
) -> None:
    """Wait until ``done``, at most ``deadline`` seconds; ``what`` names it in the error.

    Raises ``Fatal`` when it takes longer or one of ``servers`` ends.
    """
    give_up = time.monotonic() + deadline
    while not await done():
        for server in servers:
            if server.exit_status is not None:
                raise server.failure(f"ended with status {server.exit_status}")
        if time.monotonic() > give_up:
            raise Fatal(f"{what}: not done after {deadline:.0f} s")
        await asyncio.sleep(_LOOK_EVERY)
