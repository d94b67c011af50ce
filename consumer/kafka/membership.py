"""Assign work: Kafka spreads the partitions of one topic over the members of one group.

A ``Membership`` joins the group with the range assignor, keeps its partitions paused and never
reads.  It only says which partitions are assigned: safety rests on tokens in Postgres and on
producer epochs.  So ``assigned`` is the last assignment that Kafka gave: it does not flicker
during a rebalance, and stays while Kafka is away.

aiokafka can leave a group silently and for good, and only logs the errors of its background
tasks.  A watch task therefore asks the broker every ``_WATCH_SECONDS`` whether it still knows the
member, and joins again if it does not.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from typing import Any, Self
from uuid import uuid4

import structlog
from aiokafka import ConsumerRebalanceListener

from consumer import metrics
from consumer.errors import Fatal, Transient
from consumer.kafka.client import Client, deadline, release, translated
from consumer.kafka.reader import TopicPartition
from consumer.runtime.closing import Closing
from consumer.runtime.logs import Outage
from consumer.runtime.tasks import first_of, joined

_POLL_SECONDS = 5.0
_WATCH_SECONDS = 20.0
_RETRY_SECONDS = 1.0

log = structlog.get_logger()


class _Listener(ConsumerRebalanceListener):  # type: ignore[misc]  # aiokafka is untyped
    """Pauses the assigned partitions, and passes them on."""

    def __init__(self, consumer: Any, assigned: Callable[[Iterable[TopicPartition]], None]) -> None:
        self._consumer = consumer
        self._assigned = assigned

    def on_partitions_revoked(self, revoked: Iterable[TopicPartition]) -> None:
        pass

    def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        self._consumer.pause(*assigned)
        self._assigned(assigned)


class Membership(Closing):
    """Membership of the group ``role`` on ``topic``.  Open with ``open``, always close."""

    def __init__(self, client: Client, topic: str, role: str) -> None:
        self._client = client
        self._topic = topic
        self._group = client.scoped(role)
        self._role = role
        self._assigned: frozenset[int] = frozenset()
        self._standing = False  # whether Kafka has said what is ours since we joined last
        self._changed = asyncio.Event()
        self._rejoin = asyncio.Event()
        self._outage = Outage(log, "kafka")
        self._watch: asyncio.Task[None] | None = None

    @classmethod
    async def open(cls, client: Client, topic: str, role: str) -> Self:
        """Begin to join; the first assignment comes later, once Kafka answers."""
        membership = cls(client, topic, role)
        membership._watch = asyncio.create_task(membership._stay(), name=f"membership-{role}")
        return membership

    @property
    def assigned(self) -> frozenset[int]:
        """The partitions assigned to this member."""
        return self._assigned

    async def changed(self, seen: frozenset[int]) -> frozenset[int]:
        """Wait until the assignment differs from ``seen``, and return it.

        Raises ``Fatal`` if Kafka refuses the member.
        """
        while self._assigned == seen:
            self._changed.clear()
            await self._wait_for(self._changed)
        return self._assigned

    async def until(self, condition: Callable[[frozenset[int]], bool]) -> None:
        """Wait until ``condition`` holds for the assignment.  Raises like ``changed``."""
        seen = self._assigned
        while not condition(seen):
            seen = await self.changed(seen)

    def rejoin(self) -> None:
        """Leave and join again: nothing is assigned until Kafka assigns anew."""
        self._set([])
        self._stand(joined=False)
        self._rejoin.set()

    async def close(self) -> None:
        """Leave the group, so that other members take over at once."""
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.gather(self._watch, return_exceptions=True)
        self._stand(joined=False)

    async def _wait_for(self, event: asyncio.Event) -> None:
        """Wait for ``event``.  Raises what ended the watch, if that ends first."""
        if self._watch is None:
            await event.wait()
        else:
            ended: Awaitable[Any] = joined(self._watch)
            await first_of(ended, event.wait())

    def _set(self, partitions: Iterable[TopicPartition]) -> None:
        assigned = frozenset(tp.partition for tp in partitions)
        if assigned != self._assigned:
            self._outage.over(group=self._group)
            log.info("partitions_assigned", group=self._group, partitions=sorted(assigned))
            self._assigned = assigned
        self._stand(joined=True)
        self._changed.set()

    def _stand(self, *, joined: bool) -> None:
        self._standing = joined
        metrics.GROUP_JOINED.labels(self._role).set(joined)
        metrics.GROUP_PARTITIONS.labels(self._role).set(len(self._assigned))

    async def _stay(self) -> None:
        """Be a member until cancelled; join again whenever the membership ends."""
        while True:
            identity = f"{socket.gethostname()}-{uuid4().hex[:12]}"
            consumer = self._client.member(self._group, identity)
            self._rejoin.clear()
            try:
                await self._be_member(consumer, identity)
            except Transient as error:
                cause = await self._client.explained(error)
                if isinstance(cause, Fatal):
                    raise cause from error
                self._outage.again(cause, group=self._group)
            finally:
                await release(consumer)
            await asyncio.sleep(_RETRY_SECONDS)

    async def _be_member(self, consumer: Any, identity: str) -> None:
        async with deadline(self._client.timeout, f"joining {self._group}"):
            await consumer.start()
        consumer.subscribe([self._topic], listener=_Listener(consumer, self._set))
        clock = asyncio.get_running_loop().time
        asked = clock()
        unknown = 0
        while not self._rejoin.is_set() and unknown < 2:  # noqa: PLR2004 - one miss may be a rebalance
            await self._poll(consumer)
            if clock() - asked >= _WATCH_SECONDS:
                asked = clock()
                if not self._standing:
                    await self._client.require_coordinators()
                unknown = 0 if await self._known(identity) else unknown + 1

    async def _poll(self, consumer: Any) -> None:
        """Raise the errors of the driver's background tasks; nothing is read.

        Without an assignment the driver waits for one without a limit of its own.
        """
        with translated(f"staying in {self._group}"), suppress(TimeoutError):
            async with asyncio.timeout(2 * _POLL_SECONDS):
                polled: Awaitable[Any] = consumer.getmany(timeout_ms=round(_POLL_SECONDS * 1000))
                await first_of(polled, self._rejoin.wait())

    async def _known(self, identity: str) -> bool:
        """Ask the broker whether ``identity`` is in the group; assume so while it is away."""
        try:
            async with self._client.admin() as admin:
                described = await admin.describe_consumer_groups([self._group])
        except Transient:
            return True
        return any(
            identity == member[1]
            for response in described
            for group in response.groups
            for member in group[5]
        )
