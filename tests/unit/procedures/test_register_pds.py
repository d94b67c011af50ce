"""``registerPDS``: a host becomes a source of discovery."""

from __future__ import annotations

from typing import Any

import pytest

from procedures import hosts, transitions
from procedures.client import Unavailable
from procedures.failures import Failure
from procedures.messages import Command, RegisterHost
from procedures.operations import Operation, Type, queued
from procedures.register_pds import HostState
from tests.unit.procedures.gateway import CALLER, REGISTER, Rig, error_of

URL = "https://pds.example"


def begun(command: Command) -> Operation:
    operation = queued(command.id, Type.DISCOVERY, None, 5.0, reason=command.subject)
    return transitions.start(operation, 5.0)


async def asked(rig: Rig, url: object = URL, **options: Any) -> Any:
    answer = await rig.post(REGISTER, json={"pdsUrl": url}, **options)
    assert answer.status_code == 200, answer.text
    return answer.json()


@pytest.fixture
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("procedures.calls._LISTED_WITHIN_SECONDS", 0.1)


@pytest.mark.usefixtures("_soon")
async def test_a_new_host_is_registered_by_a_command() -> None:
    rig = Rig()
    rig.broker.on_send = lambda command: rig.table.put(begun(command))
    answer = await asked(rig)
    (command,) = rig.broker.sent
    assert isinstance(command, RegisterHost)
    assert (command.host, command.requested_by) == ("pds.example", CALLER)
    message = answer.pop("message")
    assert answer == {"pdsUrl": URL, "registered": True, "status": "pending"}
    assert message == f"operation {command.id}: not finished yet (listing)"


async def test_what_is_read_at_once_is_scanned() -> None:
    rig = Rig()
    rig.broker.on_send = lambda command: rig.table.put(transitions.complete(begun(command), 6.0))
    assert await asked(rig) == {"pdsUrl": URL, "registered": True, "status": "scanned"}


async def test_a_host_that_cannot_be_read_is_not_registered() -> None:
    rig = Rig()
    rig.broker.on_send = lambda command: rig.table.put(
        transitions.fail(begun(command), 6.0, Failure.HOST_ERROR, "status 404")
    )
    answer = await asked(rig)
    assert not answer["registered"]
    assert answer["message"].endswith("HostError: status 404")


async def test_a_known_host_needs_no_command() -> None:
    rig = Rig()
    rig.hosts.states["pds.example"] = HostState.KNOWN
    answer = await asked(rig, f"{URL}/")
    assert answer == {"pdsUrl": f"{URL}/", "registered": True, "status": "already_exists"}
    assert not rig.broker.sent


@pytest.mark.parametrize("state", [HostState.FULL, HostState.OFF])
async def test_what_is_not_taken_says_so(state: HostState) -> None:
    rig = Rig()
    rig.hosts.states["pds.example"] = state
    answer = await asked(rig)
    assert not answer["registered"]
    assert answer["message"]
    assert not rig.broker.sent


@pytest.mark.parametrize(
    "url",
    [
        *("pds.example", "http://pds.example", "ftp://pds.example", "https://", "", 1, None),
        *("https://pds.example/xrpc", "https://pds.example?a", "https://pds.example#a"),
        *(
            "https://user@pds.example",
            "https://10.0.0.1",
            "https://[::1]",
            "https://169.254.169.254",
        ),
        *(
            "https://intranet",
            "https://pds.example:0",
            "https://pds.example:65536",
            "https://é.example",
        ),
        *(
            "https://pds.example:x",
            "https://pds.example\n",
            "https://localhost",
            "https://[",
            "a" * 600,
        ),
    ],
)
async def test_what_names_no_public_host_is_refused(url: object) -> None:
    rig = Rig()
    error_of(await rig.post(REGISTER, json={"pdsUrl": url}), 400, "InvalidRequest")
    assert not rig.broker.sent


async def test_this_machine_is_refused_where_it_may_not_be_reached() -> None:
    rig = Rig()
    rig.hosts.states["localhost:2583"] = HostState.FORBIDDEN
    answer = await rig.post(REGISTER, json={"pdsUrl": "http://localhost:2583"})
    assert "public" in error_of(answer, 400, "InvalidRequest")


async def test_anonymous_callers_are_refused() -> None:
    rig = Rig()
    async with rig.client() as client:
        del client.headers["Authorization"]
        answer = await client.post(REGISTER, json={"pdsUrl": URL})
    error_of(answer, 401, "AuthenticationRequired")


async def test_one_account_registers_a_few_hosts() -> None:
    rig = Rig()
    rig.broker.on_send = lambda command: rig.table.put(transitions.complete(begun(command), 6.0))
    for number in range(10):
        await asked(rig, f"https://pds{number}.example")
    answer = await rig.post(REGISTER, json={"pdsUrl": URL})
    error_of(answer, 429, "RateLimitExceeded")
    assert int(answer.headers["retry-after"]) > 30
    await asked(rig, URL, headers={"Authorization": "did:plc:another"})


async def test_without_tables_or_broker_it_is_unavailable() -> None:
    rig = Rig(deadline=0.1)
    rig.hosts.error = Unavailable("password=secret")
    error_of(await rig.post(REGISTER, json={"pdsUrl": URL}), 503, "ServiceUnavailable")
    rig.hosts.error, rig.broker.hangs = None, True
    error_of(await rig.post(REGISTER, json={"pdsUrl": URL}), 503, "ServiceUnavailable")


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("https://PDS.Example:443/", "pds.example"),
        ("https://pds.example:8443", "pds.example:8443"),
        ("http://127.0.0.1:2583", "127.0.0.1:2583"),
        ("http://localhost:80", "localhost"),
    ],
)
def test_the_host_of_an_url(url: str, host: str) -> None:
    assert hosts.of_origin(url) == host
    assert hosts.of_origin(hosts.origin(host)) == host
