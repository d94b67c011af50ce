"""Following an operation to its end."""

from __future__ import annotations

import asyncio

from procedures import transitions
from procedures.client import follow, outcome
from procedures.operations import Operation, Phase, Status, Type, queued
from tests.unit.procedures.fakes import Table
from tests.unit.procedures.strategies import DID


def _queued() -> Operation:
    return queued("op", Type.DID_SYNC, DID, 1.0)


async def test_follow_yields_each_version_once_up_to_the_end() -> None:
    table, seen = Table(), []

    async def collect() -> None:
        async for operation in follow(table, "op"):
            seen.append((operation.version, operation.status))
            if operation.version < 4:
                table.put(_next(operation))

    task = asyncio.create_task(collect())
    await asyncio.sleep(0)
    assert seen == []
    table.put(_queued())
    await asyncio.wait_for(task, 5)
    assert seen == [
        (1, Status.QUEUED),
        (2, Status.RUNNING),
        (3, Status.RUNNING),
        (4, Status.COMPLETED),
    ]


def _next(operation: Operation) -> Operation:
    if operation.status == Status.QUEUED:
        return transitions.start(operation, 2.0)
    if operation.phase == Phase.RESOLVING:
        return transitions.advance(operation, Phase.INJECTED)
    return transitions.complete(operation, 3.0)


async def test_the_outcome_of_what_has_ended_comes_at_once() -> None:
    table = Table()
    table.put(transitions.cancel(_queued(), 2.0))
    operation = await outcome(table, "op", asyncio.get_running_loop().time() + 60)
    assert operation == table.rows["op"]


async def test_at_the_deadline_the_outcome_is_what_is_known() -> None:
    table = Table()
    assert await outcome(table, "op", asyncio.get_running_loop().time()) is None
    table.put(transitions.start(_queued(), 2.0))
    operation = await outcome(table, "op", asyncio.get_running_loop().time() + 0.05)
    assert operation == table.rows["op"]
