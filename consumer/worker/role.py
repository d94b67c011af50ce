"""The worker role: a lane loop for every partition that Kafka's group gives to this process."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import structlog

from consumer.kafka.membership import Membership
from consumer.kafka.topics import Topic
from consumer.worker.lane import LaneLoop, Resources

_GROUP = "worker"
_STOP_SECONDS = 11.0
_ABANDON_SECONDS = 2.0

_log = structlog.get_logger()


class Worker:
    """Runs lanes as they are assigned."""

    def __init__(self, resources: Resources) -> None:
        self._of = resources
        self._lanes: dict[int, _Running] = {}

    async def run(self, stop: asyncio.Event) -> None:
        """Work on whatever is assigned until told to stop.  Raises ``Fatal``."""
        topic = self._of.topics.name(Topic.FIREHOSE)
        async with await Membership.open(self._of.client, topic, _GROUP) as membership:
            try:
                await self._follow(membership, stop)
                await self._leave(list(self._lanes))
            finally:
                await self._abandon()

    async def _follow(self, membership: Membership, stop: asyncio.Event) -> None:
        told = asyncio.create_task(stop.wait())
        try:
            while not stop.is_set():
                assigned = membership.assigned
                await self._leave(self._lanes.keys() - assigned)
                for number in assigned - self._lanes.keys():
                    self._lanes[number] = _Running(LaneLoop(number, self._of))
                changed = asyncio.create_task(membership.changed(assigned))
                running = [lane.task for lane in self._lanes.values()]
                try:
                    await asyncio.wait(
                        [told, changed, *running], return_when=asyncio.FIRST_COMPLETED
                    )
                finally:
                    changed.cancel()
                if changed.done() and not changed.cancelled():
                    changed.result()
                self._raise_what_died()
        finally:
            told.cancel()

    def _raise_what_died(self) -> None:
        for lane in self._lanes.values():
            if lane.task.done():
                lane.task.result()

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
        """Give up what is left as it is: whoever comes next goes on from Postgres."""
        tasks = [lane.task for lane in self._lanes.values()]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=_ABANDON_SECONDS)


class _Running:
    """A lane loop and its task."""

    def __init__(self, loop: LaneLoop) -> None:
        self.stop = asyncio.Event()
        self.task = asyncio.create_task(loop.run(self.stop), name=f"lane-{loop.number}")
