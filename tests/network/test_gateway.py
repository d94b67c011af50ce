"""The gateway with real clients: tokens of a real PDS, and calls that a PDS passes on."""

from __future__ import annotations

import asyncio
import secrets
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from random import Random
from urllib.parse import quote

import httpx
import pytest

from demo.author import Author
from demo.local_network import LocalNetwork
from demo.observe import observing
from procedures.contract import (
    GET_BACKFILL_STATUS,
    GET_FIREHOSE_STATUS,
    INDEX_RECORD,
    LIST_DLQ_ENTRIES,
    REFRESH_RECORD,
    REGISTER_PDS,
    TRIGGER_DID_SYNC,
)
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


@dataclass
class Site:
    """A deployment that runs, with a gateway for an administrator and a user."""

    admin: Person
    user: Person
    did: str
    port: int
    pds: str
    environment: dict[str, str]
    client: httpx.AsyncClient

    async def call(
        self, method: str, body: dict[str, str], token: str | None = None, *, at: int | None = None
    ) -> httpx.Response:
        """Call a procedure of the gateway, or of the one on port ``at``."""
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        url = f"http://127.0.0.1:{at or self.port}/xrpc/{method}"
        return await self.client.post(url, json=body, headers=headers)

    async def admins_token(self, method: str) -> str:
        return await self.admin.token(self.did, method)

    async def completed(self, identifier: str) -> None:
        """Poll the operation, as a page does: with one token."""
        token = await self.admins_token(GET_BACKFILL_STATUS)

        async def look() -> bool:
            found = await self.client.get(
                f"http://127.0.0.1:{self.port}/xrpc/{GET_BACKFILL_STATUS}",
                params={"id": identifier},
                headers={"Authorization": f"Bearer {token}"},
            )
            return found.is_success and found.json()["operation"]["status"] == "completed"

        await eventually(look, what="the sync completes", deadline=50, every=0.3)


@pytest.fixture
async def site(
    pds_network: LocalNetwork, deployment: Deployment, consumer: Start
) -> AsyncIterator[Site]:
    """Run everything in one process, and wait until it has read what there is."""
    port = free_port()
    did = f"did:web:{quote(f'localhost:{port}')}"
    environment = deployment.environment() | pds_network.endpoints.environment()
    name = secrets.token_hex(4)
    async with people(pds_network, f"admin{name}", f"user{name}") as (admin, user):
        environment |= {
            "CHIVE_GATEWAY__BIND": f"127.0.0.1:{port}",
            "CHIVE_GATEWAY__SERVICE_DID": did,
            "CHIVE_GATEWAY__ADMINS": admin.author.did,
        }
        process = await consumer("run", env=environment)
        await process.saying("server_listening", server="gateway", deadline=90)
        await process.saying("relay_connected", deadline=90)
        async with (
            httpx.AsyncClient(timeout=60, trust_env=False) as client,
            observing(pds_network, deployment.settings()) as observer,
        ):
            left = await observer.caught_up(240)  # the PDS remembers the accounts of other tests
            assert left.nothing, str(left)
            yield Site(admin, user, did, port, pds_network.endpoints.pds, environment, client)
        assert await process.stopped() == 0


@pytest.mark.timeout(600)
async def test_both_procedures_with_tokens_of_a_real_pds(site: Site) -> None:
    admin, user, did = site.admin, site.user, site.did
    paper = user.author.written[0]

    # A record's owner refreshes it, by way of the PDS and directly.
    for entry in ("#chive", "#chive_appview"):
        answer = await user.proxied(did + entry, REFRESH_RECORD, {"uri": paper.uri})
        assert answer.status_code == 200, answer.text
        assert answer.json() == {"uri": paper.uri, "refreshed": True, "newCid": paper.cid}
    token = await user.token(did, REFRESH_RECORD)
    answer = await site.call(REFRESH_RECORD, {"uri": paper.uri}, token)
    assert answer.json()["newCid"] == paper.cid
    again = await site.call(REFRESH_RECORD, {"uri": paper.uri}, token)
    assert (again.status_code, again.json()) == (200, answer.json())
    missing = {"uri": paper.uri + "x"}
    answer = await site.call(REFRESH_RECORD, missing, await user.token(did, REFRESH_RECORD))
    assert (answer.status_code, answer.json()["error"]) == (404, "NotFound")

    # What was just written is indexed at once: for its owner, and for an administrator.
    await user.author._create(None)
    written = user.author.written[-1]
    indexed = {"uri": written.uri, "indexed": True, "cid": written.cid}
    answer = await user.proxied(f"{did}#chive_appview", INDEX_RECORD, {"uri": written.uri})
    assert (answer.status_code, answer.json()) == (200, indexed), answer.text
    token = await site.admins_token(INDEX_RECORD)
    answer = await site.call(INDEX_RECORD, {"uri": written.uri}, token)
    assert (answer.status_code, answer.json()) == (200, indexed)
    others = {"uri": admin.author.written[0].uri}
    answer = await site.call(INDEX_RECORD, others, await user.token(did, INDEX_RECORD))
    assert (answer.status_code, answer.json()["error"]) == (403, "AdminRequired")

    # At a login the client registers the user's PDS, and at the next one again.
    pds = {"pdsUrl": site.pds}
    for status in ({"pending", "scanned", "already_exists"}, {"already_exists"}):
        answer = await user.proxied(f"{did}#chive_appview", REGISTER_PDS, pds)
        assert answer.status_code == 200, answer.text
        assert answer.json()["registered"]
        assert answer.json()["status"] in status
    answer = await site.call(REGISTER_PDS, pds)
    assert (answer.status_code, answer.json()["error"]) == (401, "AuthenticationRequired")

    # Administrators are told how far the firehose is, and what was refused.
    for method, names in (
        (GET_FIREHOSE_STATUS, {"cursor", "connected", "dlqCount", "timestamp"}),
        (LIST_DLQ_ENTRIES, {"entries", "total"}),
    ):
        for person, expected in ((admin, 200), (user, 403)):
            found = await site.client.get(
                f"http://127.0.0.1:{site.port}/xrpc/{method}",
                headers={"Authorization": f"Bearer {await person.token(did, method)}"},
            )
            assert found.status_code == expected, found.text
            assert expected == 403 or found.json().keys() >= names

    # Only an administrator may sync a DID.
    body = {"did": user.author.did}
    unsigned = await site.call(TRIGGER_DID_SYNC, body)
    assert unsigned.status_code == 401
    assert unsigned.json()["error"] == "AuthenticationRequired"
    answer = await site.call(TRIGGER_DID_SYNC, body, await user.token(did, TRIGGER_DID_SYNC))
    assert (answer.status_code, answer.json()["error"]) == (403, "AdminRequired")
    wrong = await site.call(TRIGGER_DID_SYNC, body, await admin.token(did, REFRESH_RECORD))
    assert wrong.status_code == 401
    bad = await site.call(TRIGGER_DID_SYNC, {"did": "x"}, await site.admins_token(TRIGGER_DID_SYNC))
    assert (bad.status_code, bad.json()["error"]) == (400, "InvalidRequest")
    answer = await site.call(TRIGGER_DID_SYNC, body, await site.admins_token(TRIGGER_DID_SYNC))
    assert answer.status_code == 200, answer.text
    await site.completed(answer.json()["operationId"])
    for path in ("/livez", "/readyz", "/metrics", "/.well-known/did.json"):
        found = await site.client.get(f"http://127.0.0.1:{site.port}{path}")
        assert found.status_code == 200


@pytest.mark.timeout(600)
async def test_the_same_call_at_two_gateways_is_one_operation(site: Site, consumer: Start) -> None:
    port = free_port()
    environment = site.environment | {"CHIVE_GATEWAY__BIND": f"127.0.0.1:{port}"}
    beside = await consumer("run", "--role", "gateway", env=environment)
    await beside.saying("server_listening", server="gateway", deadline=90)
    body, token = {"did": site.user.author.did}, await site.admins_token(TRIGGER_DID_SYNC)
    answers = await asyncio.gather(
        *(site.call(TRIGGER_DID_SYNC, body, token, at=at) for at in (site.port, port) * 4)
    )
    answers.append(await site.call(TRIGGER_DID_SYNC, body, token, at=port))
    assert {answer.status_code for answer in answers} == {200}, answers
    (identifier,) = {answer.json()["operationId"] for answer in answers}
    # Its client keeps a token by method: another DID comes with the same one.
    other = {"did": site.admin.author.did}
    answer = await site.call(TRIGGER_DID_SYNC, other, token, at=port)
    await site.completed(identifier)
    await site.completed(answer.json()["operationId"])
    assert answer.json()["operationId"] != identifier
    assert await beside.stopped() == 0
