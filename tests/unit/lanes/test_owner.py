"""The life of a lane in one process, with store and publisher played by the test."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from unittest.mock import MagicMock
from uuid import UUID

import pytest

from consumer.errors import Fatal, Transient
from consumer.kafka.topics import Topics
from consumer.lanes import owner as module
from consumer.lanes.errors import LaneLost
from consumer.lanes.owner import ClaimedLane, OwnedLane, Owner, Work
from consumer.runtime.tasks import first_of
from consumer.store.rows import Lane
from tests.support.eventually import eventually

LANE = 2


@dataclass
class Stage:
    """What happens to the lane; ``end_publisher`` ends the publisher that runs."""

    kafka_answers: bool = True
    events: list[str] = field(default_factory=list)
    tokens: list[UUID] = field(default_factory=list)
    end_publisher: asyncio.Event = field(default_factory=asyncio.Event)
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    proof: asyncio.Event = field(default_factory=asyncio.Event)

    async def proven(self, stop: asyncio.Event) -> bool:
        await first_of(self.proof.wait(), stop.wait())
        return self.proof.is_set()

    async def claim(self, _database: object, number: int, token: UUID) -> ClaimedLane:
        self.events.append("claim")
        self.tokens.append(token)
        return ClaimedLane(Lane(number, token), unclean_takeover=True, undecided=True)

    async def resume(self, _database: object, row: Lane) -> Lane:
        return row

    async def release(self, _database: object, _row: Lane, *, published: bool) -> None:
        self.events.append("release" if published else "release unpublished")

    @asynccontextmanager
    async def publishing(self, _lane: Lane, *, undecided: bool) -> AsyncIterator[MagicMock]:
        assert undecided
        yield MagicMock(lost=self.lost, proven=self.proven, published=self.published)
        self.events.append("publisher ends")

    async def lost(self) -> None:
        await self.end_publisher.wait()
        self.end_publisher.clear()
        raise LaneLost("another publisher")

    async def published(self, _seconds: float) -> bool:
        return self.kafka_answers

    @asynccontextmanager
    async def owning(self, work: Work) -> AsyncIterator[asyncio.Task[None]]:
        """Run an owner during the block, and tell it to stop at the end."""
        publisher = MagicMock(publishing=self.publishing)
        owner = Owner(LANE, publisher, Topics("chive.", 4), MagicMock(), work)
        task = asyncio.create_task(owner.run(self.stop))
        yield task
        self.stop.set()
        await asyncio.wait([task], timeout=10)
        assert task.done()


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Stage:
    stage = Stage()
    stage.proof.set()

    async def no_wait(stop: asyncio.Event, _seconds: float) -> bool:
        await asyncio.sleep(0)
        return stop.is_set()

    for name in ("claim", "resume", "release"):
        monkeypatch.setattr(module, name, getattr(stage, name))
    monkeypatch.setattr(module, "wait_for_stop", no_wait)
    return stage


async def test_a_stop_ends_the_work_then_the_publisher_then_the_ownership(stage: Stage) -> None:
    working = asyncio.Event()

    async def work(lane: OwnedLane) -> None:
        working.set()
        await lane.stop.wait()
        stage.events.append("work ends")

    async with stage.owning(work) as task:
        await asyncio.wait_for(working.wait(), 10)
    task.result()
    assert stage.events == ["claim", "work ends", "publisher ends", "release"]


async def test_what_kafka_has_not_answered_for_is_said_of_the_lane(stage: Stage) -> None:
    stage.kafka_answers = False

    async def work(lane: OwnedLane) -> None:
        await lane.stop.wait()

    async with stage.owning(work):
        await eventually(lambda: stage.events == ["claim"], what="a claim")
    assert stage.events == ["claim", "publisher ends", "release unpublished"]


async def test_nothing_is_decided_before_the_proof(stage: Stage) -> None:
    stage.proof.clear()

    async def work(lane: OwnedLane) -> None:
        stage.events.append("work")
        await lane.stop.wait()

    async with stage.owning(work):
        await eventually(lambda: stage.events == ["claim"], what="a claim")
    assert stage.events == ["claim", "publisher ends", "release"]


async def test_a_transient_error_ends_an_attempt_and_only_the_first_is_after_a_crash(
    stage: Stage,
) -> None:
    attempts: list[bool] = []

    async def work(lane: OwnedLane) -> None:
        attempts.append(lane.unclean_takeover)
        if len(attempts) < 3:
            raise Transient("Kafka is away")
        lane.mark_healthy()
        stage.stop.set()

    async with stage.owning(work) as task:
        await asyncio.wait([task], timeout=10)
    task.result()
    assert attempts == [True, False, False]
    assert stage.events == ["claim", "publisher ends", "release"]


async def test_a_lost_lane_is_claimed_again_with_another_token(stage: Stage) -> None:
    attempts: list[bool] = []

    async def work(lane: OwnedLane) -> None:
        attempts.append(lane.unclean_takeover)
        match len(attempts):
            case 1:
                raise LaneLost("another owner")
            case 2:
                stage.end_publisher.set()
                await asyncio.Event().wait()
            case _:
                stage.stop.set()

    async with stage.owning(work) as task:
        await asyncio.wait([task], timeout=10)
    task.result()
    assert attempts == [True, True, True]
    assert len(set(stage.tokens)) == 3
    assert stage.events.count("release") == 1


async def test_what_is_fatal_ends_the_owner_without_a_release(stage: Stage) -> None:
    async def work(_lane: OwnedLane) -> None:
        raise Fatal("our own mistake")

    async with stage.owning(work) as task:
        await asyncio.wait([task], timeout=10)
    with pytest.raises(Fatal):
        task.result()
    assert "release" not in stage.events
