"""Records of the topics of events, from one moment to another.

Moments are those at which brokers appended the records, and become offsets of each partition:
what is read up to a moment and what is read from it on have no record in common, and none between.
"""

from __future__ import annotations

import math
import time
from collections.abc import AsyncGenerator, Collection, Mapping, Sequence
from dataclasses import dataclass

from consumer.errors import Fatal
from consumer.kafka.client import Client, deadline
from consumer.kafka.reader import PartitionReader, Record, TopicPartition
from consumer.kafka.topics import Topics

_WAIT_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Span:
    """What is read, in Unix seconds by the clocks of the brokers.

    ``since``: what was appended then or later; 0 for the oldest that is kept, infinity for what
    comes after the beginning of the reading.  ``until``: what was appended before; infinity for
    reading without an end, None for what can be read at the beginning of the reading.
    """

    since: float = 0.0
    until: float | None = None


async def places_of(
    client: Client, topics: Topics, names: Sequence[str], dids: Collection[str]
) -> list[TopicPartition]:
    """Return the partitions of the topics ``names`` that ``dids`` (none: all) are in.

    Raises ``Fatal`` if a topic is not there.
    """
    async with client.admin() as admin, deadline(client.timeout, "asking for topics"):
        found = {t["topic"]: len(t["partitions"]) for t in await admin.describe_topics()}
    for name in names:
        if name not in found:
            raise Fatal(f"there is no topic {name} yet: nothing has run with this prefix")
        if found[name] != topics.partitions:
            raise Fatal(
                f"topic {name} has {found[name]} partitions, "
                f"kafka.partitions says {topics.partitions}"
            )
    wanted = {topics.partition_of(did) for did in dids} or set(range(topics.partitions))
    return [TopicPartition(name, partition) for name in names for partition in sorted(wanted)]


async def records(
    client: Client, places: Sequence[TopicPartition], span: Span
) -> AsyncGenerator[Record, None]:
    """Yield the committed records of ``places`` within ``span``, those of each place in order.

    ``until`` ends the stream when each transaction that was open then is decided.  Raises
    ``Transient`` or ``Fatal``.
    """
    async with await PartitionReader.open(client, dict.fromkeys(places)) as reader:
        now = {place: end for place, (_, end) in (await reader.bounds()).items()}
        if span.since > 0:
            starts = now if math.isinf(span.since) else await _offsets(client, places, span.since)
            for place in places:
                reader.seek(place, starts[place])
        ends = now if span.until is None else None
        until = math.inf if span.until is None else span.until
        before = until if math.isinf(until) else round(until * 1000)
        while True:
            if ends is None and time.time() >= until:
                ends = await _offsets(client, places, until)
            unread = places if ends is None else await _unread(reader, ends)
            if not unread:
                return
            for record in await reader.fetch(*unread, wait=_WAIT_SECONDS):
                place = TopicPartition(record.topic, record.partition)
                if record.offset < ends[place] if ends else record.timestamp < before:
                    yield record


async def _unread(
    reader: PartitionReader, ends: Mapping[TopicPartition, int]
) -> list[TopicPartition]:
    return [place for place, end in ends.items() if await reader.position(place) < end]


async def _offsets(
    client: Client, places: Sequence[TopicPartition], moment: float
) -> dict[TopicPartition, int]:
    """Return for each place the offset of the first record appended at ``moment`` or later.

    Records of open transactions count; where there is none so late, it is the next to be written.
    """
    async with await PartitionReader.open(
        client, dict.fromkeys(places), committed=False
    ) as everything:
        return await everything.offsets_at(moment)
