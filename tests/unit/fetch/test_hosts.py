from __future__ import annotations

import asyncio
from dataclasses import dataclass

import pytest

from consumer.config.settings import NetworkSettings, Settings
from consumer.fetch.hosts import (
    CircuitOpen,
    HostBusy,
    HostPolicy,
    Hosts,
    HostUnavailable,
    RepoFailed,
)
from consumer.fetch.http import HostError, HostErrorKind
from procedures.retries import DEFAULT, Backoff

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
    policy = HostPolicy(requests=2, pauses=Backoff(1.0, 60.0))
    queueing = HostPolicy(requests=1, pauses=Backoff(1.0, 10.0), queue=True)
    return Hosts(policy, {"queue.example": queueing}, DEFAULT, clock)


async def succeed(hosts: Hosts, host: str = HOST) -> None:
    async with hosts.slot(host):
        pass


async def fail(hosts: Hosts, host: str = HOST, retry_after: float | None = None) -> float:
    """Let a request fail, and return for how long the circuit is open."""
    with pytest.raises(CircuitOpen) as caught:
        async with hosts.slot(host):
            raise HostError(HostErrorKind.AWAY, "down", retry_after)
    return caught.value.seconds


async def refused(
    hosts: Hosts, host: str = HOST, kind: type[HostUnavailable] = CircuitOpen
) -> float:
    """Be refused a slot, and return for how long."""
    with pytest.raises(kind) as caught:
        await succeed(hosts, host)
    return caught.value.seconds


async def test_a_host_has_as_many_slots_as_its_policy_says(hosts: Hosts) -> None:
    async with hosts.slot(HOST), hosts.slot(HOST):
        assert await refused(hosts, kind=HostBusy) <= 1.0
        await succeed(hosts, OTHER)
    await succeed(hosts)


async def test_a_slot_that_gets_free_soon_is_waited_for(hosts: Hosts) -> None:
    async with hosts.slot(HOST):
        async with hosts.slot(HOST):
            waiting = [asyncio.create_task(succeed(hosts)) for _ in range(2)]
            await asyncio.sleep(0)
            assert hosts.room(HOST) == 4
            with pytest.raises(HostBusy):  # at once: as many wait as may run
                await asyncio.wait_for(succeed(hosts), 0.1)
            assert not any(task.done() for task in waiting)
        await asyncio.gather(*waiting)


async def test_a_failure_opens_the_circuit_of_its_host_only(hosts: Hosts, clock: Clock) -> None:
    pause = await fail(hosts)
    assert 0.5 <= pause <= 1.0
    assert await refused(hosts) == pause
    await succeed(hosts, OTHER)
    clock.now += pause
    await succeed(hosts)


async def test_pauses_double_up_to_the_longest(hosts: Hosts, clock: Clock) -> None:
    pauses = []
    for _ in range(10):
        pauses.append(await fail(hosts))
        clock.now += pauses[-1]
    for failures, pause in enumerate(pauses, 1):
        whole = min(2 ** (failures - 1), 60)
        assert whole / 2 <= pause <= whole


async def test_success_closes_the_circuit(hosts: Hosts, clock: Clock) -> None:
    for _ in range(5):
        clock.now += await fail(hosts)
    await succeed(hosts)
    assert await fail(hosts) <= 1.0


async def test_retry_after_is_honoured(hosts: Hosts) -> None:
    assert await fail(hosts, retry_after=600.0) == 600.0


async def test_no_host_can_keep_its_circuit_open_for_more_than_an_hour(hosts: Hosts) -> None:
    assert await fail(hosts, retry_after=999_999_999_999.0) == 3600.0


async def test_a_short_retry_after_does_not_shorten_the_pause(hosts: Hosts, clock: Clock) -> None:
    for _ in range(6):
        clock.now += await fail(hosts)
    assert await fail(hosts, retry_after=0.0) >= 30.0


async def test_requests_that_fail_together_count_once(hosts: Hosts) -> None:
    async def slower() -> None:
        async with hosts.slot(HOST):
            pauses.append(await fail(hosts))
            raise HostError(HostErrorKind.AWAY, "down")

    pauses: list[float] = []
    with pytest.raises(CircuitOpen):
        await slower()
    assert [await refused(hosts)] == pauses


async def test_a_host_that_failed_is_tried_by_one_request(hosts: Hosts, clock: Clock) -> None:
    clock.now += await fail(hosts)
    async with hosts.slot(HOST):
        await refused(hosts, kind=HostBusy)
    async with hosts.slot(HOST), hosts.slot(HOST):
        pass


async def test_other_errors_do_not_open_the_circuit(hosts: Hosts) -> None:
    with pytest.raises(KeyError):
        async with hosts.slot(HOST):
            raise KeyError
    await succeed(hosts)


async def test_callers_of_some_hosts_queue(hosts: Hosts) -> None:
    async with hosts.slot("queue.example"):
        second = asyncio.create_task(succeed(hosts, "queue.example"))
        await asyncio.sleep(0)
        assert not second.done()
    await asyncio.wait_for(second, 5)


async def test_an_open_circuit_ends_the_queue(hosts: Hosts) -> None:
    async def first() -> None:
        await fail(hosts, "queue.example")

    async with hosts.slot("queue.example"):
        queued = [
            asyncio.create_task(first()),
            asyncio.create_task(refused(hosts, "queue.example")),
        ]
        await asyncio.sleep(0)
    await asyncio.wait_for(asyncio.gather(*queued), 5)


async def test_memory_of_hosts_is_bounded(hosts: Hosts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("consumer.fetch.hosts._MAX_HOSTS", 10)
    async with hosts.slot(OTHER):
        for number in range(100):
            await fail(hosts, f"h{number}.example")
            assert len(hosts._hosts) <= 10
        assert OTHER in hosts._hosts
    await refused(hosts, "h99.example")


@pytest.mark.parametrize(
    ("failures", "chance", "expected"),
    [(1, 1.0, 1.0), (1, 0.0, 0.5), (5, 1.0, 16.0), (13, 1.0, 3600.0), (10**6, 0.5, 2700.0)],
)
def test_the_pauses_of_a_host(failures: int, chance: float, expected: float) -> None:
    assert DEFAULT.host.wait(failures, chance) == expected


def test_the_policies_of_the_settings() -> None:
    settings = Settings(network=NetworkSettings(requests_per_host=3))
    hosts = Hosts.of(settings)
    assert hosts._policy == HostPolicy(3, DEFAULT.host)
    assert hosts._special == {"plc.directory": HostPolicy(16, DEFAULT.directory, queue=True)}


async def fail_for(
    hosts: Hosts, subject: str, kind: HostErrorKind, after: float | None = None
) -> type:
    """Let a request for a repository fail, and return what is raised."""
    with pytest.raises(HostUnavailable) as caught:
        async with hosts.slot(HOST, subject):
            raise HostError(kind, "broken", after)
    assert caught.value.tried
    return type(caught.value)


@pytest.mark.parametrize(
    "kind", [HostErrorKind.BROKEN, HostErrorKind.SLOW, HostErrorKind.CUT_SHORT]
)
async def test_a_failure_is_the_repositorys_until_another_fails(
    hosts: Hosts, kind: HostErrorKind
) -> None:
    for _ in range(9):
        assert await fail_for(hosts, "a", kind) is RepoFailed
        await succeed(hosts)
    assert await fail_for(hosts, "a", kind) is RepoFailed
    assert await fail_for(hosts, "a", kind) is RepoFailed
    assert await fail_for(hosts, "b", kind) is CircuitOpen
    await refused(hosts)


async def test_a_success_in_between_clears_the_host(hosts: Hosts) -> None:
    assert await fail_for(hosts, "a", HostErrorKind.BROKEN) is RepoFailed
    await succeed(hosts)
    assert await fail_for(hosts, "b", HostErrorKind.BROKEN) is RepoFailed


async def test_after_an_open_circuit_each_failure_is_the_hosts(hosts: Hosts, clock: Clock) -> None:
    await fail_for(hosts, "a", HostErrorKind.BROKEN)
    await fail_for(hosts, "b", HostErrorKind.BROKEN)
    clock.now += 1.0
    assert await fail_for(hosts, "b", HostErrorKind.BROKEN) is CircuitOpen


@pytest.mark.parametrize(
    ("kind", "after"),
    [(HostErrorKind.AWAY, None), (HostErrorKind.BUSY, None), (HostErrorKind.BROKEN, 3.0)],
)
async def test_some_failures_are_the_hosts_at_once(
    hosts: Hosts, kind: HostErrorKind, after: float | None
) -> None:
    assert await fail_for(hosts, "a", kind, after) is CircuitOpen


async def test_hosts_are_crowded_for_a_moment_after_one_turned_a_caller_away(
    hosts: Hosts, clock: Clock
) -> None:
    async with hosts.slot(HOST), hosts.slot(HOST):
        assert not hosts.crowded
        queued = [asyncio.create_task(succeed(hosts)) for _ in range(2)]
        await asyncio.sleep(0)
        await refused(hosts, kind=HostBusy)
        for task in queued:
            task.cancel()
    crowded = [hosts.crowded]
    clock.now += 6.0
    assert [*crowded, hosts.crowded] == [True, False]
