"""A Kafka that allows nothing by itself, made ready with what ``consumer topics`` prints."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from aiokafka import AIOKafkaConsumer

from consumer.cli.check import check
from consumer.cli.topics import as_acls, as_kafka_topics
from consumer.config.settings import IdentitySettings, KafkaSettings, RelaySettings, ScopeSettings
from consumer.embedded.jars import cache_home
from consumer.embedded.kafka import EmbeddedKafka
from consumer.errors import Fatal, Transient
from consumer.gateway.letters import StoredLetters
from consumer.kafka import permissions
from consumer.kafka.client import Client
from consumer.kafka.rights import rights
from consumer.kafka.topics import Topic, Topics
from consumer.kafka.transaction import OutRecord, TransactionalProducer
from consumer.kafka.writer import Writer
from consumer.scope import History
from procedures.client import Unavailable
from tests.field.network import Network
from tests.field.product import Product
from tests.support.consumer import Start
from tests.support.deployment import Deployment
from tests.support.eventually import eventually
from tests.support.kafka_tools import run_script
from tests.support.oldest_kafka import wanted
from tests.support.proxy import LOOPBACK
from tests.support.services import own_directory

pytestmark = [pytest.mark.services, pytest.mark.timeout(600)]

PASSWORD = "right"  # noqa: S105 - of every user
USERS = ("chive", "chive-gateway", "chive-sender", "chive-reader")
SENDERS = {"chive-gateway": f"did:plc:{'g' * 24}", "chive-sender": f"did:plc:{'s' * 24}"}
# Users come in by one listener; the other one is the administrator's, and the broker's own: as a
# client of SASL, Kafka 3.6 needs a Java before 24.
_STRICT = {
    "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
    "super.users": "User:ANONYMOUS",
    "listener.name.plaintext.sasl.enabled.mechanisms": "PLAIN",
    "listener.name.plaintext.plain.sasl.jaas.config": (
        "org.apache.kafka.common.security.plain.PlainLoginModule required "
        + " ".join(f'user_{user}="{PASSWORD}"' for user in USERS)
        + ";"
    ),
    "inter.broker.listener.name": "PROXIED",
    "listener.security.protocol.map": (
        "PLAINTEXT:SASL_PLAINTEXT,CONTROLLER:PLAINTEXT,PROXIED:PLAINTEXT"
    ),
}


@dataclass(frozen=True)
class Strict(Deployment):
    """A deployment whose topics and rights are made by its administrator."""

    administrator: str = ""

    def kafka(self, **values: Any) -> KafkaSettings:
        """Return its Kafka settings, with ``values`` on top."""
        credentials = {
            "security_protocol": "SASL_PLAINTEXT",
            "sasl_username": "chive",
            "sasl_password": PASSWORD,
        }
        return super().kafka(**{**credentials, "create_topics": False, **values})

    def as_user(self, user: str) -> dict[str, str]:
        """Return the settings of a process that is ``user`` as environment variables."""
        return {
            **self.environment(),
            "CHIVE_KAFKA__SECURITY_PROTOCOL": "SASL_PLAINTEXT",
            "CHIVE_KAFKA__SASL_USERNAME": user,
            "CHIVE_KAFKA__SASL_PASSWORD": PASSWORD,
            "CHIVE_KAFKA__CREATE_TOPICS": "false",
        }


@pytest.fixture
async def strict(server_directory: Path, deployment: Deployment) -> AsyncIterator[Strict]:
    """Give a deployment on a Kafka that allows nothing that was not allowed by name."""
    with own_directory(server_directory, "kafka", ports=3) as directory:
        *_, second = json.loads((directory / "ports.json").read_text())
        kafka = EmbeddedKafka(
            directory, cache_home(), proxied_port=second, settings=_STRICT, release=wanted()
        )
        try:
            await kafka.start()
            yield Strict(
                kafka.bootstrap_servers,
                deployment.prefix,
                deployment.dsn,
                deployment.data_dir,
                f"{LOOPBACK}:{second}",
            )
        finally:
            await kafka.stop()


async def test_the_printed_topics_and_rights_are_enough_and_needed(
    strict: Strict, network: Network, consumer: Start, tmp_path: Path
) -> None:
    async def printed(form: str) -> str:
        environment = {
            **strict.environment(),
            "CHIVE_KAFKA__BOOTSTRAP_SERVERS": strict.administrator,
            "CHIVE_KAFKA__CREATE_TOPICS": "false",
        }
        process = await consumer("topics", "--as", form, env=environment)
        assert await process.ended(60) == 0
        return str(process.out)

    early = await consumer("run", "--role", "worker", env=strict.as_user("chive"))
    said = await early.saying("topics_unreachable", deadline=90)
    assert f"{strict.prefix}dead-letter" in said["error"]
    assert "consumer topics" in said["error"]
    async with httpx.AsyncClient() as http:
        ready = await http.get(f"{await early.url()}/readyz")
        assert ready.status_code == 503
        assert f"{strict.prefix}events" in ready.json()["checks"]["start"]["error"]
    await early.stopped()

    assert "Created topic" in await run_script(await printed("kafka-topics"), tmp_path / "tools")
    assert "ALLOW" in await run_script(await printed("acls"), tmp_path / "tools")

    async with Product.opened(strict, network=network) as product, product.running():
        _, repo = await network.account("of strict servers")
        await network.commit(repo)
        await product.agrees(repo)
        await the_gateway_is_ready_and_may_send_commands(strict, product, consumer)
    await readers_may_read_and_nothing_else(strict, consumer, repo.account.did)


async def the_gateway_is_ready_and_may_send_commands(
    strict: Strict, product: Product, consumer: Start
) -> None:
    gateway = await consumer("run", "--role", "gateway", env=strict.as_user("chive-gateway"))
    await gateway.saying("process_running", deadline=90)
    url = await gateway.url()

    async def ready() -> bool:
        async with httpx.AsyncClient() as http:
            return (await http.get(f"{url}/readyz")).status_code == 200

    await eventually(ready, deadline=90)
    assert await gateway.stopped() == 0
    letters = StoredLetters(Client(strict.kafka(sasl_username="chive-gateway")), product.topics)
    assert list(await letters.newest()) == []
    with pytest.raises(Unavailable):  # others that send commands may not
        await StoredLetters(
            Client(strict.kafka(sasl_username="chive-sender")), product.topics
        ).newest()
    control, events = (product.topics.name(topic) for topic in (Topic.CONTROL, Topic.EVENTS))
    for user, did in SENDERS.items():
        command = json.dumps({"type": "didSync", "did": did}).encode()
        async with await Writer.open(Client(strict.kafka(sasl_username=user))) as writer:
            await writer.write(OutRecord(control, 0, None, command))
            with pytest.raises(Fatal, match="Authorization"):
                await writer.write(OutRecord(events, 0, b"key", b"value"))

    async def accepted() -> bool:
        rows = await product.rows("SELECT did FROM operations")
        return {did for (did,) in rows} >= set(SENDERS.values())

    await product.eventually(accepted, what="both commands become operations")


async def readers_may_read_and_nothing_else(strict: Strict, consumer: Start, did: str) -> None:
    events = await consumer("events", "--json", env=strict.as_user("chive-reader"))
    assert await events.ended(90) == 0
    assert did in events.out
    reader = AIOKafkaConsumer(
        f"{strict.prefix}events",
        bootstrap_servers=strict.bootstrap_servers,
        security_protocol="SASL_PLAINTEXT",
        sasl_mechanism="PLAIN",
        sasl_plain_username="chive-reader",
        sasl_plain_password=PASSWORD,
        group_id="chive-reader-index",
        auto_offset_reset="earliest",
    )
    await reader.start()
    try:
        assert await reader.getone()
    finally:
        await reader.stop()
    client = Client(strict.kafka(sasl_username="chive-reader"))
    with pytest.raises(Fatal, match="Authorization"):
        async with await Writer.open(client) as writer:
            await writer.write(OutRecord(f"{strict.prefix}control", 0, None, b"{}"))


async def test_check_names_every_right_that_is_missing(strict: Strict, tmp_path: Path) -> None:
    administrator = strict.kafka(bootstrap_servers=strict.administrator)
    client, topics = Client(strict.kafka()), Topics.of(strict.kafka())
    wanted = [each for each in rights(topics, create=False, readers="") if each.party == "consumer"]
    tools = tmp_path / "tools"
    await run_script("\n".join(as_kafka_topics(administrator)), tools)
    await ready(client)
    nothing = await permissions.lacking(client, wanted)
    assert len(nothing) == 3
    for what in ("group", "topic", "transactional ids"):
        assert any(said.startswith("Describe (") and f" on {what}" in said for said in nothing)

    await run_script("\n".join(as_acls(administrator)), tools)
    await ready(client)
    async with await TransactionalProducer.open(client, "tailer") as producer:
        assert await permissions.lacking(client, wanted) == []
        # Nobody was fenced by being asked.
        await producer.commit([OutRecord(topics.name(Topic.CURSOR), 0, b"key", b"value")])

    deny = (
        f"kafka-acls.sh --bootstrap-server {strict.administrator} --add --deny-principal User:chive"
    )
    events, control = topics.name(Topic.EVENTS), topics.name(Topic.CONTROL)
    await run_script(
        f"set -e\n{deny} --operation Write --topic {events} --topic {control}\n"
        f"{deny} --operation DescribeConfigs --topic {control}\n"
        f"{deny} --operation Read --group {strict.prefix}worker\n"
        f"{deny} --operation Write --resource-pattern-type prefixed "
        f"--transactional-id {strict.prefix}\n",
        tools,
    )
    denied = [
        f"Read on group {strict.prefix}worker",
        f"Write on transactional ids that begin with {strict.prefix}",
        f"Write on topic {control}, {events}",
        f"DescribeConfigs on topic {control}",
    ]

    async def named() -> bool:
        return sorted(await permissions.lacking(client, wanted)) == sorted(denied)

    await eventually(named, what="all that was denied", deadline=60)
    settings = strict.settings(
        relay=RelaySettings(url=f"ws://{LOOPBACK}:1"),
        identity=IdentitySettings(plc_url=f"http://{LOOPBACK}:1"),
        scope=ScopeSettings(history=History.LIVE),
    )
    line = (await check(settings))["rights"]
    assert line.ok is False
    assert all(said in line.detail for said in denied)
    assert "'consumer topics --as acls'" in line.detail


async def ready(client: Client) -> None:
    """Wait until a new broker has coordinators."""

    async def look() -> bool:
        try:
            await client.require_coordinators()
        except Transient:
            return False
        return True

    await eventually(look, what="coordinators", deadline=90)
