"""The whole topic as a CloudEvents SDK reads it."""

from __future__ import annotations

import json
from collections import Counter

from cloudevents.core.bindings.kafka import KafkaMessage, from_binary
from cloudevents.core.formats.json import JSONFormat

from consumer.kafka.topics import Topic
from simulator.network import Network
from tests.support.worker import WorkerHarness


async def test_every_record_of_the_topic_is_a_cloudevent(harness: WorkerHarness) -> None:
    network = Network(11, accounts=4)
    harness.keys = network.keys
    kafka = harness.settings.kafka.model_copy(update={"cloudevents": True})
    settings = harness.settings.model_copy(update={"kafka": kafka})
    async with harness.fetching(), harness.working(settings):
        await harness.publish(network.introduce(3))
        await harness.publish(network.frames(150))
        await harness.settled()

    kinds, names = Counter[str](), set[tuple[str, str]]()
    records = await harness.committed(Topic.EVENTS)
    for record in records:
        # The SDK says bytes and means a value that may be absent.
        message = KafkaMessage(dict(record.headers), record.key, record.value)  # type: ignore[arg-type]
        event = from_binary(message, JSONFormat())
        kinds[event.get_type().removeprefix("pub.chive.firehose.")] += 1
        names.add((event.get_source(), event.get_id()))
        if record.value is not None:
            assert event.get_data() == json.loads(record.value)
    assert len(names) == len(records)
    assert kinds["record.create"] > 0
    assert kinds["record.tombstone"] == kinds["record.delete"] > 0
