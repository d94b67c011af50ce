"""Transactions that somebody left open are found, named, and known to be over."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from aiokafka import AIOKafkaProducer

from consumer import metrics
from consumer.errors import Transient
from consumer.kafka.client import Client
from consumer.kafka.stable import OpenTransactions, left_open, places_of
from consumer.kafka.topics import Topic, Topics
from tests.support.accounts import Accounts
from tests.support.consumer import Start
from tests.support.deployment import Deployment
from tests.support.eventually import eventually
from tests.support.harness import running

pytestmark = [pytest.mark.services, pytest.mark.timeout(300)]

UNKNOWN = "did:plc:" + "z" * 24


@asynccontextmanager
async def foreign_transaction(client: Client, topic: str, partition: int = 0) -> AsyncIterator[Any]:
    """Leave a transaction of somebody else open during the block, with two records in it."""
    producer = AIOKafkaProducer(
        bootstrap_servers=client.settings.bootstrap_servers,
        transactional_id="somebody-elses",
        transaction_timeout_ms=600_000,
    )
    await producer.start()
    try:
        await producer.begin_transaction()
        for value in (b"{}", b"{}"):
            await producer.send_and_wait(topic, value, partition=partition)
        yield producer
        await producer.abort_transaction()
    finally:
        await producer.stop()


async def test_only_open_transactions_are_found(client: Client, topics: Topics) -> None:
    places = places_of(topics)
    assert len(places) == sum(spec.partitions for spec in topics.specs())
    assert await left_open(client, places, longer_than=0) == []
    name = topics.name(Topic.BACKFILL)
    async with foreign_transaction(client, name, 2):
        (found,) = await left_open(client, places, longer_than=0)
        assert (found.place, found.offset, found.waiting) == ((name, 2), 0, 2)
        assert await left_open(client, places, longer_than=60) == []
    assert await left_open(client, places, longer_than=0) == []


async def test_why_kafka_cannot_be_asked_is_said_by_name(client: Client, topics: Topics) -> None:
    settings = client.settings.model_copy(update={"security_protocol": "SSL"})
    with pytest.raises(Transient, match=r"does not speak TLS: kafka\.security_protocol is SSL"):
        await left_open(Client(settings), places_of(topics), longer_than=0)


async def test_who_watches_names_it_until_it_is_over(client: Client, topics: Topics) -> None:
    watch = OpenTransactions(client, topics)
    name = topics.name(Topic.CONTROL)

    async def named() -> bool:
        try:
            await watch.check()
        except Transient as error:
            return f"{name}-0 has been open for" in str(error)
        return False

    def measured() -> float:
        return metrics.by_label(metrics.OPEN_TRANSACTION)[Topic.CONTROL]

    async with running(watch.run):
        async with foreign_transaction(client, name):
            await eventually(named, deadline=60)
            assert measured() >= 10
        await eventually(lambda: not measured(), deadline=60)
        assert not await named()


async def test_a_process_its_status_and_its_commands_say_what_holds_them_back(
    client: Client, deployment: Deployment, accounts: Accounts, consumer: Start
) -> None:
    environment = accounts.environment(deployment)
    fetcher = await consumer("run", "--role", "fetcher", env=environment)
    await fetcher.saying("lane_claimed", deadline=90)
    control = f"{deployment.prefix}control"
    url = await fetcher.url()
    async with foreign_transaction(client, control), httpx.AsyncClient() as http:
        sync = await consumer("sync", UNKNOWN, env=environment)
        said = await fetcher.saying("transaction_open", deadline=60)
        assert (said["topic"], said["partition"]) == (control, 0)
        ready = await http.get(f"{url}/readyz")
        assert ready.status_code == 503
        assert f"{control}-0" in ready.json()["checks"]["transactions"]["error"]

        status = await consumer("status", "--json", env=environment)
        assert await status.ended(60) == 0
        (held,) = json.loads(status.out)["openTransactions"]
        assert (held["topic"], held["partition"]) == (control, 0)
        assert held["seconds"] >= 10

        def warned() -> bool:
            return any("the command waits until it ends" in line for line in sync.lines)

        await eventually(warned, deadline=60)
        cancel = await consumer("cancel", "nothing", env=environment)
        assert await cancel.ended(60) == 1
        assert f"{control}-0 has been open" in cancel.lines[-1]
        assert sync.running
    assert await sync.ended(90) in (0, 1)
    await fetcher.saying("transaction_over", deadline=60)
