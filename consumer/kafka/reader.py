"""Reading partitions from positions that we keep ourselves.

A ``PartitionReader`` belongs to no group and commits nothing: its owner stores the offset of
the next record beside what the records led to.  Only committed records are seen.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, NamedTuple, Protocol, Self

from aiokafka import TopicPartition, errors

from consumer.errors import Fatal
from consumer.kafka.client import Client, deadline, release, translated


class Place(NamedTuple):
    """One partition of one topic."""

    topic: str
    partition: int


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


class OffsetLost(Fatal):
    """The log no longer (``wanted < earliest``) or not yet holds the position ``wanted``.

    The first is a loss window that a worker can take up from ``earliest``; the second means
    that the topic was deleted or restored from the past, and stops the process.
    """

    def __init__(self, place: Place, wanted: int, earliest: int, latest: int) -> None:
        super().__init__(
            f"{place.topic}-{place.partition} holds offsets {earliest} to {latest}, "
            f"our position is {wanted}"
        )
        self.place = place
        self.wanted = wanted
        self.earliest = earliest
        self.latest = latest

    @property
    def expired(self) -> bool:
        """True if retention has passed the position, False if the log is shorter than it."""
        return self.wanted < self.earliest


class PartitionReader:
    """Reads a fixed set of partitions.  Open with ``open``, always close."""

    def __init__(self, client: Client, consumer: Any, places: Iterable[Place]) -> None:
        self._client = client
        self._consumer = consumer
        self._places = tuple(places)

    @property
    def timeout(self) -> float:
        """Seconds after which Kafka is away that does not give what it has."""
        return self._client.timeout

    @classmethod
    async def open(cls, client: Client, positions: Mapping[Place, int | None]) -> Self:
        """Start at ``positions``: offsets of the next record, None for the oldest kept one.

        Raises ``Transient`` if Kafka does not answer in time.
        """
        consumer = client.consumer()
        reader = cls(client, consumer, positions)
        try:
            async with deadline(client.timeout, "opening a reader"):
                await consumer.start()
                await reader._assign(positions)
        except BaseException:
            await reader.close()
            raise
        return reader

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def fetch(self, *places: Place, wait: float, limit: int | None = None) -> list[Record]:
        """Return the next records of ``places`` (of all, if none is named), at most ``limit``.

        Waits up to ``wait`` seconds for the first; an empty list means that none came, be the
        partition drained or Kafka away.  Raises ``OffsetLost``.
        """
        wanted = [TopicPartition(*place) for place in places]
        try:
            with translated("reading"):
                found = await self._consumer.getmany(
                    *wanted, timeout_ms=round(wait * 1000), max_records=limit
                )
        except Exception as error:
            if isinstance(error.__cause__, errors.OffsetOutOfRangeError):
                raise await self._lost(error.__cause__) from error
            raise
        return [record for records in found.values() for record in records]

    async def bounds(self, *places: Place) -> dict[Place, tuple[int, int]]:
        """Return the oldest kept and the next offset to be written of each of ``places``.

        The latter counts only decided transactions.
        """
        wanted = [TopicPartition(*place) for place in places or self._places]
        async with deadline(self._client.timeout, "asking for offsets"):
            earliest = await self._consumer.beginning_offsets(wanted)
            latest = await self._consumer.end_offsets(wanted)
        return {Place(*tp): (earliest[tp], latest[tp]) for tp in wanted}

    async def position(self, place: Place) -> int:
        """Return the offset of the next record, beyond any transaction markers passed."""
        async with deadline(self._client.timeout, "asking for the position"):
            return int(await self._consumer.position(TopicPartition(*place)))

    def seek(self, place: Place, offset: int) -> None:
        """Go on at ``offset``."""
        self._consumer.seek(TopicPartition(*place), offset)

    def rest(self, *, on: bool) -> None:
        """Ask Kafka for nothing (it costs to ask, also when nothing comes), or go on."""
        places = [TopicPartition(*place) for place in self._places]
        if on:
            self._consumer.pause(*places)
        else:
            self._consumer.resume(*places)

    async def close(self) -> None:
        """Release the connections."""
        await release(self._consumer)

    async def _assign(self, positions: Mapping[Place, int | None]) -> None:
        oldest = [TopicPartition(*place) for place, at in positions.items() if at is None]
        starts = await self._consumer.beginning_offsets(oldest) if oldest else {}
        # No await between these: without a position, aiokafka would fail the partition.
        self._consumer.assign([TopicPartition(*place) for place in positions])
        for place, at in positions.items():
            self.seek(place, starts[place] if at is None else at)

    async def _lost(self, error: errors.OffsetOutOfRangeError) -> OffsetLost:
        (place, wanted), *_ = error.args[0].items()
        bounds = await self.bounds(Place(*place))
        return OffsetLost(Place(*place), wanted, *bounds[Place(*place)])
