"""The keys of callers: cached, looked up once for all, refreshed rarely, never in a flood."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from consumer.errors import Reason, Refused, Transient
from consumer.fetch.documents import Document
from consumer.gateway import keys as module
from consumer.gateway.keys import Keys
from procedures.auth import KeyMissing, KeyUnavailable
from simulator.account import Account

ALICE = Account.from_seed("alice")
INTERVAL = 60.0


class Network:
    """The DID documents of all accounts; ``error`` is raised in place of one."""

    def __init__(self) -> None:
        self.now = 1_000.0
        self.did_key = ALICE.did_key
        self.error: Exception | None = None
        self.asked: Counter[str] = Counter()
        self.go_on = asyncio.Event()
        self.go_on.set()
        self.keys = Keys(self.resolve, INTERVAL, lambda: self.now)

    async def resolve(self, did: str) -> Document:
        self.asked[did] += 1
        await self.go_on.wait()
        if self.error is not None:
            raise self.error
        return Document(self.did_key, None, None)


@pytest.fixture
def network() -> Network:
    return Network()


async def test_a_key_is_looked_up_once_in_an_hour(network: Network) -> None:
    for _ in range(3):
        assert (await network.keys.key(ALICE.did, refresh=False)).did_key == ALICE.did_key
    assert network.asked[ALICE.did] == 1
    network.now += 3_600
    await network.keys.key(ALICE.did, refresh=False)
    assert network.asked[ALICE.did] == 2


async def test_a_refresh_is_forced_at_most_once_in_the_interval(network: Network) -> None:
    await network.keys.key(ALICE.did, refresh=False)
    rotated = network.did_key = Account.from_seed("rotated").did_key
    for _ in range(5):  # too early: the key that is known is the answer
        assert (await network.keys.key(ALICE.did, refresh=True)).did_key == ALICE.did_key
    network.now += INTERVAL
    for _ in range(5):
        assert (await network.keys.key(ALICE.did, refresh=True)).did_key == rotated
    assert network.asked[ALICE.did] == 2


async def test_all_who_wait_share_one_look_up(network: Network) -> None:
    network.go_on.clear()
    waiting = [asyncio.create_task(network.keys.key(ALICE.did, refresh=False)) for _ in range(9)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    network.go_on.set()
    found = await asyncio.gather(*waiting, return_exceptions=True)
    assert isinstance(found[0], asyncio.CancelledError)
    assert not any(isinstance(each, BaseException) for each in found[1:])
    assert network.asked[ALICE.did] == 1


async def test_a_missing_did_is_remembered_for_a_minute(network: Network) -> None:
    network.error = Refused(Reason.DID_NOT_FOUND)
    for refresh in (False, True, False):
        with pytest.raises(KeyMissing):
            await network.keys.key(ALICE.did, refresh=refresh)
    assert network.asked[ALICE.did] == 1
    network.now += 60
    network.error = None
    await network.keys.key(ALICE.did, refresh=False)


async def test_a_directory_that_is_away_is_not_remembered(network: Network) -> None:
    network.error = Transient("away")
    with pytest.raises(KeyUnavailable):
        await network.keys.key(ALICE.did, refresh=False)
    network.error = None
    await network.keys.key(ALICE.did, refresh=False)


async def test_a_flood_of_issuers_is_bounded(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_MAX_WAITING", 20)
    monkeypatch.setattr(module, "_MAX_CACHED", 10)
    network.go_on.clear()
    flood = [
        asyncio.create_task(network.keys.key(f"did:web:n{n}.example", refresh=False))
        for n in range(50)
    ]
    await asyncio.wait(flood, timeout=0.05)  # those that are refused end at once
    assert sum(network.asked.values()) == module._AT_ONCE
    network.go_on.set()
    found = await asyncio.gather(*flood, return_exceptions=True)
    assert sum(isinstance(each, KeyUnavailable) for each in found) == 30
    assert len(network.keys._known) == 10


async def test_slow_hosts_do_not_delay_lookups_at_the_directory(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_MAX_WAITING", 20)
    network.go_on.clear()
    dids = [f"did:web:slow{number}.example" for number in range(20)]
    slow = [asyncio.create_task(network.keys.key(did, refresh=False)) for did in dids]
    await asyncio.sleep(0)
    with pytest.raises(KeyUnavailable):
        await network.keys.key("did:web:one-more.example", refresh=False)
    known = asyncio.create_task(network.keys.key(ALICE.did, refresh=False))
    await asyncio.wait([known], timeout=0.05)
    assert network.asked[ALICE.did] == 1
    network.go_on.set()
    assert (await known).did_key == ALICE.did_key
    await asyncio.gather(*slow)
