"""What the gateway refuses: bodies, paths, hosts, rates; and what it says then."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from procedures import transitions
from procedures.rate_limits import Rate
from tests.unit.procedures.gateway import REFRESH, STATUS, TRIGGER, Rig, error_of, running
from tests.unit.procedures.strategies import DID, URI

# what is wrong with a request


async def _chunks(size: int, count: int, sent: list[int]) -> AsyncIterator[bytes]:
    for _ in range(count):
        sent.append(size)
        yield b" " * size


async def test_a_large_body_is_refused_while_it_streams() -> None:
    sent: list[int] = []
    response = await Rig().post(
        TRIGGER,
        content=_chunks(10_000, 1_000, sent),
        headers={"Content-Type": "application/json"},
    )
    error_of(response, 413, "PayloadTooLarge")
    assert len(sent) == 7


async def test_a_large_content_length_is_refused_before_anything_is_read() -> None:
    response = await Rig().post(
        TRIGGER,
        content=b"{}",
        headers={"Content-Type": "application/json", "Content-Length": "65537"},
    )
    error_of(response, 413, "PayloadTooLarge")


async def test_a_body_of_exactly_the_limit_is_read() -> None:
    content = json.dumps({"did": DID}).encode().ljust(64 * 1024)
    headers = {"Content-Type": "application/json; charset=UTF-8"}
    assert (await Rig().post(TRIGGER, content=content, headers=headers)).status_code == 200


async def test_a_body_that_does_not_come() -> None:
    rig = Rig(body_timeout=0.02)
    never = asyncio.Event()

    async def receive() -> dict[str, Any]:
        await never.wait()
        return {}

    sent: list[dict[str, Any]] = []

    async def send(message: Any) -> None:
        sent.append(message)

    headers = [(b"authorization", b"me"), (b"content-type", b"application/json")]
    scope = {
        "type": "http",
        "method": "POST",
        "path": TRIGGER,
        "query_string": b"",
        "headers": headers,
        "client": None,
    }
    await rig.app(scope, receive, send)
    assert sent[0]["status"] == 408
    assert json.loads(sent[1]["body"])["error"] == "RequestTimeout"


@pytest.mark.parametrize(
    ("content", "headers"),
    [
        (b"{}", {}),
        (b"{}", {"Content-Type": "text/plain"}),
        (b"{}", {"Content-Type": "application/json; charset=utf-16"}),
        (b"{}", {"Content-Type": 'application/json; x="' + ";" * 60_000}),
        (b"{}", {"Content-Type": f"application/json; charset*{'9' * 5_000}*=x"}),
        (b"{}", {"Content-Type": "application/json", "Content-Encoding": "gzip"}),
        (b"", {"Content-Type": "application/json"}),
        (b"{", {"Content-Type": "application/json"}),
        (b"[]", {"Content-Type": "application/json"}),
        (b'{"did":"did:a:b","did":"did:a:b"}', {"Content-Type": "application/json"}),
        (b'{"did":"\\ud800"}', {"Content-Type": "application/json"}),
        (b"[" * 60_000, {"Content-Type": "application/json"}),
    ],
)
async def test_wrong_bodies(content: bytes, headers: dict[str, str]) -> None:
    rig = Rig()
    error_of(await rig.post(TRIGGER, content=content, headers=headers), 400, "InvalidRequest")
    assert not rig.broker.sent


async def test_wrong_paths_and_verbs() -> None:
    rig = Rig()
    error_of(await rig.post("/xrpc/com.example.unknown"), 501, "MethodNotImplemented")
    error_of(await rig.post("/xrpc/x"), 400, "InvalidRequest")
    error_of(await rig.post("/"), 404, "NotFound")
    error_of(await rig.get("/xrpc/a/b"), 404, "NotFound")
    response = await rig.get(TRIGGER)
    error_of(response, 405, "MethodNotAllowed")
    assert response.headers["allow"] == "POST"
    error_of(await rig.post(STATUS), 405, "MethodNotAllowed")
    async with rig.client() as client:
        error_of(await client.request("TRACE", TRIGGER), 405, "MethodNotAllowed")
    assert rig.observed[0] == ("unknown", 501)
    assert rig.observed[-1] == ("unknown", 405)


async def test_a_host_that_is_none() -> None:
    error_of(await Rig().get("/xrpc/x", headers={"Host": "["}), 400, "InvalidRequest")


async def test_authentication_comes_before_the_body() -> None:
    rig = Rig()
    async with rig.client() as client:
        del client.headers["Authorization"]
        response = await client.post(TRIGGER, content=b"{", headers={"Content-Type": "x"})
    error_of(response, 401, "AuthenticationRequired")


async def test_what_is_unexpected_gives_no_details() -> None:
    rig = Rig()
    rig.broker.error = RuntimeError("the password is secret")
    response = await rig.post(TRIGGER, json={"did": DID})
    assert "secret" not in error_of(response, 500, "InternalServerError")


async def test_an_output_that_breaks_the_lexicon_is_our_fault() -> None:
    rig = Rig()
    rig.table.put(transitions.complete(running("odd"), 6.0, new_cid="no cid"))
    error_of(await rig.get(STATUS, params={"id": "odd"}), 500, "InternalServerError")


# rate limits


async def test_rate_limit_by_address_before_authentication() -> None:
    rig = Rig(by_address=Rate(burst=2, per_second=0.1))
    for _ in range(2):
        error_of(await rig.post("/xrpc/com.example.unknown"), 501, "MethodNotImplemented")
    response = await rig.post(TRIGGER)
    error_of(response, 429, "RateLimitExceeded")
    assert 1 <= int(response.headers["retry-after"]) <= 10
    async with rig.client("192.0.2.2") as client:
        assert (await client.post(TRIGGER, json={"did": DID})).status_code == 200


async def test_rate_limit_by_issuer() -> None:
    rig = Rig(by_issuer=Rate(burst=1, per_second=0.1), deadline=0.01)
    assert (await rig.post(REFRESH, json={"uri": URI})).status_code == 200
    error_of(await rig.post(REFRESH, json={"uri": URI}), 429, "RateLimitExceeded")
    assert (await rig.post(TRIGGER, json={"did": DID})).status_code == 200
    other = {"Authorization": "did:plc:other"}
    assert (await rig.post(REFRESH, json={"uri": URI}, headers=other)).status_code == 200
