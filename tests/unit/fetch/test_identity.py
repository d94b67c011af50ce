"""Resolving against a scripted directory and scripted domains on loopback."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest

from consumer.config.settings import IdentitySettings
from consumer.errors import Reason, Refused
from consumer.fetch.account import Accounts, status_of
from consumer.fetch.hosts import HostPolicy, Hosts, HostUnavailable
from consumer.fetch.http import HttpClient, HttpResponse
from consumer.fetch.identity import Directory, Inconclusive, Tombstoned
from procedures.retries import DEFAULT
from tests.support.web import Web, redirect, response, web
from tests.unit.fetch.test_documents import DID, K256, document, method, service

STATUS = f"/xrpc/com.atproto.sync.getRepoStatus?did={DID.replace(':', '%3A')}"


@dataclass
class ScriptedNetwork:
    """A directory and a host that answer what the test says, and what resolves by them."""

    plc: Web
    pds: Web
    directory: Directory
    accounts: Accounts


@pytest.fixture
async def network() -> AsyncIterator[ScriptedNetwork]:
    async with web() as plc, web() as pds, HttpClient(allow_loopback=True) as http:
        settings = IdentitySettings(plc_url=plc.origin, document_limit=4096, timeout=2.0)
        hosts = Hosts(HostPolicy(4, DEFAULT.host), {}, DEFAULT)
        directory = Directory(settings, http, hosts, allow_loopback=True)
        accounts = Accounts(directory, http, hosts, seconds=2.0)
        plc.replies[f"/{DID}"] = response(200, document(service=[service(pds.origin)]))
        yield ScriptedNetwork(plc, pds, directory, accounts)


async def test_a_did_in_the_directory(network: ScriptedNetwork) -> None:
    found = await network.directory.document(DID)
    assert (found.signing_key, found.pds) == (f"did:key:{K256}", network.pds.origin)


async def test_a_did_of_a_domain(network: ScriptedNetwork) -> None:
    did = f"did:web:localhost%3A{network.pds.port}"
    key = method() | {"id": "#atproto"}
    body = document(id=did, verificationMethod=[key])
    network.pds.replies["/.well-known/did.json"] = response(200, body)
    assert (await network.directory.document(did)).pds == "https://pds.example"


@pytest.mark.parametrize(("status", "kind"), [(404, Refused), (410, Tombstoned)])
async def test_a_did_that_is_not_there(
    network: ScriptedNetwork, status: int, kind: type[Refused]
) -> None:
    network.plc.replies[f"/{DID}"] = response(status)
    with pytest.raises(Refused) as caught:
        await network.directory.document(DID)
    assert type(caught.value) is kind
    assert caught.value.reason == Reason.DID_NOT_FOUND


async def test_only_the_directory_gives_tombstones(network: ScriptedNetwork) -> None:
    did = f"did:web:localhost%3A{network.pds.port}"
    network.pds.replies["/.well-known/did.json"] = response(410)
    with pytest.raises(Refused) as caught:
        await network.directory.document(did)
    assert type(caught.value) is Refused


async def test_a_document_of_another_account(network: ScriptedNetwork) -> None:
    network.plc.replies[f"/{DID}"] = response(200, document(id="did:plc:" + "a" * 24))
    with pytest.raises(Refused) as caught:
        await network.directory.document(DID)
    assert caught.value.reason == Reason.DID_INVALID


@pytest.mark.parametrize("status", [400, 401, 403, 418])
async def test_other_statuses_settle_nothing(network: ScriptedNetwork, status: int) -> None:
    network.plc.replies[f"/{DID}"] = response(status)
    with pytest.raises(Inconclusive):
        await network.directory.document(DID)


async def test_a_failure_opens_the_circuit_of_the_directory(network: ScriptedNetwork) -> None:
    network.plc.replies[f"/{DID}"] = response(503, retry_after="30")
    with pytest.raises(HostUnavailable) as caught:
        await network.directory.document(DID)
    assert caught.value.seconds == pytest.approx(30, abs=1)
    network.plc.replies.clear()
    with pytest.raises(HostUnavailable):
        await network.directory.document("did:plc:" + "b" * 24)
    assert len(network.plc.requests) == 1


@pytest.mark.parametrize("body", [b"x" * 5000, b""])
async def test_what_breaks_our_rules_is_not_the_fault_of_a_did_in_the_directory(
    network: ScriptedNetwork, body: bytes
) -> None:
    reply = response(200, body) if body else redirect("http://169.254.169.254/")
    network.plc.replies[f"/{DID}"] = reply
    with pytest.raises(HostUnavailable):
        await network.directory.document(DID)


async def test_what_breaks_our_rules_is_the_fault_of_a_domain(network: ScriptedNetwork) -> None:
    did = f"did:web:localhost%3A{network.pds.port}"
    network.pds.replies["/.well-known/did.json"] = redirect("http://169.254.169.254/")
    with pytest.raises(Refused) as caught:
        await network.directory.document(did)
    assert caught.value.reason == Reason.FETCH_FORBIDDEN


# -- accounts ---------------------------------------------------------------------------------


def says(status: int, **fields: Any) -> bytes:
    return response(status, json.dumps(fields).encode())


async def test_the_pds_of_today_is_asked(network: ScriptedNetwork) -> None:
    network.pds.replies[STATUS] = says(200, did=DID, active=True, rev="3lbcdefghijkl")
    stated = await network.accounts.ask(DID)
    assert (stated.status, stated.source, stated.name) == ("active", "host", None)
    assert stated.host == network.pds.origin.removeprefix("http://")
    assert network.pds.paths == [STATUS]


async def test_the_pds_of_today_does_not_know_the_account(network: ScriptedNetwork) -> None:
    network.pds.replies[STATUS] = says(400, error="RepoNotFound", message="Could not find repo")
    stated = await network.accounts.ask(DID)
    assert (stated.status, stated.source, stated.name) == ("deleted", "host", "RepoNotFound")


async def test_a_tombstoned_did_is_a_deleted_account(network: ScriptedNetwork) -> None:
    network.plc.replies[f"/{DID}"] = response(410)
    stated = await network.accounts.ask(DID)
    assert (stated.status, stated.source, stated.host) == ("deleted", "directory", None)
    assert network.pds.requests == []


async def test_an_unknown_did_proves_nothing(network: ScriptedNetwork) -> None:
    network.plc.replies[f"/{DID}"] = response(404)
    with pytest.raises(Refused):
        await network.accounts.ask(DID)


async def test_without_a_pds_the_answer_is_inconclusive(network: ScriptedNetwork) -> None:
    network.plc.replies[f"/{DID}"] = response(200, document(service=[]))
    with pytest.raises(Inconclusive, match="it names no PDS"):
        await network.accounts.ask(DID)


async def test_why_the_pds_cannot_be_used_is_said(network: ScriptedNetwork) -> None:
    endpoint = f"{network.pds.origin}/xrpc"
    network.plc.replies[f"/{DID}"] = response(200, document(service=[service(endpoint)]))
    with pytest.raises(Inconclusive, match=f"its PDS endpoint has a path: {endpoint}"):
        await network.accounts.ask(DID)
    assert network.pds.requests == []


async def test_a_pds_that_is_down_proves_nothing(network: ScriptedNetwork) -> None:
    network.pds.replies[STATUS] = response(502)
    with pytest.raises(HostUnavailable):
        await network.accounts.ask(DID)


@pytest.mark.parametrize(
    ("status", "fields", "expected"),
    [
        (200, {"did": DID, "active": True}, "active"),
        (200, {"did": DID, "active": True, "status": "deleted"}, "active"),
        (200, {"did": DID, "active": False, "status": "deleted"}, "deleted"),
        (200, {"did": DID, "active": False, "status": "takendown"}, "takendown"),
        (200, {"did": DID, "active": False, "status": "desynchronized"}, "desynchronized"),
        (200, {"did": DID, "active": False}, "inactive"),
        (200, {"did": DID, "active": False, "status": "active"}, "inactive"),
        (200, {"did": DID, "active": False, "status": 7}, "inactive"),
        (200, {"did": DID, "active": False, "status": "x" * 1000}, "inactive"),
        (404, {"error": "RepoNotFound"}, "deleted"),
        (400, {"error": "RepoTakendown"}, "takendown"),
        (400, {"error": "RepoDeactivated"}, "deactivated"),
        (400, {"error": "RepoSuspended"}, "suspended"),
        (400, {"error": "NotFound", "message": "Repo not found"}, "deleted"),
        (400, {"error": "InvalidRequest", "message": f"Could not find repo: {DID}"}, "deleted"),
    ],
)
def test_what_answers_mean(status: int, fields: dict[str, Any], expected: str) -> None:
    found, name = status_of(DID, HttpResponse(status, json.dumps(fields).encode()), STATUS)
    assert (found, name) == (expected, fields.get("error"))


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (200, b""),
        (200, b"<html>"),
        (200, b"[]"),
        (200, b'{"active":false,"status":"deleted"}'),
        (200, b'{"did":"did:plc:other","active":false,"status":"deleted"}'),
        (200, b'{"error":"RepoNotFound"}'),
        (400, b'{"error":"InvalidRequest"}'),
        (401, b'{"error":"AuthMissing"}'),
        (403, b'{"error":"RepoNotFound"}'),
        (404, b"Not Found"),
        (501, b'{"error":"MethodNotImplemented"}'),
    ],
)
def test_answers_that_settle_nothing(status: int, body: bytes) -> None:
    with pytest.raises(Inconclusive):
        status_of(DID, HttpResponse(status, body), STATUS)
