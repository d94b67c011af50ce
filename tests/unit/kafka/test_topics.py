"""Names, partitions and configuration of the topics."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from consumer.config.settings import KafkaSettings, TopicSettings
from consumer.config.types import BUILT_IN_TOPICS
from consumer.errors import Fatal
from consumer.kafka.client import MAX_RECORD_BYTES
from consumer.kafka.rights import Party, Resource, rights
from consumer.kafka.topics import Topic, Topics, TopicSpec

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
    assert int(config["max.message.bytes"]) == MAX_RECORD_BYTES


def test_topics_for_others_take_what_is_written_and_all_else_is_zstd() -> None:
    shared = {"chive.events", "chive.operations", "chive.dead-letter"}
    kept = {name: spec.config["compression.type"] for name, spec in SPECS.items()}
    assert kept == {name: "producer" if name in shared else "zstd" for name in SPECS}
    assert TOPICS.codecs() == {name: "gzip" if name in shared else "zstd" for name in SPECS}
    lz4 = Topics.of(KafkaSettings(compression="lz4")).codecs()
    assert {name for name, codec in lz4.items() if codec == "lz4"} == shared


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("cleanup.policy", "compact"),
        ("message.timestamp.type", "CreateTime"),
        ("max.message.bytes", "1048588"),
    ],
)
def test_what_is_demanded(key: str, value: str) -> None:
    spec = SPECS["chive.firehose"]
    assert spec.breaches(spec.config) == []
    (said,) = spec.breaches({**spec.config, key: value})
    assert f"topic chive.firehose has {key} = {value}, it must be" in said


@pytest.mark.parametrize(
    ("key", "value"),
    [("retention.ms", "1"), ("compression.type", "producer"), ("max.message.bytes", "20000000")],
)
def test_what_is_not_demanded(key: str, value: str) -> None:
    spec = SPECS["chive.firehose"]
    assert spec.breaches({**spec.config, key: value}) == []


@pytest.mark.parametrize(("replicas", "insync"), [(1, "1"), (2, "1"), (3, "2"), (5, "4")])
def test_how_many_replicas_must_be_in_sync_is_always_said(replicas: int, insync: str) -> None:
    specs = Topics("chive.", 8, replicas).specs()
    assert {spec.replicas for spec in specs} == {replicas}
    assert {spec.config["min.insync.replicas"] for spec in specs} == {insync}


def test_settings_of_single_topics_win_over_those_of_all() -> None:
    settings = KafkaSettings(
        replication_factor=2,
        topics={
            "all": TopicSettings(config={"compression.type": "", "segment.ms": "7"}),
            "events": TopicSettings(replication_factor=3, config={"segment.ms": "8", "x.y": "z"}),
        },
    )
    specs = {spec.topic: spec for spec in Topics.of(settings).specs()}
    events, operations = specs[Topic.EVENTS], specs[Topic.OPERATIONS]
    assert (events.replicas, operations.replicas) == (3, 2)
    assert (events.config["segment.ms"], operations.config["segment.ms"]) == ("8", "7")
    assert (events.config["x.y"], events.config["min.insync.replicas"]) == ("z", "2")
    assert not {"compression.type"} & (events.config.keys() | operations.config.keys())


def test_what_is_demanded_may_be_left_to_the_broker_but_not_changed() -> None:
    left = {"cleanup.policy": "", "max.message.bytes": "9000000"}
    topics = Topics("c.", 8, changes={"firehose": TopicSettings(config=left)})
    spec = topics.specs()[0]
    assert "cleanup.policy" not in spec.config
    assert spec.demanded["cleanup.policy"] == "delete"
    for key, value in {"cleanup.policy": "delete", "max.message.bytes": "1000000"}.items():
        changed = TopicSettings(config={key: value})
        with pytest.raises(Fatal, match=rf"kafka\.topics\.cursor\.config: {key} must be"):
            Topics("c.", 8, changes={"cursor": changed}).specs()


def test_settings_name_every_topic() -> None:
    assert {*Topic} == BUILT_IN_TOPICS


ROUTED = KafkaSettings(
    routes={"pub.chive.eprint.*": "eprints", "pub.chive.*": "chive", "at.margin.*": "events"},
    compression="lz4",
    topics={
        "all": TopicSettings(config={"x.y": "1"}),
        "events": TopicSettings(config={"x.y": "2"}, replication_factor=3),
        "eprints": TopicSettings(config={"x.y": "3"}),
    },
)


def test_topics_of_routes_are_like_that_of_events() -> None:
    topics = Topics.of(ROUTED)
    assert topics.event_topics == ("chive.events", "chive.chive", "chive.eprints")
    specs = {spec.name: spec for spec in topics.specs()}
    events = specs["chive.events"]
    for name in topics.event_topics:
        assert specs[name].partitions == events.partitions
        assert specs[name].demanded == events.demanded
        assert specs[name].replicas == 3
        assert topics.codecs()[name] == "lz4"
        assert {**specs[name].config, "x.y": ""} == {**events.config, "x.y": ""}
    assert [specs[name].config["x.y"] for name in topics.event_topics] == ["2", "2", "3"]
    assert len(specs) == len(Topic) + 2


def test_readers_may_read_every_topic_of_events() -> None:
    topics = Topics.of(ROUTED)
    allowed = {
        party: {
            name
            for right in rights(topics, create=True, readers="r")
            if right.party is party and right.resource is Resource.TOPIC
            for name in right.names
        }
        for party in Party
    }
    assert allowed[Party.READER] == {*topics.event_topics, "chive.operations"}
    assert allowed[Party.CONSUMER] >= {*topics.event_topics}


def test_routes_lead_to_full_names() -> None:
    routes = Topics.of(ROUTED).event_routes()
    assert routes.of(b"at://did:plc:a/pub.chive.eprint.version/1") == ("chive.eprints",)
    assert routes.of(b"at://did:plc:a/at.margin.note/1") == ("chive.events",)


@pytest.mark.parametrize(
    ("routes", "said"),
    [
        ({"pub.chive.*": "operations"}, "a topic of the consumer's own"),
        ({"pub.chive.*": "Eprints"}, "no topic's name"),
        ({"pub.chive.*": "a_b"}, "no topic's name"),
        ({"pub.chive.*": "chive.eprints"}, "no topic's name"),
        ({"pub.*.chive": "eprints"}, "is not a pattern"),
        ({"pub": "eprints"}, "is neither a collection NSID nor a pattern"),
    ],
)
def test_routes_that_are_none(routes: dict[str, str], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        KafkaSettings(routes=routes)


def test_settings_of_a_topic_that_nothing_leads_to() -> None:
    with pytest.raises(ValidationError, match=r"topics\.eprints: there is no such topic"):
        KafkaSettings(topics={"eprints": TopicSettings()})
