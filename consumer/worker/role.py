"""The worker role: runs every lane that Kafka's group assigns to this process."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass

from consumer.kafka.membership import Membership
from consumer.kafka.topics import Topic
from consumer.runtime.tasks import cancel, first_of, joined
from consumer.worker.lane import Resources, run_lane

_GROUP = "worker"
_STOP_SECONDS = 11.0
_ABANDON_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class _RunningLane:
    """A lane's task, and the event that stops it."""

    task: asyncio.Task[None]
    stop: asyncio.Event


class Worker:
    """Runs lanes while they are assigned."""

    def __init__(self, resources: Resources) -> None:
        self._resources = resources
        self._lanes: dict[int, _RunningLane] = {}

    async def run(self, stop: asyncio.Event) -> None:
        """Work on the assigned lanes until told to stop.  Raises ``Fatal``."""
        topic = self._resources.topics.name(Topic.FIREHOSE)
        async with await Membership.open(self._resources.client, topic, _GROUP) as membership:
            try:
                await self._follow(membership, stop)
                await self._leave(list(self._lanes))
            finally:
                await self._abandon()

    async def _follow(self, membership: Membership, stop: asyncio.Event) -> None:
        """Run what is assigned and leave what is not, until told to stop; raise what dies."""
        while not stop.is_set():
            assigned = membership.assigned
            await self._leave(self._lanes.keys() - assigned)
            for number in assigned - self._lanes.keys():
                self._lanes[number] = self._start(number)
            running = (joined(lane.task) for lane in self._lanes.values())
            await first_of(membership.changed(assigned), *running, stop.wait())

    def _start(self, number: int) -> _RunningLane:
        stop = asyncio.Event()
        run = run_lane(number, self._resources, stop)
        return _RunningLane(asyncio.create_task(run, name=f"lane-{number}"), stop)

    async def _leave(self, numbers: Iterable[int]) -> None:
        """Let lanes finish what they hold, and forget them; raise what one of them died of."""
        leaving = {number: self._lanes[number] for number in numbers}
        for lane in leaving.values():
            lane.stop.set()
        if leaving:
            await asyncio.wait([lane.task for lane in leaving.values()], timeout=_STOP_SECONDS)
        for number, lane in leaving.items():
            if lane.task.done():
                del self._lanes[number]
                lane.task.result()

    async def _abandon(self) -> None:
        """Cancel the lanes that still run: the next owner goes on from Postgres."""
        await cancel((lane.task for lane in self._lanes.values()), _ABANDON_SECONDS)
