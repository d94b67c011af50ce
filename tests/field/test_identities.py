"""Servers that demand certificates, tokens and passwords, and end sessions: nothing is lost."""

from __future__ import annotations

import asyncio
import shlex
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from consumer.cli.check import check
from consumer.config.settings import KafkaSettings, PostgresSettings
from tests.field.network import Network
from tests.field.product import Product
from tests.support.deployment import Deployment
from tests.support.secured_kafka import Secured, SecuredKafka, token
from tests.support.tls_postgres import Certified

pytestmark = [pytest.mark.services, pytest.mark.timeout(600)]

SESSION = 5.0  # seconds, after which the broker ends each connection


@dataclass(frozen=True)
class Guarded(Deployment):
    """A deployment on servers that want to know who it is; ``tokens`` is a file with a token."""

    broker: SecuredKafka
    tokens: Path

    def kafka(self, **values: Any) -> KafkaSettings:
        """Return settings with a certificate and a command that prints tokens."""
        command = shlex.join(["cat", str(self.tokens)])
        shown = {"sasl_mechanism": "OAUTHBEARER", "sasl_token_command": command}
        return super().kafka(**{**self.broker.tls(), **shown, **values})

    def postgres(self, **values: Any) -> PostgresSettings:
        """Return settings whose connection string shows a certificate."""
        return PostgresSettings(dsn=SecretStr(self.dsn), **values)


@pytest.fixture
async def product(
    secured_kafka: Secured, certified: Certified, network: Network, tmp_path: Path
) -> AsyncIterator[Product]:
    limit = {"listener.name.proxied.connections.max.reauth.ms": str(round(SESSION * 1000))}
    tokens = tmp_path / "token"
    tokens.write_text(token())
    dsn = certified.shown(certified.authority.issue("chive"))
    async with secured_kafka(**limit) as broker:
        guarded = Guarded(broker.servers, "guarded.", dsn, tmp_path / "data", broker, tokens)
        async with Product.opened(guarded, network=network) as product, product.running():
            yield product


async def test_the_whole_consumer_goes_on_while_sessions_end(
    product: Product, network: Network
) -> None:
    repos = [(await network.account(f"guarded {n}"))[1] for n in range(4)]
    loop = asyncio.get_running_loop()
    end = loop.time() + 4 * SESSION
    while loop.time() < end:
        for repo in repos:
            await network.commit(repo)
        await asyncio.sleep(0.2)
    await product.agrees(*repos)
    done = await product.done(type="didSync", did=repos[0].account.did)
    assert done["status"] == "completed"
    answers = await check(product.settings)
    assert answers["kafka"].ok, answers["kafka"]
    assert answers["postgres"].ok, answers["postgres"]
