"""Two gateways side by side on one PostgreSQL: each request is carried out once."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from random import Random
from urllib.parse import urlsplit

import httpx
import pytest
from pydantic import SecretStr

from consumer.store.database import Database
from consumer.store.replays import StoredReplays
from procedures.client import Unavailable
from procedures.messages import Command
from procedures.replays import PER_TOKEN, Claim, Limits, TokenRequest, digest_of
from tests.support.deployment import Deployment
from tests.support.eventually import eventually
from tests.support.proxy import TcpProxy
from tests.unit.procedures.chive import live_an_hour
from tests.unit.procedures.fakes import Broker
from tests.unit.procedures.gateway import CALLER, TRIGGER, Rig, error_of, operation_id

pytestmark = [pytest.mark.services, pytest.mark.timeout(300)]

SEEDS = range(4)


def body(number: int) -> dict[str, str]:
    return {"did": f"did:plc:{number}"}


async def sync(rig: Rig, number: int = 0, jti: str = "kept") -> httpx.Response:
    headers = {"Authorization": f"{CALLER} {jti}"}
    return await rig.post(TRIGGER, json=body(number), headers=headers)


def request_of(number: int = 0, jti: str = "kept", *, expires: float | None = None) -> TokenRequest:
    digest = digest_of(TRIGGER.removeprefix("/xrpc/"), body(number))
    return TokenRequest(CALLER, jti, expires or time.time() + 60, True, digest)


class Wavering(Broker):
    """Takes its time, and now and then fails before or after it has taken a command."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.random = Random(seed)

    async def send(self, command: Command) -> None:
        await asyncio.sleep(self.random.random() * 0.02)
        chance = self.random.random()
        if chance < 0.15:
            raise Unavailable
        await super().send(command)
        if chance < 0.3:
            raise Unavailable


@asynccontextmanager
async def gateways(
    deployment: Deployment, broker: Broker | None = None, *, count: int = 2, deadline: float = 8.0
) -> AsyncIterator[list[Rig]]:
    """Give gateways, each with its own pool of sessions, that send to one broker."""
    broker = broker or Broker()
    async with AsyncExitStack() as stack:
        found = []
        for _ in range(count):
            database = Database(deployment.postgres(pool_size=4), deployment.prefix)
            stack.push_async_callback(database.close)
            await database.open()
            memory = StoredReplays(database)
            found.append(Rig(memory=memory, broker=broker, deadline=deadline))
        yield found


async def test_the_same_request_at_both_makes_one_command(deployment: Deployment) -> None:
    async with gateways(deployment) as (one, other):
        answers = await asyncio.gather(*(sync(rig) for rig in [one, other] * 10))
        assert {(a.status_code, a.json()["operationId"]) for a in answers} == {
            (200, operation_id(TRIGGER, body(0), "kept"))
        }
        assert len(one.broker.sent) == 1


@pytest.mark.parametrize("seed", SEEDS)
async def test_any_requests_in_any_order_at_any_gateway(deployment: Deployment, seed: int) -> None:
    """Whatever fails in between: one operation for each request, and the same answer to all."""
    chance = Random(seed)
    wanted = [(chance.randrange(5), f"token-{chance.randrange(3)}") for _ in range(60)]
    answers: dict[tuple[int, str], set[str]] = {}
    async with gateways(deployment, Wavering(seed), count=3) as rigs:

        async def call(number: int, jti: str) -> None:
            async def answered() -> bool:
                answer = await sync(chance.choice(rigs), number, jti)
                assert answer.status_code == 200, error_of(answer, 503, "ServiceUnavailable")
                answers.setdefault((number, jti), set()).add(answer.json()["operationId"])
                return True

            await asyncio.sleep(chance.random() * 0.3)
            await eventually(answered, what=f"{number} {jti}", deadline=60, every=0.02)

        await asyncio.gather(*(call(number, jti) for number, jti in wanted))
        expected = {
            (number, jti): {operation_id(TRIGGER, body(number), jti)} for number, jti in wanted
        }
        assert answers == expected
        sent = [command.id for command in rigs[0].broker.sent]
        assert set(sent) == set.union(*expected.values())


async def test_without_failures_no_command_is_sent_twice(deployment: Deployment) -> None:
    chance = random.Random(1)
    wanted = [(chance.randrange(4), f"token-{chance.randrange(4)}") for _ in range(60)]
    async with gateways(deployment, count=3) as rigs:
        answers = await asyncio.gather(
            *(sync(chance.choice(rigs), number, jti) for number, jti in wanted)
        )
        assert {answer.status_code for answer in answers} == {200}
        assert len(rigs[0].broker.sent) == len(set(wanted))


async def test_a_token_makes_no_more_than_its_number_of_requests_at_both(
    deployment: Deployment,
) -> None:
    async with gateways(deployment) as (one, other):
        rigs = [one, other] * PER_TOKEN
        answers = await asyncio.gather(
            *(sync(rig, number) for number, rig in enumerate(rigs[: PER_TOKEN + 10]))
        )
        statuses = sorted(answer.status_code for answer in answers)
        assert statuses == [200] * PER_TOKEN + [429] * 10
        assert len(one.broker.sent) == PER_TOKEN


async def test_a_gateway_that_dies_before_its_answer_leaves_one_operation(
    deployment: Deployment,
) -> None:
    async with gateways(deployment, deadline=1.0) as (dying, other):
        dying.broker.hangs = True
        call = asyncio.create_task(sync(dying))
        await asyncio.sleep(0.3)
        call.cancel()  # as it is for a process that is killed: nobody forgets the request
        with pytest.raises(asyncio.CancelledError):
            await call
        dying.broker.hangs = False
        answer = await sync(other)
        assert "not known yet" in error_of(answer, 503, "ServiceUnavailable")
        assert not other.broker.sent

        async def answered() -> bool:
            answer = await sync(other)
            assert answer.json() == {"operationId": operation_id(TRIGGER, body(0), "kept")}
            return True

        await eventually(answered, what="the request is carried out", deadline=60)
        assert len(other.broker.sent) == 1


async def test_who_lost_a_request_changes_nothing_of_it(database: Database) -> None:
    replays, request = StoredReplays(database), request_of()
    first, second = "00000000-0000-0000-0000-000000000001", "00000000-0000-0000-0000-000000000002"
    assert await replays.claim(request, first, -1.0) is Claim.MINE
    claims = await asyncio.gather(*(replays.claim(request, second, 60.0) for _ in range(8)))
    assert sorted(map(str, claims)) == sorted([str(Claim.MINE)] + [str(Claim.RUNNING)] * 7)
    await replays.release(request, first)
    await replays.answer(request, first, b"late")
    assert await replays.claim(request, first, 60.0) is Claim.RUNNING
    await replays.answer(request, second, b"answer")
    assert await replays.claim(request, first, 60.0) == b"answer"
    await replays.release(request, second)
    assert await replays.claim(request, first, 60.0) == b"answer"


async def test_limits_of_an_issuer_and_of_all(database: Database) -> None:
    replays = StoredReplays(database, Limits(per_issuer=2, per_admin=4, strangers=3))
    owner, expires = "00000000-0000-0000-0000-000000000001", time.time() + 60

    async def claims(issuer: str, count: int, *, admin: bool = False) -> list[object]:
        requests = [TokenRequest(issuer, f"{n}", expires, admin) for n in range(count)]
        return [await replays.claim(request, owner, 9.0) for request in requests]

    assert await claims("did:a:b", 3) == [Claim.MINE] * 2 + [Claim.ISSUER_FULL]
    assert await claims("did:a:c", 2) == [Claim.MINE, Claim.FULL]
    assert await claims("did:a:d", 5, admin=True) == [Claim.MINE] * 4 + [Claim.ISSUER_FULL]


async def test_requests_are_forgotten_when_their_tokens_have_long_expired(
    database: Database,
) -> None:
    replays, now = StoredReplays(database), time.time()
    owner = "00000000-0000-0000-0000-000000000001"
    old, just, fresh = (
        request_of(jti=jti, expires=now + seconds)
        for jti, seconds in (("old", -70), ("just", -50), ("fresh", 60))
    )
    for request in (old, just, fresh):
        assert await replays.claim(request, owner, 60.0) is Claim.MINE
    await replays.sweep()
    assert await replays.claim(old, owner, 60.0) is Claim.MINE
    assert await replays.claim(just, owner, 60.0) is Claim.RUNNING
    assert await replays.claim(fresh, owner, 60.0) is Claim.RUNNING


async def test_while_postgresql_cannot_be_reached_nothing_is_let_through(
    deployment: Deployment,
) -> None:
    upstream = urlsplit(deployment.dsn).port
    assert upstream is not None
    async with TcpProxy(upstream) as proxy:
        database = Database(
            deployment.postgres(dsn=SecretStr(deployment.dsn_through(proxy))), deployment.prefix
        )
        await database.open()
        try:
            rig = Rig(memory=StoredReplays(database), deadline=2.0)
            assert (await sync(rig)).status_code == 200
            for fail in (proxy.stop, proxy.stall):
                pause = fail()
                if pause is not None:
                    await pause
                error_of(await sync(rig, 1), 503, "ServiceUnavailable")
                error_of(await sync(rig), 503, "ServiceUnavailable")
                assert len(rig.broker.sent) == 1
                await proxy.start()

            async def answered() -> bool:
                return (await sync(rig)).status_code == 200

            await eventually(answered, what="the memory is back", deadline=60)
            assert len(rig.broker.sent) == 1
        finally:
            await database.close()


async def test_an_hour_of_the_web_client_at_both(deployment: Deployment) -> None:
    memories = []
    async with AsyncExitStack() as stack:
        for _ in range(2):
            database = Database(deployment.postgres(pool_size=2), deployment.prefix)
            stack.push_async_callback(database.close)
            await database.open()
            memories.append(StoredReplays(database))
        await live_an_hour(memories, "#chive", 3, time.time())
