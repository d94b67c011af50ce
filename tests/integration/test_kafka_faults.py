"""Brokers that are configured wrong: the cause is named, and nobody says that he is ready."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from consumer.config.settings import KafkaSettings
from consumer.embedded.jars import cache_home
from consumer.embedded.kafka import EmbeddedKafka
from consumer.errors import Fatal, Transient
from consumer.kafka import diagnosis
from consumer.kafka.client import Client
from tests.support.consumer import Start
from tests.support.deployment import Deployment
from tests.support.eventually import eventually
from tests.support.proxy import LOOPBACK
from tests.support.services import own_directory

pytestmark = [pytest.mark.services, pytest.mark.timeout(300)]

Broker = Callable[..., AbstractAsyncContextManager[EmbeddedKafka]]

_SECRETS = {
    "listener.name.plaintext.sasl.enabled.mechanisms": "PLAIN",
    "listener.name.plaintext.plain.sasl.jaas.config": (
        "org.apache.kafka.common.security.plain.PlainLoginModule required "
        'username="broker" password="secret" user_broker="secret" user_chive="right";'
    ),
    "sasl.mechanism.inter.broker.protocol": "PLAIN",
    "listener.security.protocol.map": (
        "PLAINTEXT:SASL_PLAINTEXT,CONTROLLER:PLAINTEXT,PROXIED:PLAINTEXT"
    ),
}


def _tls(store: Path) -> dict[str, str]:
    return {
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,PROXIED:SSL",
        "ssl.keystore.type": "PEM",
        "ssl.keystore.location": str(store),
        "ssl.truststore.type": "PEM",
        "ssl.truststore.location": str(store.with_name("ca.pem")),
        "ssl.endpoint.identification.algorithm": "",
    }


@pytest.fixture
def broker(server_directory: Path) -> Broker:
    @asynccontextmanager
    async def start(**settings: str) -> AsyncIterator[EmbeddedKafka]:
        with own_directory(server_directory, "kafka", ports=3) as directory:
            *_, second = json.loads((directory / "ports.json").read_text())
            kafka = EmbeddedKafka(directory, cache_home(), proxied_port=second, settings=settings)
            try:
                await kafka.start()
                yield kafka
            finally:
                await kafka.stop()

    return start


def client_of(kafka: EmbeddedKafka, password: str | None = None, **settings: Any) -> Client:
    return client_at(kafka.bootstrap_servers, sasl_password=password, **settings)


def client_at(servers: str, **settings: Any) -> Client:
    return Client(KafkaSettings(bootstrap_servers=servers, request_timeout=10.0, **settings))


@pytest.fixture
def certificate(server_directory: Path) -> Path:
    """Return a certificate of its own authority, with its key in front, as PEM."""
    key, ca = server_directory / "key.pem", server_directory / "ca.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2",
         "-subj", f"/CN={LOOPBACK}", "-addext", f"subjectAltName=IP:{LOOPBACK}",
         "-keyout", str(key), "-out", str(ca)],
        check=True, capture_output=True,
    )  # fmt: skip
    store = server_directory / "store.pem"
    store.write_text(key.read_text() + ca.read_text())
    return store


async def test_one_broker_is_not_enough_for_internal_topics_of_three_replicas(
    broker: Broker, deployment: Deployment, consumer: Start
) -> None:
    wrong = {
        "offsets.topic.replication.factor": "3",
        "transaction.state.log.replication.factor": "3",
    }
    async with broker(**wrong) as kafka:
        with pytest.raises(Transient, match=r"consumer groups: __consumer_offsets wants 3 rep"):
            await client_of(kafka).require_coordinators()
        environment = deployment.environment()
        environment["CHIVE_KAFKA__BOOTSTRAP_SERVERS"] = kafka.bootstrap_servers
        run = await consumer("run", "--role", "worker", env=environment)
        said = await run.saying("kafka_unreachable", deadline=90)
        assert "offsets.topic.replication.factor" in said["error"]
        async with httpx.AsyncClient() as http:
            assert (await http.get(f"{await run.url()}/readyz")).status_code == 503
        environment["CHIVE_RELAY__URL"] = "ws://127.0.0.1:1"
        environment["CHIVE_IDENTITY__PLC_URL"] = "http://127.0.0.1:1"
        check = await consumer("check", env=environment)
        assert await check.ended(60) == 1
        assert "offsets.topic.replication.factor" in check.out


async def test_a_wrong_password_is_named_and_ends_the_process_when_it_lasts(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with broker(**_SECRETS) as kafka:
        sasl = {"security_protocol": "SASL_PLAINTEXT", "sasl_username": "chive"}
        right = client_of(kafka, "right", **sasl)
        await right.cluster_id()
        wrong = client_of(kafka, "wrong", **sasl)
        with pytest.raises(Transient, match="refuses user or password of 'chive'"):
            await wrong.cluster_id()
        monkeypatch.setattr(diagnosis, "_REFUSED_SECONDS", 0.1)
        await asyncio.sleep(0.2)
        with pytest.raises(Fatal, match="refuses user or password of 'chive'"):
            await wrong.cluster_id()
        with pytest.raises(Fatal, match=r"kafka\.sasl_mechanism"):
            await client_of(kafka, "right", **sasl, sasl_mechanism="SCRAM-SHA-256").cluster_id()
        with pytest.raises(Transient, match="may want TLS or SASL"):
            await client_of(kafka).cluster_id()


async def test_tls_and_certificates_are_named(broker: Broker, certificate: Path) -> None:
    async with broker(**_tls(certificate)) as kafka:
        servers = f"{LOOPBACK}:{kafka.proxied_upstream}"
        authority = certificate.with_name("ca.pem")
        await client_at(servers, security_protocol="SSL", ssl_ca_file=authority).cluster_id()
        with pytest.raises(Transient, match=r"not trusted: set kafka\.ssl_ca_file"):
            await client_at(servers, security_protocol="SSL").cluster_id()
        with pytest.raises(Transient, match="may want TLS or SASL"):
            await client_at(servers).cluster_id()


async def test_tls_and_sasl_on_a_plaintext_port_are_named(own_kafka: EmbeddedKafka) -> None:
    with pytest.raises(Transient, match="does not speak TLS"):
        await client_of(own_kafka, security_protocol="SSL").cluster_id()
    with pytest.raises((Transient, Fatal), match="does not ask for SASL"):
        await client_of(
            own_kafka, "right", security_protocol="SASL_PLAINTEXT", sasl_username="chive"
        ).cluster_id()


async def test_a_worker_is_ready_when_it_works_on_its_lanes(
    deployment: Deployment, consumer: Start
) -> None:
    run = await consumer("run", "--role", "worker", env=deployment.environment())

    async def ready() -> bool:
        async with httpx.AsyncClient() as http:
            return (await http.get(f"{await run.url()}/readyz")).status_code == 200

    await eventually(ready, deadline=90)
    assert len({line["lane"] for line in run.said("lane_claimed")}) == 4
