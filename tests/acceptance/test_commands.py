"""``consumer sync | refresh | discover | …`` as processes, beside a real fetcher."""

from __future__ import annotations

import json

import pytest

from tests.support.accounts import Accounts
from tests.support.consumer import Start
from tests.support.deployment import Deployment

pytestmark = [pytest.mark.services, pytest.mark.timeout(300)]

UNKNOWN = "did:plc:" + "z" * 24


async def test_commands_go_through_the_control_topic_and_end_with_a_telling_code(
    accounts: Accounts, deployment: Deployment, consumer: Start
) -> None:
    environment = accounts.environment(deployment)
    fetcher = await consumer("run", "--role", "fetcher", env=environment)
    await fetcher.saying("lane_claimed", deadline=90)

    sync = await consumer("sync", UNKNOWN, env=environment)
    assert await sync.ended(60) == 1, sync
    assert "failed" in sync.out
    assert "DidNotFound" in sync.out

    other = f"at://{UNKNOWN}/app.bsky.feed.post/one"
    refresh = await consumer("refresh", other, "--json", env=environment)
    assert await refresh.ended(60) == 1, refresh
    assert json.loads(refresh.out)["errorName"] == "OutOfScope"

    nothing = await consumer("discover", "--collection", "org.example.none", env=environment)
    assert await nothing.ended(60) == 1, nothing
    assert "OutOfScope" in nothing.out

    left = await consumer("sync", UNKNOWN, "--no-wait", env=environment)
    assert await left.ended(60) == 0
    identifier = left.out.strip()

    stop = await consumer("cancel", "nothing", env=environment)
    assert await stop.ended(60) == 1
    assert stop.lines == ["error: operation nothing was not cancelled: there is none"]

    shown = await consumer("operations", "--json", "--did", UNKNOWN, env=environment)
    assert await shown.ended(60) == 0
    found = [json.loads(line) for line in shown.out.splitlines()]
    assert {each["id"] for each in found} > {identifier}
    assert all(each["requestedBy"].startswith("cli:") for each in found)

    known = await consumer("repo", UNKNOWN, "--json", env=environment)
    assert await known.ended(60) == 0, known
    assert json.loads(known.out)["repo"] is None
    assert identifier in {each["id"] for each in json.loads(known.out)["operations"]}
    stranger = await consumer("repo", "did:plc:" + "y" * 24, env=environment)
    assert await stranger.ended(60) == 1
    assert stranger.lines[0].startswith("error: nothing is known of did:plc:yyyy")
    assert await fetcher.stopped() == 0


@pytest.mark.parametrize(
    "arguments",
    [
        ("sync", "did:unknown"),
        ("repo", "did:unknown"),
        ("refresh", "at://alice.test/a.b.c/d"),
        ("sync",),
        ("discover", "--source", "a.example"),
    ],
)
async def test_wrong_usage(arguments: tuple[str, ...], consumer: Start) -> None:
    process = await consumer(*arguments)
    assert await process.ended(60) == 2
