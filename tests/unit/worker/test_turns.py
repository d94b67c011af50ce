from __future__ import annotations

import asyncio
from contextlib import suppress

from consumer.worker.turns import Turns


async def test_batches_go_together_and_one_alone_waits_for_them() -> None:
    turns, log = Turns(), list[str]()
    may_end = asyncio.Event()

    async def together(name: str) -> None:
        async with turns.together():
            log.append(f"{name} begins")
            await may_end.wait()
            log.append(f"{name} ends")

    async def alone(name: str) -> None:
        async with turns.alone():
            log.append(f"{name} begins")
            await asyncio.sleep(0)
            log.append(f"{name} ends")

    async with asyncio.TaskGroup() as group:
        for run in (together("a"), together("b"), alone("c"), alone("d"), together("e")):
            group.create_task(run)
            await asyncio.sleep(0)
        assert log == ["a begins", "b begins"]
        may_end.set()
    assert log[2:4] == ["a ends", "b ends"]
    assert {"c begins", "d begins", "e begins"} < set(log)
    for name in "cd":
        begins = log.index(f"{name} begins")
        assert log[begins + 1] == f"{name} ends", "nothing comes in between"


async def test_an_error_ends_a_turn() -> None:
    turns = Turns()
    for turn in (turns.alone, turns.together, turns.alone):
        with suppress(ZeroDivisionError):
            async with turn():
                1 // 0  # noqa: B018
    async with asyncio.timeout(10), turns.alone():
        pass
