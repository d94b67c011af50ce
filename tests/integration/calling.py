"""The gateway on real Kafka and PostgreSQL; who calls is believed."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx

from consumer.control.topic import ControlTopic
from consumer.gateway.firehose import StoredFirehose
from consumer.gateway.index import StoredIndex
from consumer.gateway.known_hosts import StoredHosts
from consumer.gateway.letters import StoredLetters
from consumer.store.operations.history import Changes, History
from consumer.store.replays import StoredReplays
from procedures.calls import Calls, Ports
from procedures.gateway import Gateway, GatewayLimits, create_app
from tests.support.harness import running
from tests.support.worker import WorkerHarness
from tests.unit.procedures.gateway import ADMIN, CALLER, Trusting

__all__ = ["CALLER", "Caller", "calling"]


class Caller:
    """Calls methods by their last name."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client

    async def get(self, nsid: str, **params: Any) -> httpx.Response:
        return await self._client.get(f"/xrpc/pub.chive.{nsid}", params=params)

    async def post(self, nsid: str, **body: Any) -> httpx.Response:
        return await self._client.post(f"/xrpc/pub.chive.{nsid}", json=body)

    async def got(self, nsid: str, **params: Any) -> Any:
        """Return the output of a query."""
        answer = await self.get(nsid, **params)
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def posted(self, nsid: str, **body: Any) -> Any:
        """Return the output of a procedure."""
        answer = await self.post(nsid, **body)
        assert answer.status_code == 200, answer.text
        return answer.json()


@asynccontextmanager
async def calling(
    harness: WorkerHarness, deadline: float = 30.0, **settings: Any
) -> AsyncIterator[Caller]:
    """Serve the gateway during the block, with a little more patience than in production."""
    changes = Changes(harness.database)
    scope = harness.resources().scope
    async with (
        running(changes.run),
        ControlTopic.opened(harness.client, harness.topics) as control,
    ):
        ports = Ports(
            commands=control,
            operations=History(harness.database, changes),
            hosts=StoredHosts(harness.deployment.settings(**settings), scope, harness.database),
            index=StoredIndex(harness.database),
            firehose=StoredFirehose(harness.database),
            letters=StoredLetters(harness.client, harness.topics, kept=0.0),
        )
        calls = Calls(ports, {ADMIN})
        gateway = Gateway(
            Trusting(), calls, StoredReplays(harness.database), None, GatewayLimits(deadline)
        )
        transport = httpx.ASGITransport(create_app(gateway), client=("192.0.2.1", 1234))
        headers = {"Authorization": CALLER}
        async with httpx.AsyncClient(
            transport=transport, base_url="http://gateway", headers=headers
        ) as client:
            yield Caller(client)
