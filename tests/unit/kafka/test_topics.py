"""Names, partitions and configuration of the topics."""

from __future__ import annotations

import pytest

from consumer.errors import Fatal
from consumer.kafka.client import MAX_RECORD_BYTES
from consumer.kafka.topics import Topic, Topics, TopicSpec, _compare

TOPICS = Topics("chive.", 8)
SPECS = {spec.name: spec for spec in TOPICS.specs()}


@pytest.mark.parametrize(
    ("key", "expected"),
    # From Kafka's own tests of Utils.murmur2, made positive as its partitioner does.
    [
        ("21", -973932308),
        ("foobar", -790332482),
        ("a-little-bit-long-string", -985981536),
        ("a-little-bit-longer-string", -1486304829),
        ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971),
    ],
)
def test_partition_is_kafkas_default(key: str, expected: int) -> None:
    assert Topics("p.", 97).partition_of(key) == (expected & 0x7FFFFFFF) % 97


def test_every_partition_is_used() -> None:
    used = {TOPICS.partition_of(f"did:plc:{i:024d}") for i in range(200)}
    assert used == set(range(8))


def test_names_carry_the_prefix() -> None:
    assert TOPICS.name(Topic.DEAD_LETTER) == "chive.dead-letter"
    assert all(name.startswith("chive.") for name in SPECS)


def test_controller_has_a_lane_of_its_own() -> None:
    assert SPECS["chive.published"].partitions == 9
    assert SPECS["chive.events"].partitions == 8
    assert SPECS["chive.cursor"].partitions == 1


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_common_configuration(spec: TopicSpec) -> None:
    config = spec.config
    assert config["message.timestamp.type"] == "LogAppendTime"
    assert config["compression.type"] == "zstd"
    assert int(config["max.message.bytes"]) == MAX_RECORD_BYTES


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("cleanup.policy", "compact"),
        ("message.timestamp.type", "CreateTime"),
        ("max.message.bytes", "1048588"),
    ],
)
def test_a_topic_that_differs_is_refused(key: str, value: str) -> None:
    spec = SPECS["chive.firehose"]
    _compare(spec, dict(spec.config))
    with pytest.raises(Fatal, match=key):
        _compare(spec, {**spec.config, key: value})


def test_retention_is_tuning() -> None:
    spec = SPECS["chive.firehose"]
    _compare(spec, {**spec.config, "retention.ms": "1"})
