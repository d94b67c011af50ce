"""The gateway over HTTP, with a broker and a table of operations in memory."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from typing import Any

import httpx
import pytest
import structlog

from procedures import transitions
from procedures.auth import ServiceAuth
from procedures.calls import Calls
from procedures.client import Query, Unavailable
from procedures.contract import (
    CANCEL_BACKFILL,
    GET_BACKFILL_HISTORY,
    GET_BACKFILL_STATUS,
    METHODS,
    REFRESH_RECORD,
    TRIGGER_DID_SYNC,
    ErrorName,
    Method,
    XrpcError,
)
from procedures.failures import Failure
from procedures.gateway import Gateway, GatewayLimits, create_app
from procedures.messages import Cancel, Command, DidSync, RecordRefresh
from procedures.operations import FINAL, Operation, Status, Type, queued
from procedures.rate_limits import Rate
from procedures.service import Service
from tests.unit.procedures import service_auth
from tests.unit.procedures.fakes import Broker, Table
from tests.unit.procedures.strategies import DID, URI

CALLER = "did:plc:caller"
CID = "bafyreie5737gdxlw5i64vzichcalba3z2v5n6icifvx5xytvske7mr3hpm"
REFRESH, TRIGGER = f"/xrpc/{REFRESH_RECORD}", f"/xrpc/{TRIGGER_DID_SYNC}"
STATUS, HISTORY = f"/xrpc/{GET_BACKFILL_STATUS}", f"/xrpc/{GET_BACKFILL_HISTORY}"
CANCEL = f"/xrpc/{CANCEL_BACKFILL}"


class Trusting:
    """An authenticator that believes the header."""

    async def authenticate(self, authorization: Sequence[str], _method: Method) -> str:
        if not authorization:
            raise XrpcError(ErrorName.AUTHENTICATION_REQUIRED, "who are you?")
        return authorization[0]


class Rig:
    """A gateway with its surroundings."""

    def __init__(self, authenticator: Any = None, **limits: Any) -> None:
        self.broker = Broker()
        self.table = Table()
        self.observed: list[tuple[str, int]] = []
        ids = iter(f"op-{n}" for n in range(1, 1_000))
        calls = Calls(self.broker, self.table, clock=lambda: 5.0, new_id=lambda: next(ids))
        gateway = Gateway(
            authenticator or Trusting(),
            calls,
            Service("did:web:localhost%3A8099"),
            GatewayLimits(**limits),
            lambda method, status, _seconds: self.observed.append((method, status)),
        )
        self.app = create_app(gateway)

    def client(self, address: str = "192.0.2.1") -> httpx.AsyncClient:
        transport = httpx.ASGITransport(self.app, client=(address, 1234))
        headers = {"Authorization": CALLER}
        return httpx.AsyncClient(transport=transport, base_url="http://gateway", headers=headers)

    async def post(self, path: str, **options: Any) -> httpx.Response:
        async with self.client() as client:
            return await client.post(path, **options)

    async def get(self, path: str, **options: Any) -> httpx.Response:
        async with self.client() as client:
            return await client.get(path, **options)


def _error(response: httpx.Response, status: int, name: str) -> str:
    assert response.status_code == status, response.text
    body = response.json()
    assert body.keys() == {"error", "message"}
    assert body["error"] == name
    message = body["message"]
    assert isinstance(message, str)
    return message


def _refresh_of(command: Command) -> Operation:
    assert isinstance(command, RecordRefresh)
    return queued(command.id, Type.RECORD_REFRESH, DID, 5.0, uri=command.uri)


def _running(identifier: str = "op-1", kind: Type = Type.DID_SYNC) -> Operation:
    return transitions.start(queued(identifier, kind, DID, 5.0), 5.0)


# triggerDIDSync


async def test_trigger_did_sync_answers_with_the_operation() -> None:
    rig = Rig()
    response = await rig.post(TRIGGER, json={"did": DID})
    assert (response.status_code, response.json()) == (200, {"operationId": "op-1"})
    assert response.headers["cache-control"] == "private, no-store"
    assert rig.broker.sent == [DidSync(id="op-1", did=DID, requested_by=CALLER, requested_at=5.0)]


async def test_without_the_brokers_acknowledgement_there_is_no_success() -> None:
    for rig, trouble in ((Rig(), Unavailable()), (Rig(deadline=0.02), None)):
        rig.broker.error, rig.broker.hangs = trouble, trouble is None
        response = await rig.post(TRIGGER, json={"did": DID})
        assert "operation op-1 may yet begin" in _error(response, 503, "ServiceUnavailable")
        assert response.headers["retry-after"] == "5"


# refreshRecord


@pytest.mark.parametrize("cid", [CID, None])
async def test_refresh_record_waits_for_the_outcome(cid: str | None) -> None:
    rig = Rig()

    def carry_out(command: Command) -> None:
        running = transitions.start(_refresh_of(command), 5.0)
        rig.table.put(running)
        counted = transitions.count(running, deleted=0 if cid else 1)
        rig.table.put(transitions.complete(counted, 6.0, new_cid=cid))

    rig.broker.on_send = carry_out
    response = await rig.post(REFRESH, json={"uri": URI})
    assert response.status_code == 200
    expected = {"uri": URI, "refreshed": True}
    assert response.json() == (expected | {"newCid": cid} if cid else expected)


async def test_refresh_record_of_what_is_nowhere() -> None:
    rig = Rig()
    rig.broker.on_send = lambda command: rig.table.put(
        transitions.complete(transitions.start(_refresh_of(command), 5.0), 6.0)
    )
    _error(await rig.post(REFRESH, json={"uri": URI}), 404, "NotFound")


async def test_refresh_record_that_fails() -> None:
    rig = Rig()
    rig.broker.on_send = lambda command: rig.table.put(
        transitions.fail(_refresh_of(command), 6.0, Failure.OUT_OF_SCOPE, "app.bsky.* is not kept")
    )
    response = await rig.post(REFRESH, json={"uri": URI})
    assert response.json() == {
        "uri": URI,
        "refreshed": False,
        "error": "operation op-1: OutOfScope: app.bsky.* is not kept",
    }


async def test_refresh_record_answers_at_its_deadline() -> None:
    silent, slow, hanging, blind = (Rig(deadline=0.05) for _ in range(4))
    slow.broker.on_send = lambda command: slow.table.put(_refresh_of(command))
    hanging.broker.hangs = True
    blind.table.error = Unavailable()
    for rig, why in (
        (silent, "accepted, not begun yet"),
        (slow, "not finished yet (queued)"),
        (hanging, "its command is not confirmed yet"),
        (blind, "accepted, but how far it is cannot be read for now"),
    ):
        response = await rig.post(REFRESH, json={"uri": URI})
        assert response.status_code == 200
        assert response.json() == {
            "uri": URI,
            "refreshed": False,
            "error": f"operation op-1: {why}",
        }


async def test_refresh_record_without_a_broker() -> None:
    rig = Rig()
    rig.broker.error = Unavailable()
    _error(await rig.post(REFRESH, json={"uri": URI}), 503, "ServiceUnavailable")


@pytest.mark.parametrize("uri", ["at://alice.test/a.b.c/d", f"at://{DID}", "x", 1])
async def test_refresh_record_of_no_record(uri: object) -> None:
    rig = Rig()
    _error(await rig.post(REFRESH, json={"uri": uri}), 400, "InvalidRequest")
    assert not rig.broker.sent


# the reading methods


async def test_status_of_one_operation() -> None:
    rig = Rig()
    rig.table.put(_running("mine"))
    shown = (await rig.get(STATUS, params={"id": "mine"})).json()
    assert shown.keys() == {"operation"}
    assert (shown["operation"]["id"], shown["operation"]["status"]) == ("mine", "running")
    for identifier in ("other", "a b", ""):
        response = await rig.get(STATUS, params={"id": identifier})
        _error(response, 404, "NotFound")


async def test_status_lists_what_is_open_or_asked_for() -> None:
    rig = Rig()
    rig.table.put(_running("running"))
    rig.table.put(transitions.cancel(_running("cancelled"), 6.0))
    shown = (await rig.get(STATUS)).json()
    assert [o["id"] for o in shown["operations"]] == ["running"]
    shown = (await rig.get(STATUS, params={"status": "cancelled", "limit": "7"})).json()
    assert [o["id"] for o in shown["operations"]] == ["cancelled"]
    assert rig.table.queries[-1] == Query(frozenset({Status.CANCELLED}), limit=7)


async def test_history() -> None:
    rig = Rig()
    for n in range(3):
        rig.table.put(transitions.cancel(_running(f"old-{n}"), 6.0))
    page = (await rig.get(HISTORY, params={"limit": 2, "did": DID, "cursor": "c"})).json()
    assert [o["id"] for o in page["operations"]] == ["old-2", "old-1"]
    assert page["cursor"] == "2"
    assert rig.table.queries == [Query(FINAL, did=DID, limit=2, cursor="c")]
    assert "cursor" not in (await rig.get(HISTORY)).json()


@pytest.mark.parametrize(
    "parameters",
    [{"limit": "0"}, {"limit": "x"}, {"did": "alice"}, {"cursor": "wrong"}, {"limit": ["1", "2"]}],
)
async def test_history_with_wrong_parameters(parameters: dict[str, Any]) -> None:
    _error(await Rig().get(HISTORY, params=parameters), 400, "InvalidRequest")


async def test_a_store_that_is_away() -> None:
    rig = Rig()
    rig.table.error = Unavailable("password=secret")
    message = _error(await rig.get(STATUS), 503, "ServiceUnavailable")
    assert "secret" not in message


# cancelBackfill


async def test_cancel_waits_until_the_operation_has_stopped() -> None:
    rig = Rig()
    rig.table.put(_running("mine"))
    rig.broker.on_send = lambda _command: rig.table.put(
        transitions.cancel(rig.table.rows["mine"], 6.0)
    )
    response = await rig.post(CANCEL, json={"id": "mine"})
    assert (response.status_code, response.json()) == (200, {"success": True})
    assert rig.broker.sent == [
        Cancel(id="op-1", operation_id="mine", requested_by=CALLER, requested_at=5.0)
    ]


async def test_cancel_that_has_not_stopped_by_the_deadline() -> None:
    rig = Rig(deadline=0.05)
    rig.table.put(_running("mine"))
    assert (await rig.post(CANCEL, json={"id": "mine"})).json() == {"success": False}


async def test_cancel_of_what_has_ended_sends_nothing() -> None:
    rig = Rig()
    rig.table.put(transitions.complete(_running("done"), 6.0))
    rig.table.put(transitions.cancel(_running("gone"), 6.0))
    assert (await rig.post(CANCEL, json={"id": "done"})).json() == {"success": False}
    assert (await rig.post(CANCEL, json={"id": "gone"})).json() == {"success": True}
    assert not rig.broker.sent


async def test_cancel_of_an_operation_whose_command_is_on_its_way(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rig = Rig(deadline=0.05)
    task = asyncio.create_task(rig.post(CANCEL, json={"id": "mine"}))
    await rig.table.awaited.wait()
    rig.table.put(_running("mine"))
    assert (await task).status_code == 200
    monkeypatch.setattr("procedures.calls._APPEARS_WITHIN", 0.01)
    _error(await rig.post(CANCEL, json={"id": "never"}), 404, "NotFound")


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
    _error(response, 413, "PayloadTooLarge")
    assert len(sent) == 7


async def test_a_large_content_length_is_refused_before_anything_is_read() -> None:
    response = await Rig().post(
        TRIGGER,
        content=b"{}",
        headers={"Content-Type": "application/json", "Content-Length": "65537"},
    )
    _error(response, 413, "PayloadTooLarge")


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
    _error(await rig.post(TRIGGER, content=content, headers=headers), 400, "InvalidRequest")
    assert not rig.broker.sent


async def test_wrong_paths_and_verbs() -> None:
    rig = Rig()
    _error(await rig.post("/xrpc/com.example.unknown"), 501, "MethodNotImplemented")
    _error(await rig.post("/xrpc/x"), 400, "InvalidRequest")
    _error(await rig.post("/"), 404, "NotFound")
    _error(await rig.get("/xrpc/a/b"), 404, "NotFound")
    response = await rig.get(TRIGGER)
    _error(response, 405, "MethodNotAllowed")
    assert response.headers["allow"] == "POST"
    _error(await rig.post(STATUS), 405, "MethodNotAllowed")
    async with rig.client() as client:
        _error(await client.request("TRACE", TRIGGER), 405, "MethodNotAllowed")
    assert rig.observed[0] == ("unknown", 501)
    assert rig.observed[-1] == ("unknown", 405)


async def test_a_host_that_is_none() -> None:
    _error(await Rig().get("/xrpc/x", headers={"Host": "["}), 400, "InvalidRequest")


async def test_authentication_comes_before_the_body() -> None:
    rig = Rig()
    async with rig.client() as client:
        del client.headers["Authorization"]
        response = await client.post(TRIGGER, content=b"{", headers={"Content-Type": "x"})
    _error(response, 401, "AuthenticationRequired")


async def test_what_is_unexpected_gives_no_details() -> None:
    rig = Rig()
    rig.broker.error = RuntimeError("the password is secret")
    response = await rig.post(TRIGGER, json={"did": DID})
    assert "secret" not in _error(response, 500, "InternalServerError")


async def test_an_output_that_breaks_the_lexicon_is_our_fault() -> None:
    rig = Rig()
    rig.table.put(transitions.complete(_running("odd"), 6.0, new_cid="no cid"))
    _error(await rig.get(STATUS, params={"id": "odd"}), 500, "InternalServerError")


# rate limits


async def test_rate_limit_by_address_before_authentication() -> None:
    rig = Rig(by_address=Rate(burst=2, per_second=0.1))
    for _ in range(2):
        _error(await rig.post("/xrpc/com.example.unknown"), 501, "MethodNotImplemented")
    response = await rig.post(TRIGGER)
    _error(response, 429, "RateLimitExceeded")
    assert 1 <= int(response.headers["retry-after"]) <= 10
    async with rig.client("192.0.2.2") as client:
        assert (await client.post(TRIGGER, json={"did": DID})).status_code == 200


async def test_rate_limit_by_issuer() -> None:
    rig = Rig(by_issuer=Rate(burst=1, per_second=0.1), deadline=0.01)
    assert (await rig.post(REFRESH, json={"uri": URI})).status_code == 200
    _error(await rig.post(REFRESH, json={"uri": URI}), 429, "RateLimitExceeded")
    assert (await rig.post(TRIGGER, json={"did": DID})).status_code == 200
    other = {"Authorization": "did:plc:other"}
    assert (await rig.post(REFRESH, json={"uri": URI}, headers=other)).status_code == 200


# around it


async def test_the_did_document() -> None:
    response = await Rig().get("/.well-known/did.json")
    assert response.json()["id"] == "did:web:localhost%3A8099"


async def test_browsers_may_call() -> None:
    async with Rig().client() as client:
        preflight = await client.options(
            REFRESH,
            headers={
                "Origin": "https://chive.pub",
                "Access-Control-Request-Method": "POST",
                "Access-Control-Request-Headers": "authorization,content-type",
            },
        )
        answer = await client.get(STATUS, headers={"Origin": "https://chive.pub"})
    assert preflight.status_code == 200
    assert answer.headers["access-control-allow-origin"] == "*"


async def test_each_request_is_one_line_and_each_command_is_audited() -> None:
    rig = Rig()
    with structlog.testing.capture_logs() as lines:
        await rig.post(TRIGGER, json={"did": DID})
        await rig.post(TRIGGER, json={"did": "x"})
    audit, served, refused = lines
    assert audit == {
        "event": "command sent",
        "log_level": "info",
        "audit": True,
        "command": "DidSync",
        "subject": DID,
        "requested_by": CALLER,
        "operation": "op-1",
    }
    seconds = served.pop("seconds")
    assert 0 <= seconds < 5
    assert served == {
        "event": "request served",
        "log_level": "info",
        "method": TRIGGER_DID_SYNC,
        "path": TRIGGER,
        "status": 200,
        "error": None,
        "caller": CALLER,
        "address": "192.0.2.1",
        "operation": "op-1",
    }
    assert (refused["status"], refused["error"]) == (400, "InvalidRequest")
    assert rig.observed == [(TRIGGER_DID_SYNC, 200), (TRIGGER_DID_SYNC, 400)]


# with real tokens


async def test_the_whole_way_with_real_tokens() -> None:
    key, keys = service_auth.Key.make("p256"), service_auth.Keys()
    keys.cached = {service_auth.ADMIN: key, service_auth.ALICE: key}
    auth = ServiceAuth(
        keys, {service_auth.SERVICE}, {service_auth.ADMIN}, clock=lambda: service_auth.NOW
    )
    rig = Rig(auth)

    async def call(issuer: str, path: str, text: str | None = None) -> httpx.Response:
        method = METHODS[path.rpartition("/")[2]]
        text = text or service_auth.token(key, service_auth.claims(method.nsid, issuer))
        return await rig.post(path, json={"did": DID}, headers={"Authorization": f"Bearer {text}"})

    assert (await call(service_auth.ADMIN, TRIGGER)).status_code == 200
    _error(await call(service_auth.ALICE, TRIGGER), 403, "AdminRequired")
    response = await call(service_auth.ADMIN, TRIGGER, "a.b.c")
    _error(response, 401, "AuthenticationRequired")
    assert response.headers["www-authenticate"] == "Bearer"
    assert [command.requested_by for command in rig.broker.sent] == [service_auth.ADMIN]
    assert keys.lookups == {False: 1}


async def test_the_same_token_twice_at_once_gives_one_command() -> None:
    key, keys = service_auth.Key.make(), service_auth.Keys()
    keys.cached = {service_auth.ADMIN: key}
    auth = ServiceAuth(
        keys, {service_auth.SERVICE}, {service_auth.ADMIN}, clock=lambda: service_auth.NOW
    )
    rig = Rig(auth)
    text = service_auth.token(key, service_auth.claims(TRIGGER_DID_SYNC, service_auth.ADMIN))
    headers = {"Authorization": f"Bearer {text}"}
    responses = await asyncio.gather(
        *(rig.post(TRIGGER, json={"did": DID}, headers=headers) for _ in range(8))
    )
    assert sorted(response.status_code for response in responses) == [200] + [401] * 7
    assert len(rig.broker.sent) == 1
