"""Prints every committed record of a topic with kafka-python; see the package."""

from __future__ import annotations

import sys

from kafka import KafkaConsumer, TopicPartition

from tests.support.clients.lines import END, line

_, servers, topic, partitions = sys.argv
places = [TopicPartition(topic, number) for number in range(int(partitions))]
consumer = KafkaConsumer(
    bootstrap_servers=servers, isolation_level="read_committed", enable_auto_commit=False
)
consumer.assign(places)
consumer.seek_to_beginning(*places)
ended: set[int] = set()
while len(ended) < len(places):
    one = next(consumer)
    print(line(one.partition, one.offset, one.key, one.value, one.headers))  # noqa: T201
    if one.key == END:
        ended.add(one.partition)
consumer.close()
