"""A Kafka that lets nobody in without a certificate and, where asked for, SASL.

Its listener ``PROXIED`` is the one for clients; ``PLAINTEXT`` is the broker's own.
"""

from __future__ import annotations

import base64
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import pytest

from consumer.embedded.jars import cache_home
from consumer.embedded.kafka import EmbeddedKafka
from consumer.embedded.process import Server
from tests.support.certificates import Authority, Issued
from tests.support.proxy import LOOPBACK
from tests.support.services import own_directory

USER = "chive"
PLAIN_PASSWORD = "plain-secret"  # noqa: S105
_OAUTH = "org.apache.kafka.common.security.oauthbearer"
_TOOL_SECONDS = 90.0


@dataclass(slots=True)
class SecuredKafka:
    """A broker, the authority that it trusts, and the certificate of the user."""

    kafka: EmbeddedKafka
    authority: Authority
    user: Issued

    @property
    def servers(self) -> str:
        """The address for clients."""
        return f"{LOOPBACK}:{self.kafka.proxied_upstream}"

    def tls(self, user: Issued | None = None) -> dict[str, Any]:
        """Return the settings for TLS as the user, or as another one."""
        shown = user or self.user
        return {
            "bootstrap_servers": self.servers,
            "security_protocol": "SASL_SSL",
            "ssl_ca_file": self.authority.certificate,
            "ssl_certificate_file": shown.certificate,
            "ssl_key_file": shown.key,
        }

    async def set_scram(self, password: str) -> None:
        """Give the user this password for SCRAM, with Kafka's own tool."""
        config = f"SCRAM-SHA-512=[iterations=4096,password={password}]"
        await Server("kafka-configs", self.kafka.server.log.parent).run(
            self.kafka._java(
                "kafka.admin.ConfigCommand", "--bootstrap-server", self.kafka.bootstrap_servers,
                "--alter", "--add-config", config, "--entity-type", "users",
                "--entity-name", USER,
            ),
            _TOOL_SECONDS,
        )  # fmt: skip


Secured = Callable[..., AbstractAsyncContextManager[SecuredKafka]]
"""Starts a broker with further settings."""


@pytest.fixture
def secured_kafka(server_directory: Path, tmp_path: Path) -> Secured:
    """Give what starts such a broker for the length of a block."""

    @asynccontextmanager
    async def start(protocol: str = "SASL_SSL", **settings: str) -> AsyncIterator[SecuredKafka]:
        authority = Authority(tmp_path / "authority")
        store = authority.issue("broker").together()
        with own_directory(server_directory, "secured-kafka", ports=3) as directory:
            *_, port = json.loads((directory / "ports.json").read_text())
            kafka = EmbeddedKafka(
                directory,
                cache_home(),
                proxied_port=port,
                settings=_settings(protocol, store, authority) | settings,
            )
            try:
                await kafka.start()
                yield SecuredKafka(kafka, authority, authority.issue(USER))
            finally:
                await kafka.stop()

    return start


def _settings(protocol: str, store: Path, authority: Authority) -> dict[str, str]:
    listener = "listener.name.proxied"
    plain = "org.apache.kafka.common.security.plain.PlainLoginModule required"
    return {
        "listener.security.protocol.map": (
            f"PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,PROXIED:{protocol}"
        ),
        f"{listener}.ssl.client.auth": "required",
        f"{listener}.ssl.keystore.type": "PEM",
        f"{listener}.ssl.keystore.location": str(store),
        f"{listener}.ssl.truststore.type": "PEM",
        f"{listener}.ssl.truststore.location": str(authority.certificate),
        f"{listener}.sasl.enabled.mechanisms": "PLAIN,SCRAM-SHA-512,OAUTHBEARER",
        f"{listener}.plain.sasl.jaas.config": f'{plain} user_{USER}="{PLAIN_PASSWORD}";',
        f"{listener}.scram-sha-512.sasl.jaas.config": (
            "org.apache.kafka.common.security.scram.ScramLoginModule required;"
        ),
        f"{listener}.oauthbearer.sasl.jaas.config": (
            f'{_OAUTH}.OAuthBearerLoginModule required unsecuredLoginStringClaim_sub="broker";'
        ),
        f"{listener}.oauthbearer.sasl.server.callback.handler.class": (
            f"{_OAUTH}.internals.unsecured.OAuthBearerUnsecuredValidatorCallbackHandler"
        ),
    }


def token(seconds: float = 3_600.0) -> str:
    """Return an unsigned JWT of the user that expires in ``seconds``, as the broker takes them."""
    now = time.time()
    claims = {"sub": USER, "iat": now, "exp": now + seconds}
    parts = (orjson.dumps(part) for part in ({"alg": "none"}, claims))
    return ".".join(base64.urlsafe_b64encode(part).decode().rstrip("=") for part in parts) + "."
