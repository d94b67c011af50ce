"""Prints every committed record of a topic with confluent-kafka, on librdkafka; see the package."""

from __future__ import annotations

import sys
from typing import Any

from confluent_kafka import OFFSET_BEGINNING, Consumer, TopicPartition

from tests.support.clients.lines import END, line

_, servers, topic, partitions = sys.argv
# Its isolation.level is read_committed unless set otherwise.
consumer = Consumer({"bootstrap.servers": servers, "group.id": topic, "enable.auto.commit": False})
consumer.assign([TopicPartition(topic, n, OFFSET_BEGINNING) for n in range(int(partitions))])
ended: set[int] = set()
while len(ended) < int(partitions):
    one: Any = consumer.poll(60.0)
    if one is None or one.error():
        sys.exit(f"no record: {one and one.error()}")
    place = one.partition()
    print(line(place, one.offset(), one.key(), one.value(), one.headers() or []))  # noqa: T201
    if one.key() == END:
        ended.add(place)
consumer.close()
