"""Replicas that are missing: named while it lasts, in log, readiness and check, and then over."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from structlog.testing import capture_logs

from consumer.embedded.jars import cache_home
from consumer.embedded.kafka import EmbeddedKafka
from consumer.errors import Transient
from consumer.kafka.provision import ensure
from consumer.kafka.replicas import Replicas, shortages
from consumer.kafka.topics import Topic
from tests.support.cluster import Cluster
from tests.support.consumer import Start
from tests.support.deployment import Deployment
from tests.support.eventually import eventually
from tests.support.harness import running
from tests.support.kafka import client_of, configure, topics_of
from tests.support.oldest_kafka import OLDEST
from tests.support.services import own_directory

pytestmark = [pytest.mark.services, pytest.mark.timeout(600)]


async def test_one_old_broker_that_wants_two_replicas_in_sync(
    server_directory: Path, deployment: Deployment, consumer: Start
) -> None:
    """Our topics are made with one; Kafka's own for transactions take the broker's two."""
    wrong = {"min.insync.replicas": "2", "transaction.state.log.min.isr": "2"}
    with own_directory(server_directory, "kafka", ports=3) as directory:
        kafka = EmbeddedKafka(directory, cache_home(), settings=wrong, release=OLDEST)
        try:
            await kafka.start()
            servers = {"CHIVE_KAFKA__BOOTSTRAP_SERVERS": kafka.bootstrap_servers}
            environment = {**deployment.environment(), **servers}
            run = await consumer("run", "--role", "worker", env=environment)
            said = await run.saying("replicas_missing", deadline=90)
            assert {text.split()[1] for text in said["topics"]} == {
                "__consumer_offsets",
                "__transaction_state",
            }
            assert "transaction.state.log.min.isr" in said["topics"][-1]
            async with httpx.AsyncClient() as http:
                ready = await http.get(f"{await run.url()}/readyz")
            assert ready.status_code == 503
            assert (
                "__transaction_state has replication 1"
                in (ready.json()["checks"]["replicas"]["error"])
            )
            check = await consumer("check", env=environment)
            assert await check.ended(60) == 1
            assert "__transaction_state has replication 1" in check.out
            await run.stopped()
        finally:
            await kafka.stop()


async def test_brokers_that_are_away_are_missed_until_they_are_back(
    cluster: Cluster, replicated: Deployment
) -> None:
    client, topics = client_of(replicated), topics_of(replicated)
    await ensure(client, topics)
    assert await shortages(client, topics) == []
    name = topics.name(Topic.EVENTS)
    config = next(spec.config for spec in topics.specs() if spec.name == name)
    await configure(client, name, {**config, "min.insync.replicas": "3"})
    watch = Replicas(client, topics)

    async def said() -> str:
        try:
            await watch.check()
        except Transient as error:
            return str(error)
        return ""

    async def missed() -> bool:
        words = await said()
        return f"of {name} has 2 of 3 replicas in sync, min.insync.replicas is 3" in words

    async def watched(stop: asyncio.Event) -> None:
        while not stop.is_set():  # a process begins again when its connection breaks
            with suppress(Transient):
                await watch.run(stop)

    with capture_logs() as logs:
        async with running(watched):
            cluster.signal(0, signal.SIGKILL)
            await eventually(missed, deadline=90)
            await cluster.restart(0)
            await eventually(lambda: logged(logs, "replicas_back"), deadline=90)
            assert not await said()
    assert logged(logs, "replicas_missing")


def logged(logs: Sequence[Mapping[str, Any]], event: str) -> bool:
    return any(each["event"] == event for each in logs)
