"""A Kafka with a policy for topics, as managed ones have it, and the settings that obey it.

The policy is a class on the broker's path, so these tests need javac.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from consumer.config.settings import KafkaSettings, TopicSettings
from consumer.embedded.jars import cache_home, kafka_jars
from consumer.embedded.kafka import EmbeddedKafka
from consumer.errors import Fatal
from consumer.kafka.client import Client
from consumer.kafka.provision import ensure, rehearse
from consumer.kafka.topics import Topics
from tests.support.consumer import Start
from tests.support.deployment import Deployment
from tests.support.oldest_kafka import wanted
from tests.support.services import own_directory

pytestmark = [
    pytest.mark.services,
    pytest.mark.timeout(300),
    pytest.mark.skipif(shutil.which("javac") is None, reason="javac is needed for the policy"),
]

_POLICY = """
import java.util.Map;
import org.apache.kafka.common.errors.PolicyViolationException;
import org.apache.kafka.server.policy.CreateTopicPolicy;

public class Managed implements CreateTopicPolicy {
    public void configure(Map<String, ?> settings) {}
    public void close() {}
    public void validate(RequestMetadata topic) {
        if (topic.topic().startsWith("__")) return;
        String bytes = topic.configs().get("segment.bytes");
        if (bytes != null && Long.parseLong(bytes) < 52428800L)
            throw new PolicyViolationException("segment.bytes is below 52428800");
        if (topic.configs().containsKey("compression.type"))
            throw new PolicyViolationException("compression.type must not be set");
    }
}
"""
_ACCEPTED = {
    "CHIVE_KAFKA__TOPICS__ALL__CONFIG": "compression.type=",
    "CHIVE_KAFKA__TOPICS__CURSOR__CONFIG": "segment.bytes=52428800",
    "CHIVE_KAFKA__TOPICS__PUBLISHED__CONFIG": "segment.bytes=",
}


class Managed(EmbeddedKafka):
    """A Kafka with the classes of its directory on its path."""

    def _java(self, *arguments: str) -> list[str]:
        command = super()._java(*arguments)
        command[command.index("-classpath") + 1] += f":{self._directory}"
        return command


def compiled(directory: Path, jars: list[Path]) -> None:
    source = directory / "Managed.java"
    source.write_text(_POLICY)
    path = ":".join(map(str, jars))
    command = ["javac", "--release", "17", "-cp", path, "-d", str(directory), str(source)]
    subprocess.run(command, check=True, capture_output=True)


@pytest.fixture
async def managed(server_directory: Path) -> AsyncIterator[EmbeddedKafka]:
    with own_directory(server_directory, "kafka", ports=3) as directory:
        compiled(directory, await kafka_jars(cache_home(), wanted()))
        settings = {"create.topic.policy.class.name": "Managed"}
        kafka = Managed(directory, cache_home(), settings=settings, release=wanted())
        try:
            await kafka.start()
            yield kafka
        finally:
            await kafka.stop()


async def test_a_policy_is_named_and_obeyed(
    managed: EmbeddedKafka, deployment: Deployment, consumer: Start
) -> None:
    servers = {"CHIVE_KAFKA__BOOTSTRAP_SERVERS": managed.bootstrap_servers}
    environment = {**deployment.environment(), **servers}
    check = await consumer("check", env=environment)
    assert await check.ended(60) == 1
    refused = "PolicyViolation: compression.type must not be set; segment.bytes is below 52428800"
    assert refused in check.out
    run = await consumer("run", "--role", "worker", env=environment)
    assert await run.ended(60) == 1
    said = run.lines[-1]
    assert f"Kafka refuses to create {deployment.prefix}" in said
    assert "kafka.topics.all.config" in said
    assert "docs/topics.md" in said

    run = await consumer("run", "--role", "worker", env={**environment, **_ACCEPTED})
    await run.saying("partitions_assigned", deadline=90)
    assert not run.said("topics_differ")
    assert await run.stopped() == 0


async def test_one_topic_that_is_refused(managed: EmbeddedKafka, deployment: Deployment) -> None:
    def settings(segment: str) -> KafkaSettings:
        every = TopicSettings(config={"compression.type": "", "segment.bytes": ""})
        cursor = TopicSettings(config={"segment.bytes": segment})
        return deployment.kafka(
            bootstrap_servers=managed.bootstrap_servers, topics={"all": every, "cursor": cursor}
        )

    small, large = settings("1048576"), settings("52428800")
    with pytest.raises(Fatal, match=r"\.cursor \(PolicyViolation.*kafka\.topics\.cursor\.config"):
        await ensure(Client(small), Topics.of(small))
    await ensure(Client(large), Topics.of(large))
    found = await rehearse(Client(large), Topics.of(large))
    assert (found.missing, found.advice) == ((), ())
