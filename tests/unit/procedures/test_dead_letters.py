"""``listDLQEntries``, ``retryDLQEntry`` and ``getFirehoseStatus``: for administrators."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from procedures.client import Unavailable
from procedures.dead_letters import Letter
from procedures.firehose_status import FirehoseState
from procedures.messages import DidSync, Emit
from tests.unit.procedures.gateway import CALLER, FIREHOSE, LETTERS, RETRY, Rig, error_of
from tests.unit.procedures.strategies import DID

NEWEST = Letter("3/17", DID, "signature_invalid", "not signed by the current key", 12.5)
OLDER = Letter("0/4", None, "command_not_json", "line 1", 11.0)
EPOCH = "1970-01-01T00:00:"


def rig_of(*letters: Letter) -> Rig:
    rig = Rig()
    rig.letters.listed = list(letters)
    return rig


async def got(rig: Rig, path: str, **params: Any) -> dict[str, Any]:
    answer = await rig.get(path, params=params)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def test_the_newest_come_first() -> None:
    found = await got(rig_of(NEWEST, OLDER), LETTERS)
    newest = {
        "id": "3/17",
        "did": DID,
        "errorType": "signature_invalid",
        "errorMessage": "not signed by the current key",
        "retryCount": 0,
        "createdAt": f"{EPOCH}12.500Z",
    }
    assert found["entries"][0] == newest
    assert "did" not in found["entries"][1]
    assert found["total"] == 2


async def test_a_list_has_pages() -> None:
    rig = rig_of(*(replace(NEWEST, id=f"0/{number}") for number in range(120)))
    for offset, limit, first, count in ((0, 100, 0, 100), (100, 50, 100, 20), (120, 50, 0, 0)):
        found = await got(rig, LETTERS, offset=offset, limit=limit)
        ids = [entry["id"] for entry in found["entries"]]
        assert ids == [f"0/{first + number}" for number in range(count)]
        assert found["total"] == 120
    for wrong in ({"limit": 101}, {"limit": 0}, {"offset": -1}, {"limit": "x"}):
        error_of(await rig.get(LETTERS, params=wrong), 400, "InvalidRequest")


@pytest.mark.parametrize("body", [{"index": 0}, {"id": "3/17"}, {"id": "3/17", "index": 1}])
async def test_what_is_tried_again_is_the_account(body: dict[str, Any]) -> None:
    rig = rig_of(NEWEST, OLDER)
    answer = await rig.post(RETRY, json=body)
    (sync,) = rig.broker.sent
    assert sync == DidSync(
        id=sync.id, did=DID, emit=Emit.CHANGES, requested_by=CALLER, requested_at=5.0
    )
    assert answer.json() == {
        "success": True,
        "message": f"operation {sync.id} syncs {DID} of 3/17 (signature_invalid)",
        "operationId": sync.id,
    }


async def test_a_letter_without_an_account_is_not_tried_again() -> None:
    rig = rig_of(NEWEST, OLDER)
    answer = await rig.post(RETRY, json={"index": 1})
    assert answer.status_code == 200
    assert not answer.json()["success"]
    assert not rig.broker.sent


async def test_what_is_not_in_the_list() -> None:
    rig = rig_of(NEWEST, OLDER)
    for body in ({"index": 2}, {"id": "9/9"}):
        error_of(await rig.post(RETRY, json=body), 404, "NotFound")
    for body in ({}, {"index": -1}, {"index": "0"}, {"id": 3}):
        error_of(await rig.post(RETRY, json=body), 400, "InvalidRequest")
    assert not rig.broker.sent


async def test_how_far_the_firehose_is() -> None:
    rig = rig_of(NEWEST, OLDER)
    now = {"dlqCount": 2, "timestamp": f"{EPOCH}05.000Z"}
    assert await got(rig, FIREHOSE) == now | {"connected": False}
    rig.firehose.now = FirehoseState(
        seq=31_527_015_322, time=4.0, relay="wss://relay.example", connected=True, since=1.0
    )
    assert await got(rig, FIREHOSE) == now | {
        "cursor": 31_527_015_322,
        "cursorTime": f"{EPOCH}04.000Z",
        "relay": "wss://relay.example",
        "connected": True,
        "since": f"{EPOCH}01.000Z",
    }


@pytest.mark.parametrize("path", [FIREHOSE, LETTERS])
async def test_without_tables_or_kafka_it_is_unavailable(path: str) -> None:
    rig = rig_of(NEWEST)
    rig.letters.error = Unavailable("password=secret")
    message = error_of(await rig.get(path), 503, "ServiceUnavailable")
    assert "secret" not in message
