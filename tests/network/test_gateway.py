"""The gateway with real clients: tokens of a real PDS, and calls that a PDS passes on."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from random import Random
from urllib.parse import quote

import httpx
import pytest

from demo.author import Author
from demo.local_network import LocalNetwork
from demo.observe import observing
from procedures.contract import GET_BACKFILL_STATUS, REFRESH_RECORD, TRIGGER_DID_SYNC
from tests.support.consumer import Start
from tests.support.deployment import Deployment
from tests.support.eventually import eventually


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Person:
    """An author who calls services."""

    def __init__(self, author: Author, pds: str, client: httpx.AsyncClient) -> None:
        self.author = author
        self._pds = f"{pds}/xrpc"
        self._session = {"Authorization": author._xrpc.authorization or ""}
        self._client = client

    async def token(self, audience: str, method: str) -> str:
        """Return a service-auth token that the PDS has signed."""
        answer = await self._client.get(
            f"{self._pds}/com.atproto.server.getServiceAuth",
            params={"aud": audience, "lxm": method},
            headers=self._session,
        )
        assert answer.status_code == 200, answer.text
        return str(answer.json()["token"])

    async def proxied(self, service: str, method: str, body: dict[str, str]) -> httpx.Response:
        """Call a method of ``service`` by way of the PDS."""
        return await self._client.post(
            f"{self._pds}/{method}", json=body, headers={**self._session, "atproto-proxy": service}
        )


@asynccontextmanager
async def people(network: LocalNetwork, *names: str) -> AsyncIterator[list[Person]]:
    endpoints, found = network.endpoints, []
    async with httpx.AsyncClient(timeout=60, trust_env=False) as client:
        try:
            for number, name in enumerate(names):
                author = await Author.sign_up(endpoints, f"{name}.test", Random(number))
                await author._create(None)
                found.append(Person(author, endpoints.pds, client))
            yield found
        finally:
            for person in found:
                await person.author.close()


@pytest.mark.timeout(600)
async def test_both_procedures_with_tokens_of_a_real_pds(
    pds_network: LocalNetwork, deployment: Deployment, consumer: Start
) -> None:
    port = free_port()
    did, origin = f"did:web:{quote(f'localhost:{port}')}", f"http://127.0.0.1:{port}/xrpc"
    environment = deployment.environment() | pds_network.endpoints.environment()
    async with people(pds_network, "gateadmin", "gateuser") as (admin, user):
        environment |= {
            "CHIVE_GATEWAY__BIND": f"127.0.0.1:{port}",
            "CHIVE_GATEWAY__SERVICE_DID": did,
            "CHIVE_GATEWAY__ADMINS": admin.author.did,
        }
        process = await consumer("run", env=environment)
        await process.saying("server_listening", server="gateway", deadline=90)
        await process.saying("relay_connected", deadline=90)
        paper = user.author.written[0]
        async with (
            httpx.AsyncClient(timeout=60, trust_env=False) as client,
            observing(pds_network, deployment.settings()) as observer,
        ):
            left = await observer.caught_up(240)  # the PDS remembers the accounts of other tests
            assert left.nothing, str(left)

            async def call(
                method: str, body: dict[str, str], token: str | None = None
            ) -> httpx.Response:
                headers = {"Authorization": f"Bearer {token}"} if token else {}
                return await client.post(f"{origin}/{method}", json=body, headers=headers)

            # A record's owner refreshes it, by way of the PDS and directly.
            answer = await user.proxied(f"{did}#chive", REFRESH_RECORD, {"uri": paper.uri})
            assert answer.status_code == 200, answer.text
            assert answer.json() == {"uri": paper.uri, "refreshed": True, "newCid": paper.cid}
            token = await user.token(did, REFRESH_RECORD)
            answer = await call(REFRESH_RECORD, {"uri": paper.uri}, token)
            assert answer.json()["newCid"] == paper.cid
            again = await call(REFRESH_RECORD, {"uri": paper.uri}, token)
            assert (again.status_code, again.json()) == (200, answer.json())
            missing = {"uri": paper.uri + "x"}
            answer = await call(REFRESH_RECORD, missing, await user.token(did, REFRESH_RECORD))
            assert (answer.status_code, answer.json()["error"]) == (404, "NotFound")

            # Only an administrator may sync a DID.
            body = {"did": user.author.did}
            unsigned = await call(TRIGGER_DID_SYNC, body)
            assert unsigned.status_code == 401
            assert unsigned.json()["error"] == "AuthenticationRequired"
            answer = await call(TRIGGER_DID_SYNC, body, await user.token(did, TRIGGER_DID_SYNC))
            assert (answer.status_code, answer.json()["error"]) == (403, "AdminRequired")
            wrong = await call(TRIGGER_DID_SYNC, body, await admin.token(did, REFRESH_RECORD))
            assert wrong.status_code == 401
            bad = await call(
                TRIGGER_DID_SYNC, {"did": "x"}, await admin.token(did, TRIGGER_DID_SYNC)
            )
            assert (bad.status_code, bad.json()["error"]) == (400, "InvalidRequest")
            answer = await call(TRIGGER_DID_SYNC, body, await admin.token(did, TRIGGER_DID_SYNC))
            assert answer.status_code == 200, answer.text
            identifier = answer.json()["operationId"]

            async def status() -> str:
                token = await admin.token(did, GET_BACKFILL_STATUS)
                found = await client.get(
                    f"{origin}/{GET_BACKFILL_STATUS}",
                    params={"id": identifier},
                    headers={"Authorization": f"Bearer {token}"},
                )
                return str(found.json()["operation"]["status"]) if found.is_success else ""

            async def completed() -> bool:
                return await status() == "completed"

            await eventually(completed, what="the sync completes", deadline=60, every=0.3)
            for path in ("/livez", "/readyz", "/metrics", "/.well-known/did.json"):
                assert (await client.get(f"http://127.0.0.1:{port}{path}")).status_code == 200
        assert await process.stopped() == 0
