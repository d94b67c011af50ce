"""``indexRecord``: a refresh for the record's owner, right after a write."""

from __future__ import annotations

import asyncio

import pytest

from procedures import transitions
from procedures.failures import Failure
from procedures.messages import Command, RecordRefresh
from procedures.operations import Operation, Type, queued
from procedures.rate_limits import Rate
from procedures.replays import PER_TOKEN
from tests.unit.procedures.gateway import ADMIN, CALLER, INDEX, Rig, error_of
from tests.unit.procedures.strategies import DID, URI

CID = "bafyreie5737gdxlw5i64vzichcalba3z2v5n6icifvx5xytvske7mr3hpm"
OWNER = {"Authorization": DID}
KEPT = {"Authorization": f"{DID} kept"}


def begun(command: Command) -> Operation:
    assert isinstance(command, RecordRefresh)
    operation = queued(command.id, Type.RECORD_REFRESH, DID, 5.0, uri=command.uri)
    return transitions.start(operation, 5.0)


def completes(rig: Rig, cid: str | None) -> None:
    rig.broker.on_send = lambda command: rig.table.put(
        transitions.complete(begun(command), 6.0, new_cid=cid)
    )


@pytest.mark.parametrize("caller", [DID, ADMIN])
async def test_for_its_owner_and_for_administrators(caller: str) -> None:
    rig = Rig()
    completes(rig, CID)
    answer = await rig.post(INDEX, json={"uri": URI}, headers={"Authorization": caller})
    assert (answer.status_code, answer.json()) == (200, {"uri": URI, "indexed": True, "cid": CID})
    (command,) = rig.broker.sent
    assert isinstance(command, RecordRefresh)
    assert (command.uri, command.requested_by) == (URI, caller)


async def test_for_nobody_else() -> None:
    rig = Rig()
    answer = await rig.post(INDEX, json={"uri": URI}, headers={"Authorization": CALLER})
    assert "owner" in error_of(answer, 403, "AdminRequired")
    assert not rig.broker.sent


@pytest.mark.parametrize("uri", ["at://alice.test/a.b.c/d", f"at://{DID}", "x", 1])
async def test_of_no_record(uri: object) -> None:
    rig = Rig()
    answer = await rig.post(INDEX, json={"uri": uri}, headers=OWNER)
    error_of(answer, 400, "InvalidRequest")


@pytest.mark.parametrize("deleted", [0, 1])
async def test_of_a_record_that_is_not_there(deleted: int) -> None:
    rig = Rig()
    rig.broker.on_send = lambda command: rig.table.put(
        transitions.complete(transitions.count(begun(command), deleted=deleted), 6.0)
    )
    error_of(await rig.post(INDEX, json={"uri": URI}, headers=OWNER), 404, "NotFound")


async def test_that_fails_or_takes_too_long() -> None:
    failing, slow = Rig(), Rig(deadline=0.1)
    failing.broker.on_send = lambda command: failing.table.put(
        transitions.fail(begun(command), 6.0, Failure.REPO_TAKENDOWN, "its host says so")
    )
    for rig, why in (
        (failing, "RepoTakendown: its host says so"),
        (slow, "accepted, not begun yet"),
    ):
        answer = (await rig.post(INDEX, json={"uri": URI}, headers=OWNER)).json()
        assert answer == {
            "uri": URI,
            "indexed": False,
            "error": f"operation {rig.broker.sent[0].id}: {why}",
        }


async def test_a_record_that_is_written_again_is_read_again_with_the_same_token() -> None:
    rig = Rig()
    completes(rig, CID)
    answers = [await rig.post(INDEX, json={"uri": URI}, headers=KEPT) for _ in range(3)]
    assert [answer.json()["indexed"] for answer in answers] == [True] * 3
    assert len({command.id for command in rig.broker.sent}) == 3


async def test_the_same_call_while_it_runs_is_one() -> None:
    rig = Rig()
    rig.broker.on_send = lambda command: rig.table.put(begun(command))
    calls = [
        asyncio.create_task(rig.post(INDEX, json={"uri": URI}, headers=KEPT)) for _ in range(4)
    ]
    await rig.table.awaited.wait()
    (running,) = rig.table.rows.values()
    await asyncio.sleep(0.1)
    rig.table.put(transitions.complete(running, 6.0, new_cid=CID))
    assert {call.json()["cid"] for call in await asyncio.gather(*calls)} == {CID}
    assert len(rig.broker.sent) == 1


async def test_with_one_token_as_often_as_any_other_call() -> None:
    rig = Rig(by_issuer=Rate(burst=100, per_second=1))
    completes(rig, CID)
    answers = [await rig.post(INDEX, json={"uri": URI}, headers=KEPT) for _ in range(PER_TOKEN + 1)]
    assert [answer.status_code for answer in answers] == [200] * PER_TOKEN + [429]
