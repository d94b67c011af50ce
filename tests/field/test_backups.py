"""PostgreSQL, Kafka or both are destroyed under traffic, and docs/backup.md leads back.

The commands are those of the page.  In the end tables, topic and hosts agree, and so does the
index of a consumer that keeps to the rules.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path

import pytest

from consumer.embedded.jars import cache_home
from consumer.embedded.kafka import EmbeddedKafka
from consumer.embedded.postgres import EmbeddedPostgres, binaries
from consumer.errors import Fatal
from simulator.repo import Repo, Write
from tests.field.network import Network
from tests.field.product import Product, Records
from tests.support.consumer import ROOT, bare_environment
from tests.support.deployment import PARTITIONS, Deployment
from tests.support.hosts import Host
from tests.support.index import Index
from tests.support.oldest_kafka import wanted
from tests.support.pds import COLLECTION

pytestmark = [pytest.mark.services, pytest.mark.timeout(400)]

PREFIXES = ("chive.", "chive2.")  # those of the page
_SECTION = re.compile(r"^## (.+)\n((?:(?!^## ).*\n?)*)", re.MULTILINE)
_BLOCK = re.compile(r"^```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)

BACKUP = "What to back up"
DATABASE = "PostgreSQL was restored, or is lost"
KAFKA = "Kafka is lost, or is another cluster; another number of partitions"


def blocks(section: str) -> list[str]:
    """Return the commands that the page gives in one of its sections."""
    page = (ROOT / "docs" / "backup.md").read_text()
    return _BLOCK.findall(dict(_SECTION.findall(page))[section])


@dataclass
class Life:
    """Accounts: those that are ``busy`` write all the time, in all ways there are."""

    network: Network
    busy: list[Repo] = field(default_factory=list)
    quiet: list[Repo] = field(default_factory=list)
    hosts: dict[str, Host] = field(default_factory=dict)
    _writing: asyncio.Task[None] | None = None

    @property
    def everyone(self) -> list[Repo]:
        return [*self.busy, *self.quiet]

    async def newcomer(self, *, busy: bool = False) -> Repo:
        """Let an account appear, with records and a first commit."""
        host, repo = await self.network.account(f"backed up {len(self.hosts)}", records=4)
        self.hosts[repo.account.did] = host
        await self.network.commit(repo)
        (self.busy if busy else self.quiet).append(repo)
        return repo

    async def says(self, repo: Repo, status: str) -> None:
        """Let an account change its status, at its host and by a frame."""
        self.hosts[repo.account.did].states(repo, status)
        await self.network.says(repo, None if status == "active" else status)

    def begin(self) -> None:
        """Let the busy ones write from now on."""
        self._writing = asyncio.create_task(self._write())

    async def rest(self) -> None:
        """Let nobody write any more."""
        if self._writing is not None:
            writing, self._writing = self._writing, None
            writing.cancel()
            await asyncio.wait([writing])
            if not writing.cancelled():
                writing.result()

    async def _write(self) -> None:
        for number in count():
            repo = self.busy[number % len(self.busy)]
            await self.network.commit(repo, *self._writes(repo, number))
            if number % 10 == 0:
                await self.network.moved(repo)
            await asyncio.sleep(0.1)

    def _writes(self, repo: Repo, number: int) -> Sequence[Write]:
        mine = sorted(path for path in repo.records if path.startswith(COLLECTION))
        text = {"$type": COLLECTION, "text": f"version {number}"}
        if number % 3 == 0 and len(mine) > 2:
            return (Write("update", mine[0], text), Write("delete", mine[1]))
        return (self.network.write(),)


@dataclass
class Operator:
    """Who reads the page: runs its commands in ``folder``, with the addresses set."""

    deployment: Deployment
    folder: Path

    async def follow(self, block: str) -> tuple[int, str]:
        """Run the commands of a block; return the exit code and what was said."""
        programs = (str(binaries()), str(Path(sys.executable).parent), os.environ["PATH"])
        process = await asyncio.create_subprocess_exec(
            *("bash", "-ec", block),
            cwd=self.folder,
            env={
                **bare_environment(),
                **self.deployment.environment(),
                "PATH": os.pathsep.join(programs),
                "PYTHONPATH": str(ROOT),
            },
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        said, _ = await process.communicate()
        assert process.returncode is not None
        return process.returncode, said.decode()

    async def succeeds(self, block: str) -> str:
        """Run the commands of a block, which must succeed; return what was said."""
        code, said = await self.follow(block)
        assert code == 0, said
        return said


@dataclass
class Servers:
    """Kafka and PostgreSQL, each of which can be lost with all that it holds."""

    kafka: EmbeddedKafka
    postgres: EmbeddedPostgres

    async def lose_postgres(self) -> None:
        """Replace the database by an empty one at the same address."""
        self.postgres.server.kill()
        shutil.rmtree(self.postgres.server.log.parent / "data")
        await self.postgres.start()

    async def lose_kafka(self) -> None:
        """Replace the cluster by an empty one at the same address."""
        self.kafka.server.kill()
        folder = self.kafka.server.log.parent
        shutil.rmtree(folder / "data")
        self.kafka = EmbeddedKafka(folder, cache_home(), release=wanted())
        await self.kafka.start()


@pytest.fixture
async def servers(
    own_kafka: EmbeddedKafka, own_postgres: EmbeddedPostgres
) -> AsyncIterator[Servers]:
    servers = Servers(own_kafka, own_postgres)
    yield servers
    await servers.kafka.stop()


@pytest.fixture
async def first(servers: Servers, network: Network, tmp_path: Path) -> AsyncIterator[Product]:
    """Give a consumer of the prefix that the page has, on servers of its own."""
    deployment = Deployment(
        servers.kafka.bootstrap_servers, PREFIXES[0], servers.postgres.dsn, tmp_path / "data"
    )
    async with Product.opened(deployment, network=network) as product:
        yield product


@pytest.fixture
async def life(network: Network) -> AsyncIterator[Life]:
    """Let accounts write for the whole length of the test."""
    life = Life(network)
    for _ in range(6):
        await life.newcomer(busy=True)
    life.begin()
    yield life
    await life.rest()


@pytest.fixture
def operator(first: Product, tmp_path: Path) -> Operator:
    return Operator(first.deployment, tmp_path)


def index_of(product: Product) -> Index:
    deployment = product.deployment
    return Index(deployment.bootstrap_servers, f"{deployment.prefix}events", PARTITIONS)


@asynccontextmanager
async def running(first: Product, prefix: str) -> AsyncIterator[tuple[Product, Index]]:
    """Run the consumer on topics that are new, and an empty index beside it."""
    deployment = replace(first.deployment, prefix=prefix)
    async with (
        Product.opened(deployment, network=first.network) as product,
        product.running(),
    ):
        index = index_of(product)
        async with index.reading():
            yield product, index


async def right(product: Product, index: Index, life: Life) -> None:
    """Wait until tables, topic, hosts and the consumer's index agree, once nobody writes."""
    await life.rest()
    await product.agrees(*life.everyone)
    for repo in life.everyone:
        did, held = repo.account.did, await product.stored(repo)

        def is_right(did: str = did, held: Records = held) -> bool:
            assert index.records(did) == held
            assert index.statuses.get(did, "active") == "active"
            return index.is_complete(did)

        await product.eventually(is_right, what=f"the index of {did}")
    assert index.crashes


async def leaves_and_returns(product: Product, life: Life, repo: Repo) -> None:
    """Let an account be deleted, and come back with the records it had."""
    await life.says(repo, "deleted")
    await product.gone(repo)
    await life.says(repo, "active")
    await product.agrees(repo)


async def stopped(product: Product) -> None:
    """Stop the process, whether or not it has ended for what was lost."""
    with suppress(Fatal):
        await product.stop()


async def refused(product: Product) -> None:
    """Check that the consumer does not go on by itself."""
    with pytest.raises(Fatal, match=r"docs/backup\.md"):
        async with product.running():
            await product.eventually(lambda: False, what="the refusal")


async def test_a_lost_database(
    first: Product, servers: Servers, life: Life, operator: Operator
) -> None:
    (save,), (restore, look, recover) = blocks(BACKUP), blocks(DATABASE)
    index = index_of(first)
    async with index.reading():
        await first.start()
        leaver, sleeper = [await life.newcomer() for _ in range(2)]
        await first.agrees(leaver, sleeper)
        await operator.succeeds(save)
        await leaves_and_returns(first, life, leaver)
        await life.says(sleeper, "deactivated")
        await first.has_status(sleeper, "deactivated")
        await first.agrees(await life.newcomer())
        await life.newcomer(busy=True)
        await servers.lose_postgres()
        await stopped(first)

        await operator.succeeds(restore)
        code, said = await operator.follow(look)
        assert (code, "restored from an older state" in said) == (1, True), said
        await operator.succeeds(recover)
        index.doubt(repo.account.did for repo in life.everyone)
        await first.start()
        await first.agrees(await life.newcomer())
        await leaves_and_returns(first, life, leaver)
        await life.says(sleeper, "active")
        await right(first, index, life)
    await first.stop()


async def test_a_lost_kafka(
    first: Product, servers: Servers, life: Life, operator: Operator
) -> None:
    (begin_anew,) = blocks(KAFKA)
    await first.start()
    sleeper = await life.newcomer()
    await first.agrees(sleeper)
    await life.says(sleeper, "deactivated")
    await first.has_status(sleeper, "deactivated")
    await servers.lose_kafka()
    await stopped(first)

    await refused(first)
    await operator.succeeds(begin_anew)
    async with running(first, PREFIXES[1]) as (second, index):
        await second.agrees(await life.newcomer())
        await life.says(sleeper, "active")
        await right(second, index, life)


@pytest.mark.parametrize("saved", [True, False], ids=["with a backup", "without a backup"])
async def test_both_are_lost(
    first: Product, servers: Servers, life: Life, operator: Operator, *, saved: bool
) -> None:
    (save,), (restore, _, _), (begin_anew,) = blocks(BACKUP), blocks(DATABASE), blocks(KAFKA)
    await first.start()
    known, later = await life.newcomer(), None
    await first.agrees(known)
    if saved:
        await operator.succeeds(save)
        later = await life.newcomer()
        await first.agrees(later)
    await servers.lose_postgres()
    await servers.lose_kafka()
    await stopped(first)

    unsaved = [later] if later else life.everyone
    life.network.relay.forget()  # what it has sent is not sent again
    life.network.sources[0].lists(COLLECTION, [repo.account.did for repo in unsaved])
    if saved:
        await operator.succeeds(restore)
        await operator.succeeds(begin_anew)
    async with running(first, PREFIXES[1 if saved else 0]) as (product, index):
        await product.agrees(await life.newcomer())
        await right(product, index, life)
