"""``triggerBackfill``: the sync of a DID by Chive's general name."""

from __future__ import annotations

from typing import Any

import pytest

from procedures import operations
from procedures.messages import DidSync
from tests.unit.procedures.gateway import BACKFILL, CALLER, TRIGGER, Rig, error_of, operation_id
from tests.unit.procedures.strategies import DID


@pytest.mark.parametrize("name", ["didSync", "did-sync"])
async def test_a_sync_is_that_of_trigger_did_sync(name: str) -> None:
    rig, body = Rig(), {"type": name, "did": DID}
    answer = await rig.post(BACKFILL, json=body)
    assert answer.status_code == 200, answer.text
    shown = answer.json()["operation"]
    identifier = operation_id(BACKFILL, body)
    expected = {"id": identifier, "type": "didSync", "did": DID, "status": "running"}
    assert expected.items() <= shown.items()
    assert (shown["progress"], shown["requestedBy"]) == (0, CALLER)
    await rig.post(TRIGGER, json={"did": DID})
    mine, other = rig.broker.sent
    assert isinstance(other, DidSync)
    assert mine == DidSync(
        id=identifier, did=other.did, requested_by=other.requested_by, requested_at=5.0
    )
    assert operations.Type(mine.kind) == shown["type"]


@pytest.mark.parametrize("name", ["pdsScan", "freshnessScan", "fullReindex", "didsync", ""])
async def test_work_of_chives_own_is_refused_by_name(name: str) -> None:
    rig = Rig()
    answer = await rig.post(BACKFILL, json={"type": name, "did": DID})
    assert "didSync" in error_of(answer, 400, "InvalidBackfillType")
    assert not rig.broker.sent


@pytest.mark.parametrize(
    "body", [{}, {"did": DID}, {"type": "didSync"}, {"type": "didSync", "did": "x"}, {"type": 1}]
)
async def test_a_mistake_is_another_error(body: dict[str, Any]) -> None:
    rig = Rig()
    error_of(await rig.post(BACKFILL, json=body), 400, "InvalidRequest")
    assert not rig.broker.sent


async def test_without_the_brokers_word_it_is_in_doubt() -> None:
    rig = Rig(deadline=0.1)
    rig.broker.hangs = True
    body = {"type": "didSync", "did": DID}
    message = error_of(await rig.post(BACKFILL, json=body), 503, "ServiceUnavailable")
    assert operation_id(BACKFILL, body) in message
