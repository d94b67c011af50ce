"""A few simulated accounts behind a scripted relay and directory, for consumers as processes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import orjson
import pytest

from simulator.account import Account
from simulator.frames import commit_frame
from simulator.repo import Repo, Write
from tests.support.deployment import Deployment
from tests.support.relay import ScriptedRelay
from tests.support.web import Web, response, web

COLLECTION = "pub.chive.eprint.submission"


@dataclass
class Accounts:
    """``write`` makes each account create records; ``paths`` are those records, with the DIDs."""

    relay: ScriptedRelay
    directory: Web
    repos: list[Repo]
    seq: int = 1000
    paths: set[tuple[str, str]] = field(default_factory=set)

    def environment(self, deployment: Deployment) -> dict[str, str]:
        """Return the settings of a consumer that follows these accounts."""
        return {
            **deployment.environment(),
            "CHIVE_RELAY__URL": self.relay.url,
            "CHIVE_RELAY__START": "oldest",
            "CHIVE_IDENTITY__PLC_URL": self.directory.origin,
            "CHIVE_NETWORK__ALLOW_LOOPBACK": "true",
        }

    async def write(self, commits: int = 1) -> None:
        """Make ``commits`` commits of one new record for each account."""
        for _ in range(commits):
            for repo in self.repos:
                self.seq += 1
                path = f"{COLLECTION}/k{self.seq}"
                commit = repo.commit([Write("create", path, {"$type": COLLECTION, "n": self.seq})])
                await self.relay.publish([(self.seq, commit_frame(self.seq, commit))])
                self.paths.add((repo.account.did, path))


@pytest.fixture
async def accounts() -> AsyncIterator[Accounts]:
    """Give twelve accounts; every partition has some of them."""
    async with ScriptedRelay() as relay, web() as directory:
        found = [Account.from_seed(f"villager {n}") for n in range(12)]
        for account in found:
            document = orjson.dumps(account.document("https://pds.test"))
            directory.replies[f"/{account.did}"] = response(200, document)
        yield Accounts(relay, directory, [Repo(account) for account in found])
