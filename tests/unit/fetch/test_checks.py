"""Asking for a latest commit: a scripted directory and two scripted hosts on loopback."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

import pytest

from consumer.config.settings import IdentitySettings
from consumer.fetch.checks import Checker
from consumer.fetch.hosts import HostPolicy, Hosts
from consumer.fetch.http import HttpClient
from consumer.fetch.identity import Directory
from consumer.fetch.pace import Pace
from consumer.state.sweep import Told
from procedures.failures import Failure
from procedures.retries import DEFAULT
from simulator.repo import tid
from tests.support.web import Reply, Web, response, web
from tests.unit.fetch.test_documents import DID, document, service

PATH = f"/xrpc/com.atproto.sync.getLatestCommit?{urlencode({'did': DID})}"
REV = tid(1_735_689_600.0)


@dataclass
class Network:
    """The document of the account names ``today``; ``known`` is where it was."""

    plc: Web
    known: Web
    today: Web
    checker: Checker

    async def ask(self, *, anew: bool = False) -> Told:
        return await self.checker.ask(DID, self.known.origin, anew=anew)

    def lives_at(self, site: Web) -> None:
        self.plc.replies[f"/{DID}"] = response(200, document(service=[service(site.origin)]))


def answer(status: int, body: Any) -> Reply:
    return response(status, json.dumps(body).encode())


@pytest.fixture
async def network() -> AsyncIterator[Network]:
    async with (
        web() as plc,
        web() as known,
        web() as today,
        HttpClient(allow_loopback=True) as http,
    ):
        hosts = Hosts(HostPolicy(4, DEFAULT.host, queue=True), {}, DEFAULT)
        settings = IdentitySettings(plc_url=plc.origin, timeout=2.0)
        directory = Directory(settings, http, hosts, allow_loopback=True)
        checker = Checker(directory, http, hosts, Pace(0.05), seconds=2.0, rev_ahead=300.0)
        network = Network(plc, known, today, checker)
        network.lives_at(known)
        yield network


async def test_the_known_host_is_asked_and_nobody_else(network: Network) -> None:
    network.known.replies[PATH] = answer(200, {"cid": "bafy", "rev": REV})
    assert await network.ask() == Told(rev=REV)
    assert network.plc.requests == []


async def test_a_refusal_by_name_is_checked_with_the_document(network: Network) -> None:
    network.known.replies[PATH] = answer(400, {"error": "RepoDeactivated"})
    assert await network.ask() == Told(status="deactivated")
    assert network.plc.paths == [f"/{DID}"]
    assert network.known.paths == [PATH]


async def test_an_account_that_has_moved_is_asked_about_where_it_is(network: Network) -> None:
    network.known.replies[PATH] = answer(400, {"error": "RepoNotFound"})
    network.today.replies[PATH] = answer(200, {"rev": REV})
    network.lives_at(network.today)
    assert await network.ask() == Told(rev=REV, moved=True)


async def test_a_host_that_failed_before_is_looked_up_again(network: Network) -> None:
    network.today.replies[PATH] = answer(200, {"rev": REV})
    network.lives_at(network.today)
    assert await network.ask(anew=True) == Told(rev=REV, moved=True)
    assert network.known.requests == []


async def test_a_host_that_is_not_known_is_looked_up(network: Network) -> None:
    network.known.replies[PATH] = answer(200, {"rev": REV})
    assert await network.checker.ask(DID, None) == Told(rev=REV, moved=True)


@pytest.mark.parametrize("status", [404, 410])
async def test_a_did_that_the_directory_does_not_know(network: Network, status: int) -> None:
    network.known.replies[PATH] = answer(400, {"error": "RepoNotFound"})
    network.plc.replies[f"/{DID}"] = response(status)
    assert await network.ask() == Told(status="deleted", by_directory=True)


async def test_a_directory_that_is_away_leaves_the_refusal(network: Network) -> None:
    network.known.replies[PATH] = answer(400, {"error": "RepoTakendown"})
    network.plc.replies[f"/{DID}"] = response(503)
    assert await network.ask() == Told(status="takendown")


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (200, {"rev": "no tid"}),
        (200, {"rev": tid(time.time() + 3_600)}),
        (200, [REV]),
        (400, {"error": "SomethingElse"}),
        (404, "not here"),
        (501, {"error": "MethodNotImplemented"}),
        (503, {}),
    ],
)
async def test_an_answer_without_a_meaning_says_nothing(
    network: Network, status: int, body: Any
) -> None:
    network.known.replies[PATH] = answer(status, body)
    told = await network.ask()
    assert told.rev is None
    assert told.status is None
    assert told.failure is Failure.HOST_ERROR
    assert network.plc.requests == []


async def test_a_host_that_is_down(network: Network) -> None:
    told = await network.checker.ask(DID, "http://127.0.0.1:1")
    assert told.failure is Failure.HOST_UNREACHABLE
    assert told.wait > 0


async def test_a_host_says_when_to_come_again(network: Network) -> None:
    network.known.replies[PATH] = response(429, Retry_After="120")
    told = await network.ask()
    assert told.failure is Failure.RATE_LIMITED
    assert told.wait > 100
    asked = len(network.known.requests)
    assert (await network.ask()).wait > 100
    assert len(network.known.requests) == asked


async def test_a_host_is_asked_at_its_pace(network: Network) -> None:
    network.known.replies[PATH] = answer(200, {"rev": REV})
    began = time.monotonic()
    for _ in range(5):
        await network.ask()
    assert time.monotonic() - began >= 4 * 0.05


async def test_why_the_document_has_no_host_is_said(network: Network) -> None:
    endpoint = f"{network.known.origin}/xrpc"
    network.plc.replies[f"/{DID}"] = response(200, document(service=[service(endpoint)]))
    told = await network.ask(anew=True)
    assert told.failure is Failure.DID_DOCUMENT
    assert f"its PDS endpoint has a path: {endpoint}" in told.detail
