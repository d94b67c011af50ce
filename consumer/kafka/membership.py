"""Who does what: the partitions of one topic, spread over the members of one group.

A ``Membership`` joins the group with the range assignor, keeps its partitions paused and never
reads.  It says which partitions are ours, and nothing more: safety rests on tokens in Postgres
and on producer epochs.  So ``assigned`` is the last assignment that Kafka gave us: it does not
flicker during a rebalance, and stays while Kafka is away.

aiokafka can leave a group without a word and not come back, and only logs what goes wrong in
its background tasks.  A watch therefore asks the broker now and then whether it knows us, and
joins anew if not.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterable
from contextlib import suppress
from types import TracebackType
from typing import Any, Self
from uuid import uuid4

import structlog
from aiokafka import ConsumerRebalanceListener

from consumer.errors import Transient
from consumer.kafka.client import Client, deadline, release, translated
from consumer.kafka.reader import TopicPartition
from consumer.runtime.logs import Outage

_POLL_SECONDS = 1.0
_WATCH_SECONDS = 20.0
_RETRY_SECONDS = 1.0

log = structlog.get_logger()


class _Listener(ConsumerRebalanceListener):  # type: ignore[misc]  # aiokafka is untyped
    """Pauses what is assigned, and passes it on."""

    def __init__(self, consumer: Any, assigned: Callable[[Iterable[TopicPartition]], None]) -> None:
        self._consumer = consumer
        self._assigned = assigned

    def on_partitions_revoked(self, revoked: Iterable[TopicPartition]) -> None:
        pass

    def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        self._consumer.pause(*assigned)
        self._assigned(assigned)


class Membership:
    """Membership of the group ``role`` on ``topic``.  Open with ``open``, always close."""

    def __init__(self, client: Client, topic: str, role: str) -> None:
        self._client = client
        self._topic = topic
        self._group = client.scoped(role)
        self._assigned: frozenset[int] = frozenset()
        self._changed = asyncio.Event()
        self._rejoin = asyncio.Event()
        self._outage = Outage(log, "kafka_group")
        self._watch: asyncio.Task[None] | None = None

    @classmethod
    async def open(cls, client: Client, topic: str, role: str) -> Self:
        """Begin to join; the first assignment comes later, however long Kafka is away."""
        membership = cls(client, topic, role)
        membership._watch = asyncio.create_task(membership._stay(), name=f"membership-{role}")
        return membership

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    @property
    def assigned(self) -> frozenset[int]:
        """The partitions that are ours."""
        return self._assigned

    async def changed(self, seen: frozenset[int]) -> frozenset[int]:
        """Wait until the assignment differs from ``seen``, and return it.

        Raises what ended the membership: ``Fatal``, if Kafka refuses us.
        """
        while self._assigned == seen:
            self._changed.clear()
            await self._wait_for(self._changed)
        return self._assigned

    async def until(self, condition: Callable[[frozenset[int]], bool]) -> None:
        """Wait until ``condition`` holds of what is assigned; raises like ``changed``."""
        seen = self._assigned
        while not condition(seen):
            seen = await self.changed(seen)

    def rejoin(self) -> None:
        """Leave and join again: nothing is ours until Kafka has assigned anew."""
        self._set([])
        self._rejoin.set()

    async def close(self) -> None:
        """Leave the group, so that others take over at once."""
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.gather(self._watch, return_exceptions=True)

    async def _wait_for(self, event: asyncio.Event) -> None:
        """Wait for ``event``, but not beyond the end of the watch."""
        waiter = asyncio.create_task(event.wait())
        try:
            watch = [self._watch] if self._watch else []
            await asyncio.wait([waiter, *watch], return_when=asyncio.FIRST_COMPLETED)
        finally:
            waiter.cancel()
        if self._watch is not None and self._watch.done():
            self._watch.result()

    def _set(self, partitions: Iterable[TopicPartition]) -> None:
        assigned = frozenset(tp.partition for tp in partitions)
        if assigned != self._assigned:
            self._outage.over(group=self._group)
            log.info("assigned", group=self._group, partitions=sorted(assigned))
            self._assigned = assigned
        self._changed.set()

    async def _stay(self) -> None:
        """Be a member until cancelled, joining again whenever that ends."""
        while True:
            identity = f"{socket.gethostname()}-{uuid4().hex[:12]}"
            consumer = self._client.member(self._group, identity)
            self._rejoin.clear()
            try:
                await self._be_member(consumer, identity)
            except Transient as error:
                self._outage.again(error, group=self._group)
            finally:
                await release(consumer)
            await asyncio.sleep(_RETRY_SECONDS)

    async def _be_member(self, consumer: Any, identity: str) -> None:
        async with deadline(self._client.timeout, f"joining {self._group}"):
            await consumer.start()
        consumer.subscribe([self._topic], listener=_Listener(consumer, self._set))
        clock = asyncio.get_running_loop().time
        asked = clock()
        doubts = 0
        while not self._rejoin.is_set() and doubts < 2:  # noqa: PLR2004 - one miss may be a rebalance
            await self._poll(consumer)
            if clock() - asked >= _WATCH_SECONDS:
                asked = clock()
                doubts = 0 if await self._known(identity) else doubts + 1

    async def _poll(self, consumer: Any) -> None:
        """Raise what the driver's background tasks ran into; nothing is read.

        Without an assignment the driver waits for one, however long that takes.
        """
        with translated(f"staying in {self._group}"), suppress(TimeoutError):
            async with asyncio.timeout(2 * _POLL_SECONDS):
                await consumer.getmany(timeout_ms=round(_POLL_SECONDS * 1000))

    async def _known(self, identity: str) -> bool:
        """Ask the broker whether ``identity`` is in the group; if it is away, believe so."""
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
