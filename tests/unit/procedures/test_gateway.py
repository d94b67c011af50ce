"""The procedures from request to answer, with all ports played by the test."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import httpx
import pytest
import structlog

from procedures import transitions
from procedures.auth import ServiceAuth
from procedures.client import Query, Unavailable
from procedures.contract import CANCEL_BACKFILL, METHODS, TRIGGER_DID_SYNC
from procedures.failures import Failure
from procedures.messages import Cancel, Command, DidSync, RecordRefresh
from procedures.operations import FINAL, Operation, Status, Type, queued
from tests.unit.procedures import service_auth
from tests.unit.procedures.gateway import (
    ADMIN,
    BACKFILL,
    CALLER,
    CHECK,
    HISTORY,
    INDEX,
    REFRESH,
    STALE,
    STATUS,
    TRIGGER,
    Rig,
    error_of,
    operation_id,
    running,
)
from tests.unit.procedures.strategies import DID, URI

CID = "bafyreie5737gdxlw5i64vzichcalba3z2v5n6icifvx5xytvske7mr3hpm"
CANCEL = f"/xrpc/{CANCEL_BACKFILL}"
SYNC_ID, REFRESH_ID = operation_id(TRIGGER, {"did": DID}), operation_id(REFRESH, {"uri": URI})


def refresh_of(command: Command) -> Operation:
    assert isinstance(command, RecordRefresh)
    return queued(command.id, Type.RECORD_REFRESH, DID, 5.0, uri=command.uri)


# triggerDIDSync


async def test_trigger_did_sync_answers_with_the_operation() -> None:
    rig = Rig()
    response = await rig.post(TRIGGER, json={"did": DID})
    assert (response.status_code, response.json()) == (200, {"operationId": SYNC_ID})
    assert response.headers["cache-control"] == "private, no-store"
    assert rig.broker.sent == [DidSync(id=SYNC_ID, did=DID, requested_by=CALLER, requested_at=5.0)]


async def test_without_the_brokers_acknowledgement_there_is_no_success() -> None:
    for rig, error in ((Rig(), Unavailable()), (Rig(deadline=0.02), None)):
        rig.broker.error, rig.broker.hangs = error, error is None
        response = await rig.post(TRIGGER, json={"did": DID})
        assert f"operation {SYNC_ID} may yet begin" in error_of(response, 503, "ServiceUnavailable")
        assert response.headers["retry-after"] == "5"


# refreshRecord


@pytest.mark.parametrize("cid", [CID, None])
async def test_refresh_record_waits_for_the_outcome(cid: str | None) -> None:
    rig = Rig()

    def carry_out(command: Command) -> None:
        running = transitions.start(refresh_of(command), 5.0)
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
        transitions.complete(transitions.start(refresh_of(command), 5.0), 6.0)
    )
    error_of(await rig.post(REFRESH, json={"uri": URI}), 404, "NotFound")


async def test_refresh_record_that_fails() -> None:
    rig = Rig()
    rig.broker.on_send = lambda command: rig.table.put(
        transitions.fail(refresh_of(command), 6.0, Failure.OUT_OF_SCOPE, "app.bsky.* is not kept")
    )
    response = await rig.post(REFRESH, json={"uri": URI})
    assert response.json() == {
        "uri": URI,
        "refreshed": False,
        "error": f"operation {REFRESH_ID}: OutOfScope: app.bsky.* is not kept",
    }


async def test_refresh_record_answers_at_its_deadline() -> None:
    silent, slow, hanging, blind = (Rig(deadline=0.05) for _ in range(4))
    slow.broker.on_send = lambda command: slow.table.put(refresh_of(command))
    hanging.broker.hangs = True
    blind.table.error = Unavailable()
    for rig, why in (
        (silent, "accepted, not begun yet"),
        (slow, "not finished yet (waiting)"),
        (hanging, "its command is not confirmed yet"),
        (blind, "accepted, but how far it is cannot be read for now"),
    ):
        response = await rig.post(REFRESH, json={"uri": URI})
        assert response.status_code == 200
        assert response.json() == {
            "uri": URI,
            "refreshed": False,
            "error": f"operation {REFRESH_ID}: {why}",
        }


async def test_refresh_record_without_a_broker() -> None:
    rig = Rig()
    rig.broker.error = Unavailable()
    error_of(await rig.post(REFRESH, json={"uri": URI}), 503, "ServiceUnavailable")


@pytest.mark.parametrize("uri", ["at://alice.test/a.b.c/d", f"at://{DID}", "x", 1])
async def test_refresh_record_of_no_record(uri: object) -> None:
    rig = Rig()
    error_of(await rig.post(REFRESH, json={"uri": uri}), 400, "InvalidRequest")
    assert not rig.broker.sent


# the reading methods


async def test_status_of_one_operation() -> None:
    rig = Rig()
    rig.table.put(running("mine"))
    shown = (await rig.get(STATUS, params={"id": "mine"})).json()
    assert shown.keys() == {"operation"}
    assert (shown["operation"]["id"], shown["operation"]["status"]) == ("mine", "running")
    for identifier in ("other", "a b", ""):
        response = await rig.get(STATUS, params={"id": identifier})
        error_of(response, 404, "NotFound")


async def test_status_lists_what_is_open_or_asked_for() -> None:
    rig = Rig()
    rig.table.put(running("running"))
    rig.table.put(transitions.cancel(running("cancelled"), 6.0))
    shown = (await rig.get(STATUS)).json()
    assert [o["id"] for o in shown["operations"]] == ["running"]
    shown = (await rig.get(STATUS, params={"status": "cancelled", "limit": "7"})).json()
    assert [o["id"] for o in shown["operations"]] == ["cancelled"]
    assert rig.table.queries[-1] == Query(frozenset({Status.CANCELLED}), limit=7)


async def test_history() -> None:
    rig = Rig()
    for n in range(3):
        rig.table.put(transitions.cancel(running(f"old-{n}"), 6.0))
    page = (await rig.get(HISTORY, params={"limit": 2, "did": DID, "cursor": "c"})).json()
    assert [o["id"] for o in page["operations"]] == ["old-2", "old-1"]
    assert page["cursor"] == "2"
    asked_for = Query(FINAL, did=DID, limit=2, cursor="c", automatic=False)
    assert rig.table.queries == [asked_for]
    assert "cursor" not in (await rig.get(HISTORY)).json()


async def test_history_with_what_the_system_began_itself() -> None:
    rig = Rig()
    rig.table.put(transitions.cancel(running("asked-for"), 6.0))
    rig.table.put(replace(transitions.cancel(running("automatic"), 6.0), automatic=True))
    for parameters, expected in (
        ({}, ["asked-for"]),
        ({"automatic": "false"}, ["asked-for"]),
        ({"automatic": "true"}, ["automatic", "asked-for"]),
    ):
        page = (await rig.get(HISTORY, params=parameters)).json()
        assert [o["id"] for o in page["operations"]] == expected


async def test_what_waits_for_its_turn_is_shown_as_running() -> None:
    rig = Rig()
    waiting = replace(running("waiting"), progress=40, records_processed=7)
    rig.table.put(transitions.requeue(waiting, 90.0))
    rig.table.put(queued("new", Type.DID_SYNC, DID, 5.0))
    for parameters in ({}, {"status": "running"}, {"status": "queued"}):
        shown = (await rig.get(STATUS, params=parameters)).json()["operations"]
        assert [
            (o["id"], o["type"], o["status"], o["progress"], o["recordsProcessed"], o["startedAt"])
            for o in shown
        ] == [
            ("new", "didSync", "running", 0, 0, "1970-01-01T00:00:05.000Z"),
            ("waiting", "didSync", "running", 0, 7, "1970-01-01T00:00:05.000Z"),
        ]
    one = (await rig.get(STATUS, params={"id": "new"})).json()["operation"]
    assert (one["status"], one["progress"]) == ("running", 0)


@pytest.mark.parametrize(
    "parameters",
    [
        {"limit": "0"},
        {"limit": "x"},
        {"did": "alice"},
        {"cursor": "wrong"},
        {"limit": ["1", "2"]},
        {"automatic": "yes"},
    ],
)
async def test_history_with_wrong_parameters(parameters: dict[str, Any]) -> None:
    error_of(await Rig().get(HISTORY, params=parameters), 400, "InvalidRequest")


async def test_a_store_that_is_away() -> None:
    rig = Rig()
    rig.table.error = Unavailable("password=secret")
    message = error_of(await rig.get(STATUS), 503, "ServiceUnavailable")
    assert "secret" not in message


# cancelBackfill


@pytest.mark.parametrize(
    "body", [{"operationId": "mine"}, {"id": "mine"}, {"id": "mine", "operationId": "mine"}]
)
async def test_cancel_takes_both_names_of_the_id(body: dict[str, str]) -> None:
    rig = Rig()
    rig.table.put(transitions.cancel(running("mine"), 6.0))
    assert (await rig.post(CANCEL, json=body)).json() == {"success": True}


@pytest.mark.parametrize("body", [{}, {"id": "mine", "operationId": "other"}])
async def test_cancel_of_no_operation_or_two(body: dict[str, str]) -> None:
    error_of(await Rig().post(CANCEL, json=body), 400, "InvalidRequest")


async def test_cancel_waits_until_the_operation_has_stopped() -> None:
    rig = Rig()
    rig.table.put(running("mine"))
    rig.broker.on_send = lambda _command: rig.table.put(
        transitions.cancel(rig.table.rows["mine"], 6.0)
    )
    response = await rig.post(CANCEL, json={"id": "mine"})
    assert (response.status_code, response.json()) == (200, {"success": True})
    assert rig.broker.sent == [
        Cancel(
            id=operation_id(CANCEL, {"id": "mine"}),
            operation_id="mine",
            requested_by=CALLER,
            requested_at=5.0,
        )
    ]


async def test_cancel_that_has_not_stopped_by_the_deadline() -> None:
    rig = Rig(deadline=0.05)
    rig.table.put(running("mine"))
    assert (await rig.post(CANCEL, json={"id": "mine"})).json() == {"success": False}


async def test_cancel_of_what_has_ended_sends_nothing() -> None:
    rig = Rig()
    rig.table.put(transitions.complete(running("done"), 6.0))
    rig.table.put(transitions.cancel(running("gone"), 6.0))
    assert (await rig.post(CANCEL, json={"id": "done"})).json() == {"success": False}
    assert (await rig.post(CANCEL, json={"id": "gone"})).json() == {"success": True}
    assert not rig.broker.sent


async def test_cancel_of_an_operation_whose_command_is_on_its_way(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rig = Rig(deadline=0.05)
    task = asyncio.create_task(rig.post(CANCEL, json={"id": "mine"}))
    await rig.table.awaited.wait()
    rig.table.put(running("mine"))
    assert (await task).status_code == 200
    monkeypatch.setattr("procedures.calls._APPEARS_WITHIN_SECONDS", 0.01)
    error_of(await rig.post(CANCEL, json={"id": "never"}), 404, "NotFound")


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
        "event": "command_sent",
        "log_level": "info",
        "audit": True,
        "command": "DidSync",
        "subject": DID,
        "requested_by": CALLER,
        "operation": SYNC_ID,
    }
    seconds = served.pop("seconds")
    assert 0 <= seconds < 5
    assert served == {
        "event": "request_served",
        "log_level": "info",
        "method": TRIGGER_DID_SYNC,
        "path": TRIGGER,
        "status": 200,
        "error": None,
        "caller": CALLER,
        "address": "192.0.2.1",
        "operation": SYNC_ID,
        "repeated": False,
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
    error_of(await call(service_auth.ALICE, TRIGGER), 403, "AdminRequired")
    response = await call(service_auth.ADMIN, TRIGGER, "a.b.c")
    error_of(response, 401, "AuthenticationRequired")
    assert response.headers["www-authenticate"] == "Bearer"
    assert [command.requested_by for command in rig.broker.sent] == [service_auth.ADMIN]
    assert keys.lookups == {False: 1}


# one of several deployments


@pytest.mark.parametrize(
    ("verb", "path", "fields"),
    [
        ("post", TRIGGER, {"did": DID}),
        ("post", BACKFILL, {"type": "didSync", "did": DID}),
        ("post", REFRESH, {"uri": URI}),
        ("post", INDEX, {"uri": URI}),
        ("get", CHECK, {"uri": URI}),
        ("get", STALE, {"uri": URI}),
        ("get", HISTORY, {"did": DID}),
    ],
)
async def test_a_call_about_an_account_of_another_shard_says_who_has_it(
    verb: str, path: str, fields: dict[str, str]
) -> None:
    rig = Rig(elsewhere=lambda did: f"{did} belongs to shard 2/4, this is 1/4")
    admin = {"Authorization": ADMIN}
    if verb == "post":
        call = rig.post(path, json=fields, headers=admin)
    else:
        call = rig.get(path, params=fields, headers=admin)
    assert "shard 2/4" in error_of(await call, 421, "OtherShard")
    assert not rig.broker.sent
