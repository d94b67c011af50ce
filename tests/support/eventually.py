"""Waiting for something to become true: polled, with a deadline, never a plain sleep."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, overload

T = TypeVar("T")


@overload
async def eventually(
    look: Callable[[], Awaitable[T]], *, what: str = ..., deadline: float = ..., every: float = ...
) -> T: ...
@overload
async def eventually(
    look: Callable[[], T], *, what: str = ..., deadline: float = ..., every: float = ...
) -> T: ...
async def eventually(
    look: Callable[[], Any], *, what: str = "", deadline: float = 30.0, every: float = 0.05
) -> Any:
    """Call ``look`` until it returns something true, and return that.

    An AssertionError inside ``look`` means "not yet".  After ``deadline`` seconds the last one,
    or the last value, is the failure.
    """
    give_up = time.monotonic() + deadline
    while True:
        try:
            found = look()
            value = await found if inspect.isawaitable(found) else found
            failure = AssertionError(f"{what or 'condition'} not met: last saw {value!r}")
            if value:
                return value
        except AssertionError as error:
            failure = error
        if time.monotonic() >= give_up:
            raise AssertionError(f"{what or 'condition'} not met in {deadline} s") from failure
        await asyncio.sleep(every)
