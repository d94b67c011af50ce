"""Each request once: the memory of requests behind the gateway."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest
from structlog.testing import capture_logs

from procedures import gateway, transitions
from procedures.client import Unavailable
from procedures.messages import Command, RecordRefresh
from procedures.operations import Type, queued
from procedures.rate_limits import Rate
from procedures.replays import PER_TOKEN, Claim, TokenRequest, digest_of
from tests.unit.procedures.gateway import (
    CALLER,
    HISTORY,
    REFRESH,
    STATUS,
    TRIGGER,
    Rig,
    error_of,
    operation_id,
)
from tests.unit.procedures.strategies import DID, URI

HEADERS = {"Authorization": f"{CALLER} kept"}
SYNC = {"did": DID}
SYNC_ID = operation_id(TRIGGER, SYNC, "kept")


async def _sync(
    rig: Rig, body: Any = SYNC, headers: dict[str, str] | None = None
) -> httpx.Response:
    return await rig.post(TRIGGER, json=body, headers=headers or HEADERS)


# what a request is


def test_a_request_is_what_one_token_asks_of_one_method_with_one_body() -> None:
    digest = digest_of("a.b.c", SYNC)
    one = TokenRequest("did:a:b", "j", 1.0, False, digest)
    assert one.identifier == TokenRequest("did:a:b", "j", 2.0, True, digest).identifier
    others = {
        TokenRequest("did:a:c", "j", 1.0, False, digest),
        TokenRequest("did:a:b", "k", 1.0, False, digest),
        TokenRequest("did:a:b", "j", 1.0, False, digest_of("a.b.d", SYNC)),
        TokenRequest("did:a:b", "j", 1.0, False, digest_of("a.b.c", {"did": "did:a:b"})),
        TokenRequest("did:a:b", "j", 1.0, False, digest_of("a.b.c", SYNC | {"x": 1})),
    }
    assert len({one.identifier, *(other.identifier for other in others)}) == 6
    assert digest_of("a.b.c", {"a": 1, "b": 2}) == digest_of("a.b.c", {"b": 2, "a": 1})


# procedures


async def test_the_same_request_again_is_answered_with_the_first_result() -> None:
    rig = Rig()
    answers = [await _sync(rig) for _ in range(3)]
    assert [(a.status_code, a.json()) for a in answers] == [(200, {"operationId": SYNC_ID})] * 3
    assert [command.id for command in rig.broker.sent] == [SYNC_ID]


async def test_the_log_says_which_answers_are_repeated() -> None:
    rig = Rig()
    with capture_logs() as lines:
        for _ in range(2):
            await _sync(rig)
    served = [line for line in lines if line["event"] == "request_served"]
    assert [(line["repeated"], line["operation"]) for line in served] == [
        (False, SYNC_ID),
        (True, SYNC_ID),
    ]


async def test_the_same_request_waits_while_the_first_runs() -> None:
    rig = Rig()

    def begin(command: Command) -> None:
        assert isinstance(command, RecordRefresh)
        rig.table.put(transitions.start(_refresh(command), 5.0))

    rig.broker.on_send = begin
    calls = [
        asyncio.create_task(rig.post(REFRESH, json={"uri": URI}, headers=HEADERS)) for _ in range(5)
    ]
    await rig.table.awaited.wait()
    (running,) = rig.table.rows.values()
    rig.table.put(transitions.complete(running, 6.0))
    for answer in await asyncio.gather(*calls):
        error_of(answer, 404, "NotFound")
    assert len(rig.broker.sent) == 1


def _refresh(command: RecordRefresh) -> Any:
    return queued(command.id, Type.RECORD_REFRESH, DID, 5.0, uri=command.uri)


async def test_what_a_command_ended_in_is_remembered_as_an_error_too() -> None:
    rig = Rig()

    def carry_out(command: Command) -> None:
        assert isinstance(command, RecordRefresh)
        rig.table.put(transitions.complete(transitions.start(_refresh(command), 5.0), 6.0))

    rig.broker.on_send = carry_out
    for _ in range(2):
        answer = await rig.post(REFRESH, json={"uri": URI}, headers=HEADERS)
        error_of(answer, 404, "NotFound")
    assert len(rig.broker.sent) == 1


async def test_another_body_with_the_same_token_is_another_request() -> None:
    rig = Rig()
    dids = [f"did:plc:{n}" for n in range(PER_TOKEN + 1)]
    answers = [await _sync(rig, {"did": did}) for did in dids]
    assert [a.status_code for a in answers] == [200] * PER_TOKEN + [429]
    error_of(answers[-1], 429, "RateLimitExceeded")
    assert answers[-1].headers["retry-after"] == "60"
    assert [command.subject for command in rig.broker.sent] == dids[:-1]
    assert len({command.id for command in rig.broker.sent}) == PER_TOKEN
    assert (await _sync(rig, {"did": dids[0]})).status_code == 200, "its answer is known"
    assert (await _sync(rig, {"did": dids[-1]}, {"Authorization": f"{CALLER} new"})).is_success


async def test_requests_with_one_token_are_limited_like_all() -> None:
    rig = Rig(by_admin=Rate(burst=2, per_second=0.001))
    assert [(await _sync(rig)).status_code for _ in range(3)] == [200, 200, 429]


@pytest.mark.parametrize("hangs", [False, True])
async def test_an_answer_without_a_command_is_not_remembered(
    hangs: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gateway, "_GRACE", 60.0)  # for the handler's own answer
    rig = Rig(deadline=0.3)
    rig.broker.error, rig.broker.hangs = None if hangs else Unavailable(), hangs
    message = error_of(await _sync(rig), 503, "ServiceUnavailable")
    assert SYNC_ID in message
    rig.broker.error, rig.broker.hangs = None, False
    assert (await _sync(rig)).json() == {"operationId": SYNC_ID}, "the same operation"


async def test_what_breaks_is_not_remembered() -> None:
    rig = Rig()
    rig.broker.error = RuntimeError()
    error_of(await _sync(rig), 500, "InternalServerError")
    rig.broker.error = None
    assert (await _sync(rig)).status_code == 200


async def test_wrong_input_uses_nothing_up() -> None:
    rig = Rig()
    error_of(await _sync(rig, {"did": "x"}), 400, "InvalidRequest")
    assert not rig.memory.rows


# owners that are lost


async def _claimed_by_another(rig: Rig) -> None:
    request = TokenRequest(CALLER, "kept", 65.0, True, digest_of(TRIGGER[6:], SYNC))
    assert await rig.memory.claim(request, "other", 9.0) is Claim.MINE


async def test_while_an_owner_may_still_answer_nobody_else_carries_it_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(gateway, "_GRACE", 60.0)
    rig = Rig(deadline=0.3)
    await _claimed_by_another(rig)
    answer = await _sync(rig)
    message = error_of(answer, 503, "ServiceUnavailable")
    assert "what becomes of it is not known yet" in message
    assert answer.headers["retry-after"] == "5"
    assert not rig.broker.sent


async def test_when_the_owner_is_lost_the_same_operation_is_asked_for() -> None:
    rig = Rig()
    await _claimed_by_another(rig)
    call = asyncio.create_task(_sync(rig))
    await asyncio.sleep(0)
    rig.memory.lost.add("other")
    assert (await call).json() == {"operationId": SYNC_ID}
    assert [command.id for command in rig.broker.sent] == [SYNC_ID]


async def test_an_owner_that_comes_back_changes_no_answer() -> None:
    rig = Rig()
    await _claimed_by_another(rig)
    rig.memory.lost.add("other")
    await _sync(rig)
    (request,) = rig.memory.rows
    await rig.memory.answer(request, "other", b"{}")
    await rig.memory.release(request, "other")
    assert (await _sync(rig)).json() == {"operationId": SYNC_ID}


# without the memory


async def test_without_the_memory_nothing_is_carried_out() -> None:
    rig = Rig()
    rig.memory.away = True
    answer = await _sync(rig)
    assert "secret" not in error_of(answer, 503, "ServiceUnavailable")
    assert answer.headers["retry-after"] == "5"
    assert not rig.broker.sent
    assert (await rig.get(STATUS, headers=HEADERS)).status_code == 200, "queries need none"


async def test_what_was_carried_out_is_answered_even_if_it_cannot_be_kept() -> None:
    rig = Rig()

    def lose(_command: Command) -> None:
        rig.memory.away = True

    rig.broker.on_send = lose
    with capture_logs() as lines:
        assert (await _sync(rig)).json() == {"operationId": SYNC_ID}
    assert [line["operation"] for line in lines if line["event"] == "answer_not_kept"] == [SYNC_ID]


@pytest.mark.parametrize(
    ("claim", "status"),
    [(Claim.TOKEN_FULL, 429), (Claim.ISSUER_FULL, 429), (Claim.FULL, 503)],
)
@pytest.mark.parametrize("token_reuse", [True, False])
async def test_a_full_memory_lets_nothing_through(
    claim: Claim, status: int, token_reuse: bool
) -> None:
    rig = Rig(token_reuse=token_reuse)
    rig.memory.refusal = claim
    assert (await _sync(rig)).status_code == status
    assert not rig.broker.sent


# queries, and tokens for one use


async def test_a_query_takes_the_same_token_until_it_expires() -> None:
    rig = Rig()
    for path in (STATUS, HISTORY):
        for _ in range(PER_TOKEN + 5):
            assert (await rig.get(path, headers=HEADERS)).status_code == 200
    assert not rig.memory.rows


async def test_without_reuse_a_token_is_for_one_call_of_anything() -> None:
    rig = Rig(token_reuse=False)
    answers = await asyncio.gather(*(_sync(rig) for _ in range(5)))
    assert sorted(answer.status_code for answer in answers) == [200, 401, 401, 401, 401]
    assert [command.id for command in rig.broker.sent] == [SYNC_ID]
    refused = await _sync(rig, {"did": "did:plc:other"})
    assert "used before" in error_of(refused, 401, "AuthenticationRequired")
    assert refused.headers["www-authenticate"] == "Bearer"
    error_of(await rig.get(STATUS, headers=HEADERS), 401, "AuthenticationRequired")
    fresh = {"Authorization": f"{CALLER} fresh"}
    assert (await rig.get(STATUS, headers=fresh)).status_code == 200
    error_of(await rig.get(STATUS, headers=fresh), 401, "AuthenticationRequired")


async def test_without_reuse_and_without_the_memory_queries_are_refused_too() -> None:
    rig = Rig(token_reuse=False)
    rig.memory.away = True
    error_of(await rig.get(STATUS, headers=HEADERS), 503, "ServiceUnavailable")
