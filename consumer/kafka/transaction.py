"""The guarded producer: one call is one Kafka transaction, or the producer is dead.

``commit()`` writes records to any number of partitions, all or nothing.  When it raises, the
object must not be used again: its owner closes it, opens a new one (whose higher producer epoch
fences the old, so that a delayed request of it cannot take effect later) and asks ``durable()``
what has become of the last transaction.

aiokafka commits although a record of the transaction failed, waits without a deadline, and
leaves failed futures for the garbage collector to complain about; this module prevents all three.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterable, Sequence
from typing import Any, NamedTuple, Self
from uuid import uuid4

from aiokafka import errors

from consumer.errors import Fatal, Transient
from consumer.kafka.batches import Batches
from consumer.kafka.client import MAX_RECORD_BYTES, Client, deadline
from consumer.kafka.compacted import BARRIER, CompactedPartition
from consumer.kafka.producers import dispose, retrieve, start
from consumer.kafka.topics import Topics
from consumer.runtime.closing import Closing

# Bytes.  One produce request carries all partitions of a broker, whose own limit is 100 MiB.
MAX_TRANSACTION_BYTES = 64 * 1024 * 1024
_HEADROOM = 32 * 1024  # bytes for headers and framing


class Fenced(Transient):
    """Another process opened a producer with the same transactional id and has taken over."""


class OutcomeUnknown(Transient):
    """The transaction may or may not have been committed: read the durable position."""


class OutRecord(NamedTuple):
    """One record to write; ``value`` None is a tombstone.

    Headers are small: what the network chose in them (a DID, an NSID, a rev) has a short limit.
    """

    topic: str
    partition: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...] = ()

    @property
    def size(self) -> int:
        """Bytes before compression, without the headers."""
        return len(self.key or b"") + len(self.value or b"")


class TransactionalProducer(Closing):
    """The only live producer with one transactional id.  Open with ``open``, always close."""

    def __init__(self, client: Client, producer: Any, name: str) -> None:
        self.name = name
        self._client = client
        self._producer = producer
        self._new_batches = Batches(Topics.of(client.settings).codecs())
        self._alive = True
        self._one_at_a_time = asyncio.Lock()

    @classmethod
    async def open(cls, client: Client, name: str) -> Self:
        """Start the producer ``name`` of the deployment and fence its predecessors.

        When this returns, every transaction of a predecessor is committed or aborted.
        Raises ``Transient`` if Kafka does not answer in time, ``Fatal`` if it refuses.
        """
        producer = client.producer(client.scoped(name))
        await start(client, producer, f"opening the producer {name}")
        return cls(client, producer, name)

    async def commit(self, records: Sequence[OutRecord]) -> None:
        """Write ``records`` in one transaction, in their order per partition.

        Calls at the same time wait for each other.
        Raises ``Fenced`` or ``OutcomeUnknown``, after which the producer is dead, as after
        cancellation; ``Fatal`` for a record or a transaction that is too large (nothing is
        written and the producer lives on) and for what Kafka will never accept.
        """
        _check_sizes(records)
        if not records:
            return
        async with self._one_at_a_time:
            if not self._alive:
                raise OutcomeUnknown("the producer is dead after an earlier failure")
            self._alive = False
            try:
                async with deadline(self._client.timeout, "committing a transaction"):
                    await self._transact(records)
            except Transient as error:
                if isinstance(error.__cause__, errors.ProducerFenced):
                    raise Fenced("another producer has taken over") from error
                raise OutcomeUnknown(str(error)) from error
            self._alive = True

    async def durable(self, topic: str, partition: int) -> dict[bytes, bytes]:
        """Return what the compacted partition says, with all earlier transactions decided.

        Reads from the start up to a barrier of its own: transaction markers make end offsets
        useless for that.  Only producers of this name may write to the partition.
        Raises like ``commit``, and ``Transient`` if the barrier does not appear in time.
        """
        barrier = await self.barrier(topic, partition)
        async with await CompactedPartition.open(self._client, topic, partition) as read:
            await read.read_to(barrier)
        return read.values

    async def barrier(self, topic: str, partition: int) -> bytes:
        """Commit a barrier, and return its value.  ``opener_of`` tells whose it is."""
        value = f"{self.name} {uuid4().hex}".encode()
        await self.commit([OutRecord(topic, partition, BARRIER, value)])
        return value

    async def close(self) -> None:
        """Release the connections; an open transaction is left to be fenced or to expire."""
        self._alive = False
        await dispose(self._producer)

    async def _transact(self, records: Sequence[OutRecord]) -> None:
        producer = self._producer
        await producer.begin_transaction()
        sent: list[Awaitable[Any]] = []
        for topic, partition, batch in self._batches(records):
            future = await producer.send_batch(batch, topic, partition=partition)
            future.add_done_callback(retrieve)
            sent.append(future)
        # commit_transaction() succeeds even if one of these has failed.
        await asyncio.gather(*sent)
        await producer.commit_transaction()

    def _batches(self, records: Iterable[OutRecord]) -> list[tuple[str, int, Any]]:
        full: list[tuple[str, int, Any]] = []
        open_: dict[tuple[str, int], Any] = {}
        for record in records:
            partition = record.topic, record.partition
            batch = open_.get(partition)
            if batch is None:
                batch = open_[partition] = self._new_batches.empty(record.topic)
            if not _append(batch, record):
                full.append((*partition, batch))
                batch = open_[partition] = self._new_batches.empty(record.topic)
                _append(batch, record)
        return full + [(*partition, batch) for partition, batch in open_.items()]


def opener_of(barrier: bytes) -> str | None:
    """Return the name of the producer that committed ``barrier``; earlier versions left it out."""
    name, _, _ = barrier.decode(errors="replace").rpartition(" ")
    return name or None


def _append(batch: Any, record: OutRecord) -> bool:
    return (
        batch.append(
            timestamp=None, key=record.key, value=record.value, headers=list(record.headers)
        )
        is not None
    )


def _check_sizes(records: Iterable[OutRecord]) -> None:
    total = 0
    for record in records:
        size = record.size
        if size > MAX_RECORD_BYTES - _HEADROOM:
            raise Fatal(f"a record of {size} bytes for {record.topic} is too large for Kafka")
        total += size
    if total > MAX_TRANSACTION_BYTES:
        raise Fatal(f"a transaction of {total} bytes is too large")
