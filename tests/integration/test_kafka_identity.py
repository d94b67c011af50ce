"""Brokers that demand certificates, passwords and tokens, which change while we are connected."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from aiokafka.errors import KafkaError
from aiokafka.protocol.metadata import MetadataRequest
from pydantic import SecretStr

from consumer.config.settings import KafkaSettings
from consumer.errors import Fatal, Transient
from consumer.kafka import diagnosis
from consumer.kafka.client import Client
from consumer.kafka.connections import connected
from consumer.kafka.membership import Membership
from consumer.kafka.provision import ensure
from consumer.kafka.reader import PartitionReader, TopicPartition
from consumer.kafka.topics import Topic, Topics
from consumer.kafka.transaction import OutRecord, TransactionalProducer
from consumer.kafka.writer import Writer
from tests.support.certificates import Authority
from tests.support.eventually import eventually
from tests.support.secured_kafka import PLAIN_PASSWORD, USER, Secured, SecuredKafka, token

pytestmark = [pytest.mark.services, pytest.mark.timeout(300)]

_SSL = {"security_protocol": "SSL"}
_SHORT = {"listener.name.proxied.connections.max.reauth.ms": "2000"}


@pytest.fixture
async def broker(secured_kafka: Secured) -> AsyncIterator[SecuredKafka]:
    """Start a broker that ends sessions after two seconds; clouds do after minutes."""
    async with secured_kafka(**_SHORT) as broker:
        yield broker


def client(broker: SecuredKafka, **settings: Any) -> Client:
    return Client(KafkaSettings(**{**broker.tls(), "request_timeout": 10.0, **settings}))


async def refused(client: Client, why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Prove that the client is refused by name, and that it gives up when that lasts."""
    monkeypatch.setattr(diagnosis, "_REFUSED_SECONDS", 60.0)
    with pytest.raises(Transient, match=why):
        await client.cluster_id()
    monkeypatch.setattr(diagnosis, "_REFUSED_SECONDS", 0.0)
    with pytest.raises(Fatal, match=rf"{why}.*docs/secrets\.md"):
        await client.cluster_id()


async def test_mutual_tls(
    secured_kafka: Secured, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with secured_kafka("SSL") as broker:
        await client(broker, **_SSL).cluster_id()
        locked = broker.tls(broker.authority.issue("locked", password="of the key")) | _SSL  # noqa: S106
        password = tmp_path / "password"
        password.write_text("of the key\n")
        await client(broker, **locked, ssl_key_password_file=password).cluster_id()
        with pytest.raises(Fatal, match=r"kafka\.ssl_key_file"):
            client(broker, **locked)
        nobody = {"ssl_certificate_file": None, "ssl_key_file": None}
        forged = broker.tls(Authority(tmp_path / "forger").issue(USER)) | _SSL
        for wrong in (_SSL | nobody, forged | {"ssl_ca_file": broker.authority.certificate}):
            await refused(client(broker, **wrong), "wants another client certificate", monkeypatch)
        # A certificate that is renewed in place is shown by the next connection.
        renewed = Authority(tmp_path / "forger").issue("renewed")
        told = client(broker, **broker.tls(renewed) | _SSL)
        monkeypatch.setattr(diagnosis, "_REFUSED_SECONDS", 60.0)
        with pytest.raises(Transient, match="wants another client certificate"):
            await told.cluster_id()
        right = broker.authority.issue("renewed")
        renewed.key.write_bytes(right.key.read_bytes())
        with pytest.raises(Transient, match=r"kafka\.ssl_certificate_file"):
            await told.cluster_id()  # the key is there, its certificate is not
        renewed.certificate.write_bytes(right.certificate.read_bytes())
        await told.cluster_id()


async def test_passwords(
    broker: SecuredKafka, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "password"
    file.write_text(PLAIN_PASSWORD + "\n")
    plain = {"sasl_username": USER, "sasl_password_file": file}
    told = client(broker, **plain)
    await told.cluster_id()
    file.write_text("wrong")
    await refused(told, f"refuses user or password of '{USER}'", monkeypatch)
    file.unlink()
    with pytest.raises(Transient, match=r"^kafka\.sasl_password_file: no such file"):
        await told.cluster_id()
    file.write_text(PLAIN_PASSWORD)
    await told.cluster_id()


async def session_ends(broker: SecuredKafka, identity: dict[str, Any]) -> None:
    """Wait until the broker ends a session that begins now, and so all that began before."""
    told = client(broker, **identity)
    host, _, port = broker.servers.rpartition(":")
    connection = await connected(host, int(port), **told._credentials.at_start())

    async def over() -> bool:
        try:
            await connection.send(MetadataRequest([]))
        except KafkaError:
            return True
        return False

    await eventually(over, deadline=60)
    connection.close()


class Traffic:
    """A writer and a reader that stay, and are asked whether they still work."""

    def __init__(self, topic: str, writer: Writer, reader: PartitionReader) -> None:
        self._topic, self._writer, self._reader = topic, writer, reader
        self._written = 0

    async def one_more(self) -> None:
        """Write a record and read it back, with the objects from before."""
        self._written += 1
        value = str(self._written).encode()

        async def written() -> bool:
            try:
                await self._writer.write(OutRecord(self._topic, 0, b"key", value))
            except Transient:
                return False
            return True

        await eventually(written, deadline=60)

        async def read() -> bool:
            page = await self._reader.fetch(wait=1.0)
            return any(record.value == value for record in page)

        await eventually(read, deadline=60)


@asynccontextmanager
async def traffic(client: Client) -> AsyncIterator[Traffic]:
    """Make the topics, and keep a writer and a reader open during the block."""
    topics = Topics.of(client.settings)
    await ensure(client, topics)
    place = TopicPartition(topics.name(Topic.CONTROL), 0)
    async with (
        await Writer.open(client) as writer,
        await PartitionReader.open(client, {place: None}) as reader,
    ):
        yield Traffic(place.topic, writer, reader)


async def test_a_password_that_is_changed_reaches_connections_that_are_made_again(
    broker: SecuredKafka, tmp_path: Path
) -> None:
    await broker.set_scram("first")
    file = tmp_path / "password"
    file.write_text("first")
    scram = {"sasl_mechanism": "SCRAM-SHA-512", "sasl_username": USER}
    async with traffic(client(broker, **scram, sasl_password_file=file)) as work:
        await work.one_more()
        await broker.set_scram("second")
        old = client(broker, **scram, sasl_password=SecretStr("first"))

        async def is_refused() -> bool:
            try:
                await old.cluster_id()
            except Transient as error:
                return "refuses user or password" in str(error)
            return False

        await eventually(is_refused, deadline=60)
        file.write_text("second")
        await session_ends(broker, scram | {"sasl_password": SecretStr("second")})
        await work.one_more()


async def test_tokens_that_expire(
    broker: SecuredKafka, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = {"sasl_username": USER, "sasl_password": SecretStr(PLAIN_PASSWORD)}
    file = tmp_path / "token"
    file.write_text(token() + "\n")
    told = client(broker, sasl_mechanism="OAUTHBEARER", sasl_token_file=file)
    async with traffic(told) as work:
        await work.one_more()
        file.write_text(token(-60.0))
        await session_ends(broker, plain)
        await refused(told, r"refuses the token: correct kafka\.sasl_token_file", monkeypatch)
        file.write_text(token())
        await told.cluster_id()
        await work.one_more()
    extended = {"sasl_extensions": ("traceId=1",), "sasl_token_command": f"cat '{file}'"}
    await client(broker, sasl_mechanism="OAUTHBEARER", **extended).cluster_id()
    failing = {"sasl_token_command": "sh -c 'echo no login >&2; exit 4'"}
    with pytest.raises(Transient, match=r"kafka\.sasl_token_command: .* status 4 .* no login"):
        await client(broker, sasl_mechanism="OAUTHBEARER", **failing).cluster_id()


async def test_tokens_of_msk_are_handed_over(
    broker: SecuredKafka, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def generate(region: str) -> tuple[str, int]:
        asked.append(region)
        return token(), 0

    provider = ModuleType("aws_msk_iam_sasl_signer")
    vars(provider)["MSKAuthTokenProvider"] = SimpleNamespace(generate_auth_token=generate)
    monkeypatch.setitem(sys.modules, provider.__name__, provider)
    msk = {"sasl_mechanism": "AWS_MSK_IAM", "aws_region": "eu-central-1"}
    async with traffic(client(broker, **msk)) as work:
        await work.one_more()
    assert asked == ["eu-central-1"]

    def fail(region: str) -> tuple[str, int]:
        raise ValueError(f"no credentials in {region}")

    vars(provider)["MSKAuthTokenProvider"] = SimpleNamespace(generate_auth_token=fail)
    with pytest.raises(Transient, match=r"no token for AWS_MSK_IAM .*no credentials in eu-cent"):
        await client(broker, **msk).cluster_id()


async def test_missing_rights_end_the_process_and_are_named(secured_kafka: Secured) -> None:
    rules = {
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "super.users": "User:ANONYMOUS",  # the broker itself
    }
    plain = {"sasl_username": USER, "sasl_password": SecretStr(PLAIN_PASSWORD)}
    async with secured_kafka(**rules) as broker:
        stranger = client(broker, **plain)
        needed = r"AuthorizationFailed.*consumer topics --as acls"
        with pytest.raises(Fatal, match=needed):
            await TransactionalProducer.open(stranger, "tailer")
        membership = await Membership.open(stranger, "chive.firehose", "worker")
        with pytest.raises(Fatal, match=needed):
            await asyncio.wait_for(membership.changed(frozenset()), 60)
        await membership.close()
