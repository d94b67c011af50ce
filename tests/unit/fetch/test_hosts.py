from __future__ import annotations

import asyncio
from dataclasses import dataclass

import pytest

from consumer.fetch.hosts import Hosts, Resting, Terms, backoff
from consumer.fetch.http import HostTrouble, Trouble

HOST, OTHER = "pds.example", "other.example"


@dataclass
class Clock:
    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def hosts(clock: Clock) -> Hosts:
    queueing = Terms(requests=1, longest_rest=10.0, queue=True)
    return Hosts(Terms(requests=2, longest_rest=60.0), {"queue.example": queueing}, clock)


async def succeed(hosts: Hosts, host: str = HOST) -> None:
    async with hosts.turn(host):
        pass


async def fail(hosts: Hosts, host: str = HOST, retry_after: float | None = None) -> float:
    """Have trouble with the host, and return for how long it rests."""
    with pytest.raises(Resting) as caught:
        async with hosts.turn(host):
            raise HostTrouble(Trouble.AWAY, "down", retry_after)
    return caught.value.seconds


async def resting(hosts: Hosts, host: str = HOST) -> float:
    with pytest.raises(Resting) as caught:
        await succeed(hosts, host)
    return caught.value.seconds


async def test_as_many_at_once_as_agreed(hosts: Hosts) -> None:
    async with hosts.turn(HOST), hosts.turn(HOST):
        assert await resting(hosts) <= 1.0
        await succeed(hosts, OTHER)
    await succeed(hosts)


async def test_trouble_lets_the_host_rest_and_no_other(hosts: Hosts, clock: Clock) -> None:
    rest = await fail(hosts)
    assert 0.5 <= rest <= 1.0
    assert await resting(hosts) == rest
    await succeed(hosts, OTHER)
    clock.now += rest
    await succeed(hosts)


async def test_rests_double_up_to_the_longest(hosts: Hosts, clock: Clock) -> None:
    rests = []
    for _ in range(10):
        rests.append(await fail(hosts))
        clock.now += rests[-1]
    for failures, rest in enumerate(rests, 1):
        whole = min(2 ** (failures - 1), 60)
        assert whole / 2 <= rest <= whole


async def test_success_ends_the_trouble(hosts: Hosts, clock: Clock) -> None:
    for _ in range(5):
        clock.now += await fail(hosts)
    await succeed(hosts)
    assert await fail(hosts) <= 1.0


async def test_retry_after_is_honoured(hosts: Hosts) -> None:
    assert await fail(hosts, retry_after=600.0) == 600.0


async def test_a_short_retry_after_does_not_shorten_the_rest(hosts: Hosts, clock: Clock) -> None:
    for _ in range(6):
        clock.now += await fail(hosts)
    assert await fail(hosts, retry_after=0.0) >= 30.0


async def test_requests_that_fail_together_count_once(hosts: Hosts) -> None:
    async def slower() -> None:
        async with hosts.turn(HOST):
            rests.append(await fail(hosts))
            raise HostTrouble(Trouble.AWAY, "down")

    rests: list[float] = []
    with pytest.raises(Resting):
        await slower()
    assert [await resting(hosts)] == rests


async def test_a_host_in_trouble_is_tried_by_one_request(hosts: Hosts, clock: Clock) -> None:
    clock.now += await fail(hosts)
    async with hosts.turn(HOST):
        await resting(hosts)
    async with hosts.turn(HOST), hosts.turn(HOST):
        pass


async def test_other_errors_are_no_trouble_of_the_host(hosts: Hosts) -> None:
    with pytest.raises(KeyError):
        async with hosts.turn(HOST):
            raise KeyError
    await succeed(hosts)


async def test_callers_of_some_hosts_queue(hosts: Hosts) -> None:
    async with hosts.turn("queue.example"):
        second = asyncio.create_task(succeed(hosts, "queue.example"))
        await asyncio.sleep(0)
        assert not second.done()
    await asyncio.wait_for(second, 5)


async def test_the_queue_is_told_of_trouble(hosts: Hosts) -> None:
    async def first() -> None:
        await fail(hosts, "queue.example")

    async with hosts.turn("queue.example"):
        queued = [
            asyncio.create_task(first()),
            asyncio.create_task(resting(hosts, "queue.example")),
        ]
        await asyncio.sleep(0)
    await asyncio.wait_for(asyncio.gather(*queued), 5)


async def test_memory_of_hosts_is_bounded(hosts: Hosts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("consumer.fetch.hosts._MAX_HOSTS", 10)
    async with hosts.turn(OTHER):
        for number in range(100):
            await fail(hosts, f"h{number}.example")
            assert len(hosts._hosts) <= 10
        assert OTHER in hosts._hosts
    await resting(hosts, "h99.example")


@pytest.mark.parametrize(
    ("failures", "chance", "expected"),
    [(1, 0.0, 1.0), (1, 1.0, 0.5), (5, 0.0, 16.0), (13, 0.0, 3600.0), (10**6, 0.5, 2700.0)],
)
def test_backoff(failures: int, chance: float, expected: float) -> None:
    assert backoff(failures, 3600.0, lambda: chance) == expected
