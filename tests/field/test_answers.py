"""Hosts that answer anything, in any order, before they tell the truth: nothing is lost by it."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise

import orjson
import pytest

from simulator.repo import Repo
from tests.field.product import ASK_EVERY, Product
from tests.field.test_repositories import without
from tests.support.hosts import Host, status_path
from tests.support.pds import COLLECTION
from tests.support.web import Reply, response

pytestmark = pytest.mark.services

ACCOUNTS = 6
SLACK = 0.5  # seconds that a request may be on its way
GONE = [
    {"error": "RepoNotFound"},
    {"error": "AccountNotFound"},
    {"error": "HeadNotFound"},
    {"error": "NotFound", "message": "Repo not found"},
    {"error": "InvalidRequest", "message": "Could not find repo for DID: did:plc:x"},
]
INACTIVE = [
    {"error": f"{noun}{state}"}
    for noun, states in (
        ("Repo", ("Takendown", "Suspended", "Deactivated")),
        ("Account", ("Takedown", "Suspended", "Deactivated")),
    )
    for state in states
]
NONSENSE = [
    response(200, b"<html>Welcome</html>"),
    response(200),
    response(500),
    response(404, b"<html>Not here</html>"),
    response(404, b"[]"),
    b"",  # hangs up
]


@dataclass
class Moods:
    """The answers of one account's host, each once; then the truth."""

    repo: Repo
    chance: random.Random
    answered: list[float] = field(default_factory=list)  # when a status was stated
    waiting: list[list[bytes]] = field(default_factory=list)

    def refusal(self, named: dict[str, str]) -> bytes:
        return response(self.chance.choice([400, 404]), orjson.dumps(named))

    def set_up(self, host: Host) -> None:
        chance = self.chance
        torn = response(200, without(self.repo, self.repo.records[f"{COLLECTION}/k00001"][1]))
        named = [self.refusal(each) for each in (*GONE, *INACTIVE)]
        repos = [chance.choice([*named, *NONSENSE, torn]) for _ in range(chance.randint(1, 4))]
        host.serves(self.repo, self.turns(repos, lambda: response(200, self.repo.whole())))
        # One "gone" at most: two that agree are a deletion.
        stated = [self.refusal(chance.choice(GONE)), self.refusal(chance.choice(INACTIVE))]
        statuses = chance.sample([*stated, *NONSENSE], chance.randint(1, 4))
        path = status_path(self.repo)
        active = orjson.dumps({"did": self.repo.account.did, "active": True})
        host.site.replies[path] = self.turns(statuses, lambda: response(200, active), note=True)

    def tell_the_truth(self) -> None:
        for replies in self.waiting:
            replies.clear()

    def turns(
        self, replies: list[bytes], truth: Callable[[], bytes], *, note: bool = False
    ) -> Reply:
        self.waiting.append(replies)

        async def reply(writer: asyncio.StreamWriter) -> None:
            said = replies.pop(0) if replies else truth()
            if note and said not in NONSENSE:
                self.answered.append(time.monotonic())
            writer.write(said)
            await writer.drain()

        return reply


async def test_no_sequence_of_answers_loses_an_account(product: Product) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")  # noqa: T201 - shown when the test fails
    chance = random.Random(seed)

    async def one(number: int) -> Moods:
        host, repo = await product.network.account(f"moods {seed} {number}")
        await product.network.commit(repo)
        await product.agrees(repo)
        moods = Moods(repo, random.Random(chance.random()))
        moods.set_up(host)
        for _ in range(3):
            await product.network.commit(repo, lost=True)
            await product.network.commit(repo)
            await asyncio.sleep(moods.chance.uniform(0, ASK_EVERY))
        # The host tells the truth from now on; the next commit is the sign of it.
        moods.tell_the_truth()
        await product.network.commit(repo, lost=True)
        await product.network.commit(repo)
        await product.agrees(repo)
        return moods

    everybody = await asyncio.gather(*map(one, range(ACCOUNTS)))
    for moods in everybody:
        did, times = moods.repo.account.did, moods.answered
        events = await product.events(did)
        assert not [event for event in events if event.get("action") == "delete"], did
        assert "deleted" not in [event.get("status") for event in events], did
        pauses = [later - sooner for sooner, later in pairwise(times)]
        assert all(pause >= ASK_EVERY - SLACK for pause in pauses), (did, pauses)
