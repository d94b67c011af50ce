"""Topics on a real Kafka."""

from __future__ import annotations

import asyncio

import pytest
from aiokafka.admin import NewTopic
from structlog.testing import capture_logs

from consumer.config.settings import TopicSettings
from consumer.config.types import TopicName
from consumer.errors import Fatal, Transient
from consumer.kafka.client import Client
from consumer.kafka.provision import MISSING, Verdict, ensure, rehearse
from consumer.kafka.replicas import shortages
from consumer.kafka.topics import Topic, Topics
from consumer.kafka.transaction import OutRecord
from consumer.kafka.writer import Writer
from tests.support.deployment import Deployment
from tests.support.eventually import eventually
from tests.support.kafka import client_of, config_of, configure, topics_of

pytestmark = pytest.mark.services


async def test_the_first_process_creates_them_as_specified(deployment: Deployment) -> None:
    client, topics = client_of(deployment), topics_of(deployment)
    await asyncio.gather(*(ensure(client, topics) for _ in range(3)))
    await ensure(client, topics)
    async with client.admin() as admin:
        described = {t["topic"]: t for t in await admin.describe_topics()}
    for spec in topics.specs():
        assert len(described[spec.name]["partitions"]) == spec.partitions
        assert spec.config.items() <= (await config_of(client, spec.name)).items()


async def test_another_number_of_partitions_is_refused(deployment: Deployment) -> None:
    client, topics = client_of(deployment), topics_of(deployment)
    await ensure(client, topics)
    with pytest.raises(Fatal, match="fixed at creation"):
        await ensure(client, Topics(topics.prefix, topics.partitions + 1))


async def test_another_policy_is_refused(deployment: Deployment) -> None:
    client, topics = client_of(deployment), topics_of(deployment)
    name = topics.name(Topic.CURSOR)
    async with client.admin() as admin:
        await admin.create_topics([NewTopic(name, 1, 1, topic_configs={})])
    with pytest.raises(Fatal, match=r"cleanup\.policy"):
        await ensure(client, topics)


async def test_a_topic_that_takes_only_small_records_is_refused(deployment: Deployment) -> None:
    client, topics = client_of(deployment), topics_of(deployment)
    await ensure(client, topics)
    spec = next(s for s in topics.specs() if s.name == topics.name(Topic.EVENTS))
    await configure(client, spec.name, {**spec.config, "max.message.bytes": "1000000"})
    with pytest.raises(Fatal, match=r"max\.message\.bytes"):
        await ensure(client, topics)


async def test_topics_of_others_need_only_what_is_demanded(deployment: Deployment) -> None:
    client = Client(deployment.kafka(create_topics=False))
    topics = topics_of(deployment)
    with pytest.raises(Transient, match="consumer topics") as caught:
        await ensure(client, topics)
    assert (caught.value.service, str(caught.value).count(deployment.prefix)) == (MISSING, 8)
    specs = topics.specs()
    new = [NewTopic(s.name, s.partitions, 1, topic_configs=dict(s.demanded)) for s in specs]
    async with client.admin() as admin:
        await admin.create_topics(new[1:])
        await admin.create_topics(new[:1], validate_only=True)
    await eventually(lambda: lacking(client, topics, f"is false: {specs[0].name};"))
    async with client.admin() as admin:
        await admin.create_topics(new[:1])
    with capture_logs() as logs:
        await eventually(lambda: lacking(client, topics, None))
    (said,) = [each for each in logs if each["event"] == "topics_differ"]
    cursor = f"{topics.name(Topic.CURSOR)} has segment.bytes = 1073741824, 1048576 is advised"
    assert cursor in said["advice"]
    assert not await shortages(client, topics)


async def lacking(client: Client, topics: Topics, words: str | None) -> bool:
    """Tell whether what is missing is said in ``words``, or whether nothing is missing."""
    try:
        await ensure(client, topics)
    except Transient as error:
        return words is not None and words in str(error)
    return words is None


async def test_settings_of_a_topic_are_what_it_is_created_with(deployment: Deployment) -> None:
    changes = {
        "all": TopicSettings(config={"compression.type": ""}),
        "events": TopicSettings(config={"min.compaction.lag.ms": "1000", "segment.ms": "2000"}),
    }
    settings = deployment.kafka(topics=changes)
    client, topics = Client(settings), Topics.of(settings)
    with capture_logs() as logs:
        await ensure(client, topics)
    config = await config_of(client, topics.name(Topic.EVENTS))
    assert (config["min.compaction.lag.ms"], config["segment.ms"]) == ("1000", "2000")
    assert (config["compression.type"], config["min.insync.replicas"]) == ("producer", "1")
    assert not [each for each in logs if each["event"] == "topics_differ"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"events": TopicSettings(replication_factor=5)},
            r"\.events \(InvalidReplicationFactor: .*kafka\.topics\.events\.replication_factor",
        ),
        (
            {"all": TopicSettings(config={"segment.bytes": "none"})},
            r"\.dead-letter \(InvalidConfiguration: .*change kafka\.topics\.all\.config",
        ),
        (
            {"cursor": TopicSettings(config={"no.such.key": "1"})},
            r"\.cursor \(InvalidConfiguration: .*no\.such\.key.*kafka\.topics\.cursor\.config",
        ),
    ],
)
async def test_a_refused_creation_names_the_setting(
    deployment: Deployment, changes: dict[TopicName, TopicSettings], words: str
) -> None:
    settings = deployment.kafka(topics=changes)
    client, topics = Client(settings), Topics.of(settings)
    for attempt in (rehearse, ensure):
        with pytest.raises(Fatal, match=words) as caught:
            await attempt(client, topics)
        assert "docs/topics.md" in str(caught.value)


async def test_a_rehearsal_creates_nothing(deployment: Deployment) -> None:
    client, topics = client_of(deployment), topics_of(deployment)
    found = await rehearse(client, topics)
    assert len(found.missing) == 8
    assert len((await rehearse(client, topics)).missing) == 8
    await ensure(client, topics)
    assert await rehearse(client, topics) == Verdict((), (), ())


async def test_fewer_replicas_than_must_be_in_sync(deployment: Deployment) -> None:
    client, topics = client_of(deployment), topics_of(deployment)
    await ensure(client, topics)
    name = topics.name(Topic.EVENTS)
    config = next(s.config for s in topics.specs() if s.name == name)
    await configure(client, name, {**config, "min.insync.replicas": "2"})
    (advice,) = (await rehearse(client, topics)).advice
    assert advice == f"{name} has min.insync.replicas = 2 with replication 1, 1 is advised"
    found = await shortages(client, topics)
    try:
        async with await Writer.open(Client(deployment.kafka(request_timeout=5.0))) as writer:
            await writer.write(OutRecord(name, 0, b"key", b"value"))
    except Transient:
        (said,) = found  # brokers before 3.7
        assert f"topic {name} has replication 1 and min.insync.replicas = 2" in said
    else:
        assert not found


async def test_the_cluster_says_who_it_is(deployment: Deployment) -> None:
    client = client_of(deployment)
    assert await client.cluster_id() == await client.cluster_id() != ""


async def test_without_an_address_there_is_no_client(deployment: Deployment) -> None:
    with pytest.raises(Fatal, match="bootstrap_servers"):
        Client(deployment.kafka(bootstrap_servers=None))
