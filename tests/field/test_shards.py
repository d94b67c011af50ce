"""Several deployments share a network: each has its accounts whole, and no other's."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from consumer.embedded.postgres import EmbeddedPostgres
from consumer.kafka.topics import Topic
from consumer.shard import Shard, shard_of
from procedures.failures import Failure
from simulator.repo import Repo
from tests.field.network import Network
from tests.field.product import Product
from tests.support.consumer import ROOT, Consumer, Start, bare_environment
from tests.support.deployment import Deployment
from tests.support.hosts import Host
from tests.support.pds import COLLECTION

pytestmark = [pytest.mark.services, pytest.mark.timeout(400)]

QUIET = "pub.chive.graph.reconciliation"
FIRST, SECOND = Shard(1, 2), Shard(2, 2)


@dataclass(kw_only=True)
class Sharded(Product):
    """A deployment with the accounts of ``shard``, as a process that can be killed."""

    shard: Shard
    spawn: Start
    variables: dict[str, str] = field(default_factory=dict)
    process: Consumer | None = None

    @property
    def environment(self) -> dict[str, str]:
        """The settings, as variables; ``variables`` are on top."""
        network = self.network
        return {
            **self.deployment.environment(),
            "CHIVE_SCOPE__SHARD": str(self.shard),
            "CHIVE_RELAY__URL": network.relay.url,
            "CHIVE_RELAY__START": "oldest",
            "CHIVE_NETWORK__ALLOW_LOOPBACK": "true",
            "CHIVE_IDENTITY__PLC_URL": network.directory.origin,
            "CHIVE_DISCOVERY__SOURCES": ",".join(source.origin for source in network.sources),
            "CHIVE_DISCOVERY__PACE": "1000",
            "CHIVE_ACCOUNTS__ASK_EVERY": "2",
            "CHIVE_LOG__FORMAT": "json",
            **self.variables,
        }

    async def start(self) -> None:
        roles = [part for role in ("tailer", "worker", "fetcher") for part in ("--role", role)]
        self.process = await self.spawn("run", *roles, env=self.environment)
        await self.process.saying("tailing_started")

    async def stop(self) -> None:
        if self.process is not None and self.process.running:
            assert await self.process.stopped() == 0, self.process

    async def killed(self) -> None:
        """Kill the process."""
        assert self.process is not None
        self.process.signal(signal.SIGKILL)
        assert await self.process.ended() == -signal.SIGKILL

    def own(self, repos: Sequence[Repo]) -> list[Repo]:
        """Return the repositories of the shard."""
        return [repo for repo in repos if self.shard.has(repo.account.did)]

    async def known(self) -> set[str]:
        """Return every DID of which the tables or the topics know anything."""
        tables = ("repos", "records", "identities", "found", "parked", "lookups", "account_answers")
        union = " UNION ".join(f"SELECT did FROM {name}" for name in tables)  # noqa: S608
        dids = {did for (did,) in await self.rows(union)}
        for topic in (Topic.FIREHOSE, Topic.BACKFILL):
            dids |= {(each.key or b"").decode() for each in await self.committed(topic)}
        return (dids | {event["did"] for event in await self.events()}) - {""}


@pytest.fixture
async def shards(
    deployment: Deployment, own_postgres: EmbeddedPostgres, network: Network, consumer: Start
) -> AsyncIterator[tuple[Sharded, Sharded]]:
    """Give two deployments on one Kafka, each on a PostgreSQL server of its own."""
    name = deployment.prefix[:-1]
    async with AsyncExitStack() as stack:
        first, second = [
            await stack.enter_async_context(
                Sharded.opened(
                    replace(deployment, prefix=f"{name}.{shard.number}.", dsn=dsn),
                    network=network,
                    shard=shard,
                    spawn=consumer,
                )
            )
            for shard, dsn in ((FIRST, deployment.dsn), (SECOND, own_postgres.dsn))
        ]
        yield first, second


async def settlers(network: Network, name: str, each: int = 3) -> list[tuple[Host, Repo]]:
    """Return accounts that nobody has heard of yet, ``each`` of both shards."""
    found: dict[Shard, list[tuple[Host, Repo]]] = {FIRST: [], SECOND: []}
    number = 0
    while min(map(len, found.values())) < each:
        number += 1
        host, repo = await network.account(f"{name} {number}")
        home = FIRST if FIRST.has(repo.account.did) else SECOND
        if len(found[home]) < each:
            found[home].append((host, repo))
    return [*found[FIRST], *found[SECOND]]


async def test_two_shards_are_the_network(shards: tuple[Sharded, Sharded]) -> None:
    first, second = shards
    network = first.network
    live, quiet = await settlers(network, "writes"), await settlers(network, "listed")
    network.sources[0].lists(QUIET, [repo.account.did for _, repo in quiet])
    hosts = {repo.account.did: host for host, repo in (*live, *quiet)}
    writers = [repo for _, repo in live]
    everyone = [*writers, *(repo for _, repo in quiet)]
    for repo in writers:
        await network.commit(repo)
    async with first.running(), second.running():
        for each in shards:
            await each.agrees(*each.own(everyone))

        await first.killed()
        sleeper = first.own(writers)[0]
        for repo in writers:
            await network.commit(repo)
            await network.moved(repo)
        hosts[sleeper.account.did].states(sleeper, "deactivated")
        await network.says(sleeper, "deactivated")
        await second.agrees(*second.own(everyone))

        await first.start()
        await first.has_status(sleeper, "deactivated")
        await first.agrees(*[repo for repo in first.own(everyone) if repo is not sleeper])
        hosts[sleeper.account.did].states(sleeper, "active")
        await network.says(sleeper, None)
        for each in shards:
            await each.agrees(*each.own(everyone))

        ours, theirs = await first.known(), await second.known()
        assert ours == {repo.account.did for repo in first.own(everyone)}
        assert theirs == {repo.account.did for repo in second.own(everyone)}
        await the_database_can_tell(first, [repo.account.did for repo in everyone])
        await commands_reach_their_shard(first, second, everyone)
    await another_shard_is_refused(first)


async def test_one_deployment_becomes_two(
    deployment: Deployment, shards: tuple[Sharded, Sharded], network: Network, consumer: Start
) -> None:
    """Follow docs/scaling.md while accounts write; the earlier deployment goes on."""
    (take_over,) = blocks("### From one deployment to several", "sh")
    villagers = await settlers(network, "moves")
    repos = [repo for _, repo in villagers]
    whole = Shard()
    async with (
        Sharded.opened(deployment, network=network, shard=whole, spawn=consumer) as earlier,
        earlier.running(),
    ):
        for repo in repos:
            await network.commit(repo)
        await earlier.agrees(*repos)
        (position,) = await earlier.eventually(partial(cursor, earlier), what="the cursor")
        for each in shards:
            code, said = await followed(each, take_over, earlier)
            assert code == 0, said
            assert f"{len(each.own(repos))} repositories are taken over" in said
            each.variables = {"CHIVE_RELAY__START": str(position)}
            await network.commit(each.own(repos)[0])
        newcomers = [repo for _, repo in await settlers(network, "comes", each=1)]
        for repo in newcomers:  # after it was taken over, before the new ones read
            await network.commit(repo)
        await earlier.agrees(*newcomers)
        async with shards[0].running(), shards[1].running():
            for repo in repos:
                await network.commit(repo)
            for each in (*shards, earlier):
                await each.agrees(*each.own([*repos, *newcomers]))
        first, second = [await each.known() for each in shards]
        assert (first | second, first & second) == (await earlier.known(), set())


async def cursor(product: Product) -> list[int]:
    """Return the sequence numbers that ``status`` shows, which are not 0."""
    return [seq for (seq,) in await product.rows("SELECT seq FROM cursors WHERE seq > 0")]


def blocks(heading: str, language: str) -> list[str]:
    """Return what docs/scaling.md gives in ``language`` below one of its headings."""
    page = (ROOT / "docs" / "scaling.md").read_text()
    (text,) = re.findall(rf"^{heading}\n((?:(?!^##).*\n?)*)", page, re.MULTILINE)
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


async def followed(product: Sharded, block: str, earlier: Product) -> tuple[int, str]:
    """Run the commands of the page, with the names that this test has."""
    for name, ours in (
        ("chive-1-of-2.", product.deployment.prefix),
        ("--from chive.", f"--from {earlier.deployment.prefix}"),
        ("SHARD=1/2", f"SHARD={product.shard}"),
    ):
        assert name in block
        block = block.replace(name, ours)
    folder = product.deployment.data_dir
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "earlier.dsn").write_text(f"{earlier.deployment.dsn}\n")
    taken = {"CHIVE_SCOPE__SHARD", "CHIVE_KAFKA__TOPIC_PREFIX"}
    return await outcome(
        ("bash", "-ec", block),
        folder,
        {name: value for name, value in product.environment.items() if name not in taken},
    )


async def commands_reach_their_shard(
    first: Sharded, second: Sharded, everyone: Sequence[Repo]
) -> None:
    own, other = first.own(everyone), second.own(everyone)
    mine, foreign = own[0].account.did, other[0].account.did
    for fields in (
        {"type": "didSync", "did": foreign},
        {"type": "forget", "did": foreign},
        {"type": "recordRefresh", "uri": f"at://{foreign}/{COLLECTION}/3k"},
    ):
        refused = await first.done(**fields)
        assert (refused["status"], refused["errorName"]) == ("failed", Failure.OTHER_SHARD)
        assert f"shard {SECOND}" in refused["error"]
    both = await first.done(type="didSync", dids=[mine, foreign])
    assert counted(both) == (2, 1, {"OtherShard": 1})
    for each, tracked in ((first, own), (second, other)):
        every = await each.done(type="didSync", select={"all": True})
        assert counted(every) == (len(tracked), len(tracked), {})
    assert (await second.done(type="didSync", did=foreign))["status"] == "completed"
    said = await asked(first, "repo", foreign)
    assert f"shard {SECOND}" in said[1], said
    assert f"{FIRST} of all accounts" in (await asked(first, "status"))[1]


def counted(operation: dict[str, Any]) -> tuple[int, int, dict[str, int]]:
    """Return how many repositories a parent chose, completed, and failed for which reason."""
    children = operation["children"]
    return children["chosen"], children["completed"], children["failed"]


async def the_database_can_tell(product: Product, dids: list[str]) -> None:
    """Check that the query of docs/scaling.md knows the shard of each account."""
    (query,) = blocks("## Shards", "sql")
    given = query.strip().rstrip(";").replace("% 4", "%% 4")
    rows = await product.rows(
        f"WITH accounts AS (SELECT unnest(%s::text[]) AS did) {given}", [dids]
    )
    assert [number for (number,) in rows] == [shard_of(did, 4) for did in dids]


async def another_shard_is_refused(first: Sharded) -> None:
    """Check that what has begun as one shard goes on as no other."""
    first.variables = {"CHIVE_SCOPE__SHARD": str(SECOND)}
    process: Consumer = await first.spawn("run", env=first.environment)
    assert await process.ended(90) != 0
    assert f"begun as shard {FIRST}" in repr(process)
    code, said = await asked(first, "check")
    assert code != 0
    assert f"scope.shard is {SECOND}, the tables have {FIRST}" in said


async def asked(product: Sharded, *arguments: str) -> tuple[int, str]:
    """Run a command as an operator does; return its exit code and what it says."""
    return await outcome(("python", "-m", "consumer", *arguments), ROOT, product.environment)


async def outcome(
    program: Sequence[str], folder: Path, variables: Mapping[str, str]
) -> tuple[int, str]:
    """Run a program in ``folder``; return its exit code and what it says."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    shell = {"PATH": path, "PYTHONPATH": str(ROOT), "COLUMNS": "200"}
    process = await asyncio.create_subprocess_exec(
        *program,
        cwd=folder,
        env={**bare_environment(), **variables, **shell},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, said.decode()
