"""Read a small compacted partition up to a barrier."""

from __future__ import annotations

from consumer.kafka.client import Client, deadline
from consumer.kafka.reader import PartitionReader, TopicPartition

BARRIER = b"\x00barrier"


async def read_compacted(
    client: Client, topic: str, partition: int, until: bytes
) -> dict[bytes, bytes]:
    """Return the newest value of every key, from the start to the barrier ``until``.

    Keys whose newest value is a tombstone, and barriers, are left out.  Raises ``Transient``
    if the barrier does not appear in time.
    """
    here = TopicPartition(topic, partition)
    found: dict[bytes, bytes] = {}
    async with deadline(client.timeout, f"reading {topic}"):
        reader = await PartitionReader.open(client, {here: None})
        async with reader:
            while True:
                for record in await reader.fetch(here, wait=1.0):
                    if record.key == BARRIER:
                        if record.value == until:
                            return found
                    elif record.key is None:
                        continue
                    elif record.value is None:
                        found.pop(record.key, None)
                    else:
                        found[record.key] = record.value
