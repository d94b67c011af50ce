"""Reading partitions from positions that we keep ourselves.

A ``PartitionReader`` belongs to no group and commits nothing: its owner stores the offset of
the next record beside what the records led to.  Only committed records are seen.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, Self

from aiokafka import errors

from consumer.errors import ChiveError, Fatal, Transient
from consumer.kafka.client import Client, deadline, release, translated
from consumer.runtime.closing import Closing

_PAGE_SECONDS = 0.5  # to wait for records that are there

if TYPE_CHECKING:

    class TopicPartition(NamedTuple):
        """One partition of one topic: aiokafka's own, which comes without types."""

        topic: str
        partition: int

else:
    from aiokafka import TopicPartition


class Record(Protocol):
    """A record as read; ``timestamp`` is the broker's LogAppendTime in Unix milliseconds."""

    @property
    def topic(self) -> str: ...
    @property
    def partition(self) -> int: ...
    @property
    def offset(self) -> int: ...
    @property
    def timestamp(self) -> int: ...
    @property
    def key(self) -> bytes | None: ...
    @property
    def value(self) -> bytes | None: ...
    @property
    def headers(self) -> Sequence[tuple[str, bytes]]: ...


class OffsetExpired(ChiveError):
    """Retention has deleted the record at the position ``wanted``; ``earliest`` is the oldest kept.

    A loss that the owner of the position can take up from ``earliest``.  It is neither waited
    out nor a reason to stop, so it is neither ``Transient`` nor ``Fatal``: a caller that reads
    from a stored position catches it.
    """

    def __init__(self, partition: TopicPartition, wanted: int, earliest: int) -> None:
        super().__init__(
            f"{partition.topic}-{partition.partition} starts at offset {earliest}, "
            f"the stored position is {wanted}"
        )
        self.partition = partition
        self.wanted = wanted
        self.earliest = earliest


class PartitionReader(Closing):
    """Reads a fixed set of partitions.  Open with ``open``, always close."""

    def __init__(self, client: Client, consumer: Any) -> None:
        self._client = client
        self._consumer = consumer
        self._partitions: tuple[TopicPartition, ...] = ()
        self._paused: set[TopicPartition] = set()

    @property
    def partitions(self) -> frozenset[TopicPartition]:
        """What is read."""
        return frozenset(self._partitions)

    @property
    def timeout(self) -> float:
        """Seconds after which a Kafka that does not give what it has counts as away."""
        return self._client.timeout

    @classmethod
    async def open(
        cls,
        client: Client,
        positions: Mapping[TopicPartition, int | None],
        *,
        committed: bool = True,
        shared: bool = False,
        patience: float = 0.5,
    ) -> Self:
        """Start at ``positions``: offsets of the next record, None for the oldest kept one.

        Without ``committed`` the records of open and aborted transactions are seen too.  A reader
        that many share fetches less of each partition at once.  ``patience`` is that of
        ``Client.consumer``.  Raises ``Transient`` if Kafka does not answer in time, ``Fatal`` if it
        refuses.
        """
        consumer = client.consumer(committed=committed, shared=shared, patience=patience)
        reader = cls(client, consumer)
        try:
            async with deadline(client.timeout, "opening a reader"):
                await consumer.start()
                await reader._assign(positions, ())
        except BaseException as error:
            await reader.close()
            if isinstance(error, Transient):
                raise await client.explained(error) from error
            raise
        return reader

    async def fetch(
        self, *partitions: TopicPartition, wait: float, limit: int | None = None
    ) -> list[Record]:
        """Return the next records of ``partitions`` (default: all), at most ``limit``.

        Waits up to ``wait`` seconds for the first record.  An empty list means that none came:
        the partitions are drained, or Kafka is away.

        Raises ``OffsetExpired`` if retention has passed a position, ``Fatal`` if the log is
        shorter than the position (the topic was deleted or restored from the past) or Kafka
        refuses, ``Transient`` if Kafka fails.
        """
        found = await self.fetch_each(*partitions, wait=wait, limit=limit)
        return [record for records in found.values() for record in records]

    async def fetch_each(
        self, *partitions: TopicPartition, wait: float, limit: int | None = None
    ) -> dict[TopicPartition, list[Record]]:
        """Return the same as ``fetch`` by partition, and raise the same."""
        try:
            with translated("reading"):
                found: dict[TopicPartition, list[Record]] = await self._consumer.getmany(
                    *partitions, timeout_ms=round(wait * 1000), max_records=limit
                )
        except Exception as error:
            if isinstance(error.__cause__, errors.OffsetOutOfRangeError):
                raise await self._out_of_range(error.__cause__) from error
            raise
        return found

    async def bounds(self, *partitions: TopicPartition) -> dict[TopicPartition, tuple[int, int]]:
        """Return for each of ``partitions`` (default: all) its bounds as two offsets.

        The first is the oldest kept record's, the second that of the next one to be written,
        which counts only decided transactions.  Raises ``Transient`` or ``Fatal``.
        """
        wanted = partitions or self._partitions
        async with deadline(self._client.timeout, "asking for offsets"):
            earliest = await self._consumer.beginning_offsets(wanted)
            latest = await self._consumer.end_offsets(wanted)
        return {partition: (earliest[partition], latest[partition]) for partition in wanted}

    async def offsets_at(self, moment: float) -> dict[TopicPartition, int]:
        """Return for each partition the offset of its first record appended at ``moment`` or later.

        ``moment`` is in Unix seconds; where there is no such record, the offset is that of the next
        one to be written, as in ``bounds``.  Raises ``Transient`` or ``Fatal``.
        """
        # The end first: what is appended meanwhile lies behind it, and may be found instead.
        bounds = await self.bounds()
        wanted = dict.fromkeys(self._partitions, round(moment * 1000))
        async with deadline(self._client.timeout, "asking for offsets"):
            found = await self._consumer.offsets_for_times(wanted)
        return {
            place: end if found[place] is None else found[place].offset
            for place, (_, end) in bounds.items()
        }

    async def until_end(self, *, limit: int | None = None) -> AsyncIterator[list[Record]]:
        """Yield what is there now, at most ``limit`` records at once.

        Raises like ``fetch``.
        """
        ends = {partition: end for partition, (_, end) in (await self.bounds()).items()}
        while await self.is_short_of(ends):
            page = await self.fetch(wait=_PAGE_SECONDS, limit=limit)
            if page:
                yield page

    async def is_short_of(self, ends: Mapping[TopicPartition, int]) -> bool:
        """Tell whether a position lies before its offset in ``ends``.  Raises like ``position``."""
        for partition, end in ends.items():
            if await self.position(partition) < end:
                return True
        return False

    async def position(self, partition: TopicPartition) -> int:
        """Return the offset of the next record, beyond any transaction markers passed.

        Raises ``Transient`` or ``Fatal``.
        """
        async with deadline(self._client.timeout, "asking for the position"):
            return int(await self._consumer.position(partition))

    async def change(
        self,
        *,
        add: Mapping[TopicPartition, int | None] = MappingProxyType({}),
        remove: Collection[TopicPartition] = (),
    ) -> None:
        """Read the partitions of ``add``, as in ``open``, too, and those of ``remove`` no more.

        Raises ``Transient`` or ``Fatal``.
        """
        kept = [each for each in self._partitions if each not in remove and each not in add]
        async with deadline(self._client.timeout, "reading other partitions"):
            await self._assign(add, kept)

    def seek(self, partition: TopicPartition, offset: int) -> None:
        """Read ``partition`` from ``offset`` on."""
        self._consumer.seek(partition, offset)

    def pause(self, *partitions: TopicPartition) -> None:
        """Stop asking Kafka for records (default: of all): each request costs, even in vain."""
        paused = partitions or self._partitions
        self._paused.update(paused)
        self._consumer.pause(*paused)

    def resume(self, *partitions: TopicPartition) -> None:
        """Ask Kafka for records again (default: of all)."""
        resumed = self._paused.intersection(partitions or self._partitions)
        self._paused -= resumed
        self._consumer.resume(*resumed.intersection(self._partitions))

    async def close(self) -> None:
        """Release the connections."""
        await release(self._consumer)

    async def _assign(
        self, positions: Mapping[TopicPartition, int | None], kept: Collection[TopicPartition]
    ) -> None:
        """Read from ``positions`` on, and go on with the partitions that are ``kept``."""
        oldest = [partition for partition, at in positions.items() if at is None]
        starts = await self._consumer.beginning_offsets(oldest) if oldest else {}
        assigned = {each: starts[each] if at is None else at for each, at in positions.items()}
        # None of these waits, but for a position that was never known: what is fetched meanwhile
        # would come again, and without a position aiokafka would fail the partition.
        assigned |= {each: await self._consumer.position(each) for each in kept}
        self._partitions = tuple(assigned)
        self._paused.intersection_update(kept)
        self._consumer.assign(list(assigned))
        for partition, at in assigned.items():
            self.seek(partition, at)
        self._consumer.pause(*self._paused)

    async def _out_of_range(self, error: errors.OffsetOutOfRangeError) -> OffsetExpired | Fatal:
        (partition, wanted), *_ = error.args[0].items()
        earliest, latest = (await self.bounds(partition))[partition]
        if wanted < earliest:
            return OffsetExpired(partition, wanted, earliest)
        return Fatal(
            f"{partition.topic}-{partition.partition} ends at offset {latest}, the stored position "
            f"is {wanted}: the topic was deleted or restored from the past"
        )
