"""``verify`` and ``checkStaleness``: the index and the repository, compared now."""

from __future__ import annotations

from typing import Any

import pytest

from procedures import transitions
from procedures.client import Unavailable
from procedures.failures import Failure
from procedures.messages import Command, RecordRefresh
from procedures.operations import Operation, Type, queued
from tests.unit.procedures.gateway import CALLER, CHECK, STALE, Rig, error_of
from tests.unit.procedures.strategies import DID, URI

OLD = "bafyreie5737gdxlw5i64vzichcalba3z2v5n6icifvx5xytvske7mr3hpm"
NEW = "bafyreihffx5a2e7k5uwrmmgofbvzujc5cmw5h4espouwuxt3liqoflx3ee"
PDS = "https://pds.example"
BOTH = pytest.mark.parametrize("path", [CHECK, STALE])


def begun(command: Command) -> Operation:
    assert isinstance(command, RecordRefresh)
    operation = queued(command.id, Type.RECORD_REFRESH, DID, 5.0, uri=command.uri)
    return transitions.start(operation, 5.0)


def rig_of(index: str | None, repository: str | None) -> Rig:
    rig = Rig()
    rig.index.cids, rig.index.pds = {} if index is None else {URI: index}, PDS
    rig.broker.on_send = lambda command: rig.table.put(
        transitions.complete(begun(command), 6.0, new_cid=repository)
    )
    return rig


async def asked(rig: Rig, path: str) -> dict[str, Any]:
    answer = await rig.get(path, params={"uri": URI})
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    assert found.pop("uri") == URI
    return found


async def test_in_step() -> None:
    rig = rig_of(NEW, NEW)
    at = "1970-01-01T00:00:06.000Z"
    verified = {"indexed": True, "inSync": True, "lastSyncedAt": at, "staleDays": 0}
    assert await asked(rig, CHECK) == verified
    compared = {"isStale": False, "indexedCid": NEW, "pdsCid": NEW, "pdsUrl": PDS}
    assert await asked(rig, STALE) == compared
    assert {command.requested_by for command in rig.broker.sent} == {CALLER}


@pytest.mark.parametrize(("index", "repository"), [(OLD, NEW), (None, NEW), (OLD, None)])
async def test_not_in_step(index: str | None, repository: str | None) -> None:
    rig = rig_of(index, repository)
    verified = await asked(rig, CHECK)
    assert (verified["indexed"], verified["inSync"]) == (index is not None, False)
    assert "staleDays" not in verified
    compared = await asked(rig, STALE)
    assert compared["isStale"]
    assert (compared.get("indexedCid"), compared.get("pdsCid")) == (index, repository)


@BOTH
async def test_of_no_record(path: str) -> None:
    message = error_of(await rig_of(None, None).get(path, params={"uri": URI}), 404, "NotFound")
    assert message == "neither the index nor the repository has this record"
    for params in ({}, {"uri": f"at://{DID}"}, {"uri": "at://alice.test/a.b.c/d"}):
        error_of(await Rig().get(path, params=params), 400, "InvalidRequest")


@BOTH
@pytest.mark.parametrize(
    ("failure", "status", "name"),
    [
        (Failure.REPO_TAKENDOWN, 404, "NotFound"),
        (Failure.OUT_OF_SCOPE, 404, "NotFound"),
        (Failure.HOST_UNREACHABLE, 503, "ServiceUnavailable"),
        (Failure.SIGNATURE_INVALID, 503, "ServiceUnavailable"),
    ],
)
async def test_what_the_repository_does_not_tell_is_no_answer(
    path: str, failure: Failure, status: int, name: str
) -> None:
    rig = Rig()
    rig.broker.on_send = lambda command: rig.table.put(
        transitions.fail(begun(command), 6.0, failure, "its host says so")
    )
    answer = await rig.get(path, params={"uri": URI})
    assert f"{failure}: its host says so" in error_of(answer, status, name)


@BOTH
async def test_what_takes_too_long_is_no_answer(path: str) -> None:
    rig = Rig(deadline=0.1)
    answer = await rig.get(path, params={"uri": URI})
    assert rig.broker.sent[0].id in error_of(answer, 503, "ServiceUnavailable")
    rig.broker.hangs = True
    error_of(await rig.get(path, params={"uri": URI}), 503, "ServiceUnavailable")
    rig.index.error = Unavailable("password=secret")
    assert "secret" not in error_of(
        await rig.get(path, params={"uri": URI}), 503, "ServiceUnavailable"
    )


@BOTH
async def test_the_same_token_asks_the_repository_again(path: str) -> None:
    rig = rig_of(OLD, NEW)
    headers = {"Authorization": f"{CALLER} kept"}
    for _ in range(2):
        await rig.get(path, params={"uri": URI}, headers=headers)
    assert len({command.id for command in rig.broker.sent}) == 2


@BOTH
async def test_anonymous_callers_are_refused(path: str) -> None:
    rig = Rig()
    async with rig.client() as client:
        del client.headers["Authorization"]
        answer = await client.get(path, params={"uri": URI})
    error_of(answer, 401, "AuthenticationRequired")
