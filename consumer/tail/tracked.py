"""Find the tracked set again: what the workers know, and what they have not read yet."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from consumer.errors import Refused, Transient
from consumer.kafka.client import Client
from consumer.kafka.reader import PartitionReader, TopicPartition
from consumer.kafka.topics import Topic, Topics
from consumer.metrics.labels import Service
from consumer.tail.relevance import Relevance
from consumer.verify.frames import peek

_WAIT_SECONDS = 0.5


async def track_unread(
    client: Client, topics: Topics, offsets: Mapping[int, int], relevance: Relevance
) -> None:
    """Track the repositories of all commits in ``chive.firehose`` from ``offsets`` on.

    ``offsets`` are the workers' positions by partition.  Read them *before* what the workers
    know: a frame that they take in between is then seen twice, and none is missed.  Call it while
    no other process writes to the topic.  Raises ``Transient``.
    """
    firehose = topics.name(Topic.FIREHOSE)
    places = {TopicPartition(firehose, partition): None for partition in range(topics.partitions)}
    reader = await PartitionReader.open(client, places)
    async with reader:
        bounds = await reader.bounds()
        for place, (earliest, latest) in bounds.items():
            reader.seek(place, min(max(offsets.get(place.partition, 0), earliest), latest))
        await _read_to(reader, {place: latest for place, (_, latest) in bounds.items()}, relevance)


async def _read_to(
    reader: PartitionReader, ends: Mapping[TopicPartition, int], relevance: Relevance
) -> None:
    clock = asyncio.get_running_loop().time
    progress = clock()
    while True:
        records = await reader.fetch(wait=_WAIT_SECONDS)
        for record in records:
            try:
                relevance.wants(peek(record.value or b""))
            except Refused:
                continue  # the worker refuses it as well
        if all([await reader.position(place) >= end for place, end in ends.items()]):
            return
        if records:
            progress = clock()
        elif clock() - progress > reader.timeout:
            raise Transient("Kafka does not give what chive.firehose holds", Service.KAFKA)
