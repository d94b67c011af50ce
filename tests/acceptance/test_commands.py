"""``consumer sync | refresh | discover | …`` as processes, beside a real fetcher."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from consumer.store.database import Database
from tests.support.accounts import Accounts
from tests.support.consumer import Start
from tests.support.deployment import Deployment
from tests.support.eventually import eventually
from tests.support.pds import silence

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

    unsure = await consumer("forget", UNKNOWN, env=environment)  # nobody answers its question
    assert await unsure.ended(60) == 2
    assert "--yes" in unsure.lines[-1]

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


async def test_a_controller_killed_in_the_middle_of_many_asks_for_each_once(
    accounts: Accounts, deployment: Deployment, database: Database, consumer: Start, tmp_path: Path
) -> None:
    environment = accounts.environment(deployment)
    fetcher = await consumer("run", "--role", "fetcher", env=environment)
    await fetcher.saying("lane_claimed", deadline=90)
    names = [f"did:plc:{index:a>24}" for index in sorted(map(_letters, range(1_200)))]
    file = tmp_path / "dids"
    file.write_text("\n".join(["# nobody", "", *names, names[0]]))
    many = await consumer("sync", "--file", str(file), "--json", env=environment)

    async def children() -> list[tuple[str, str]]:
        async with database.transaction() as connection:
            found = await connection.execute(
                "SELECT did, status FROM operations WHERE parent IS NOT NULL"
            )
            return await found.fetchall()

    for least in (100, 600):

        async def some(least: int = least) -> bool:
            return sum(status == "failed" for _, status in await children()) >= least

        await eventually(some, what=f"{least} have ended", deadline=120)
        fetcher.signal(signal.SIGKILL)
        await fetcher.ended()
        fetcher = await consumer("run", "--role", "fetcher", env=environment)
    assert await many.ended(240) == 1, many
    assert sorted(did for did, _ in await children()) == sorted(names)
    parents = [json.loads(line) for line in many.out.splitlines()]
    assert len(parents) > 1, "they do not fit into one command"
    assert {parent["status"] for parent in parents} == {"completed"}
    failed = [parent["children"]["failed"] for parent in parents]
    assert sum(each["DidNotFound"] for each in failed) == len(names)
    assert await fetcher.stopped() == 0


async def test_many_are_cancelled_as_one(
    accounts: Accounts, deployment: Deployment, consumer: Start, tmp_path: Path
) -> None:
    environment = accounts.environment(deployment)
    fetcher = await consumer("run", "--role", "fetcher", env=environment)
    await fetcher.saying("lane_claimed", deadline=90)
    names = [f"did:plc:{index:a>24}" for index in map(_letters, range(30))]
    accounts.directory.replies |= {f"/{name}": silence for name in names}
    file = tmp_path / "dids"
    file.write_text("\n".join(names))
    many = await consumer("sync", "--file", str(file), "--no-wait", env=environment)
    assert await many.ended(60) == 0
    identifier = many.out.strip()

    async def listed() -> list[str]:
        shown = await consumer("operations", "--parent", identifier, "--json", env=environment)
        assert await shown.ended(60) == 0
        return [json.loads(line)["status"] for line in shown.out.splitlines()]

    async def begun() -> bool:
        return len(await listed()) == len(names)

    await eventually(begun, what="all are asked for", deadline=60)
    stop = await consumer("cancel", identifier, env=environment)
    assert await stop.ended(60) == 0, stop
    assert "30 cancelled" in stop.out
    assert await listed() == ["cancelled"] * len(names)
    alone = await consumer("operations", "--json", env=environment)
    assert await alone.ended(60) == 0
    found = [json.loads(line) for line in alone.out.splitlines()]
    assert not [each for each in found if "parent" in each]
    (parent,) = [each for each in found if each["type"] == "bulkSync"]  # beside discoveries
    assert (parent["id"], parent["status"]) == (identifier, "cancelled")
    assert await fetcher.stopped() == 0


def _letters(number: int) -> str:
    return "".join(chr(ord("b") + int(digit)) for digit in str(number))


@pytest.mark.parametrize(
    "arguments",
    [
        ("sync", "did:unknown"),
        ("repo", "did:unknown"),
        ("forget", "did:unknown", "--yes"),
        ("refresh", "at://alice.test/a.b.c/d"),
        ("sync",),
        ("sync", UNKNOWN, "--all"),
        ("sync", "--failed", "--host", "a.example"),
        ("sync", "--host", "a/b"),
        ("sync", "--collection", "*"),
        ("sync", "--file", "nowhere"),
        ("discover", "--source", "a.example"),
    ],
)
async def test_wrong_usage(arguments: tuple[str, ...], consumer: Start) -> None:
    process = await consumer(*arguments)
    assert await process.ended(60) == 2
