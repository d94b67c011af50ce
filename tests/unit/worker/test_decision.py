"""Which batches come into one transaction, and what becomes of them when it fails."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any
from unittest.mock import MagicMock

import pytest

from consumer.errors import Transient
from consumer.lanes.errors import LaneLost, LanesLost
from consumer.worker import decision
from consumer.worker.decision import Together
from consumer.worker.share import BatchResult, Share


class Stage:
    """Transactions that do nothing but wait for ``gate``, and raise what ``faults`` has next."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.gate.set()
        self.begun = asyncio.Event()
        self.faults: list[Exception | None] = []
        self.transactions: list[list[int]] = []

    async def decide(self, shares: Sequence[Share]) -> list[BatchResult]:
        self.transactions.append([share.policy.lane for share in shares])
        self.begun.set()
        await self.gate.wait()
        fault = self.faults.pop(0) if self.faults else None
        if fault is not None:
            raise fault
        return [result_of(share) for share in shares]


def share(lane: int, inputs: int = 1, size: int = 1) -> Any:
    return MagicMock(policy=MagicMock(lane=lane), plan=MagicMock(size=inputs), size=size)


def result_of(share: Share) -> BatchResult:
    state: Any = share.policy.lane
    return BatchResult(state, [], MagicMock())


@pytest.fixture
async def stage(monkeypatch: pytest.MonkeyPatch) -> Stage:
    stage = Stage()
    monkeypatch.setattr(decision, "decide", stage.decide)
    return stage


async def decided(together: Together, *shares: Any) -> list[Any]:
    """Decide ``shares`` at once; return the lanes of the results, or what was raised."""
    done = await asyncio.gather(*map(together.decide, shares), return_exceptions=True)
    return [one.batch_state if isinstance(one, BatchResult) else one for one in done]


async def test_what_comes_together_is_one_transaction(stage: Stage) -> None:
    assert await decided(Together(10, 10), share(0), share(1), share(2)) == [0, 1, 2]
    assert stage.transactions == [[0, 1, 2]]


async def test_what_comes_meanwhile_is_the_next_one(stage: Stage) -> None:
    together = Together(10, 10)
    stage.gate.clear()
    first = asyncio.create_task(together.decide(share(0)))
    await stage.begun.wait()
    rest = [asyncio.create_task(together.decide(share(lane))) for lane in (1, 2)]
    await asyncio.sleep(0)
    stage.gate.set()
    await asyncio.gather(first, *rest)
    assert stage.transactions == [[0], [1, 2]]


async def test_a_transaction_waits_for_what_is_being_planned(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decision, "_GATHER", 60.0)
    together = Together(10, 10)
    with together.planning():
        first = asyncio.create_task(together.decide(share(0)))
        for _ in range(5):
            await asyncio.sleep(0)
        assert stage.transactions == []
    await together.decide(share(1))
    await first
    assert stage.transactions == [[0, 1]]


@pytest.mark.parametrize("large", [{"inputs": 10}, {"size": 10}])
async def test_a_transaction_has_bounds_but_for_one_batch(
    stage: Stage, large: dict[str, int]
) -> None:
    shares = share(0, **large), share(1), share(2, **large), share(3)
    assert await decided(Together(10, 10), *shares) == [0, 1, 2, 3]
    assert stage.transactions == [[0], [1], [2], [3]]


async def test_a_lost_lane_is_left_out_and_the_others_are_decided(stage: Stage) -> None:
    stage.faults = [LanesLost([1])]
    found = await decided(Together(10, 10), share(0), share(1), share(2))
    assert isinstance(found[1], LaneLost)
    assert (found[0], found[2]) == (0, 2)
    assert stage.transactions == [[0, 1, 2], [0, 2]]


async def test_what_fails_fails_for_all(stage: Stage) -> None:
    stage.faults = [Transient("PostgreSQL is away")]
    together = Together(10, 10)
    assert [str(one) for one in await decided(together, share(0), share(1))] == [
        "PostgreSQL is away"
    ] * 2
    assert await decided(together, share(0)) == [0]


async def test_a_batch_whose_lane_has_ended_is_not_begun(stage: Stage) -> None:
    together = Together(10, 10)
    stage.gate.clear()
    first = asyncio.create_task(together.decide(share(0)))
    await stage.begun.wait()
    ended = asyncio.create_task(together.decide(share(1)))
    await asyncio.sleep(0)
    ended.cancel()
    await asyncio.wait([ended])
    stage.gate.set()
    await first
    assert await decided(together, share(2)) == [2]
    assert stage.transactions == [[0], [2]]
