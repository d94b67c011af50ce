"""Each request once: the first result is the answer to all.

- The first to claim a request carries it out; the same request waits meanwhile, at whichever
  gateway it arrives.
- What became of it is remembered until the token expires.  A failure without a command (a limit, a
  service that is away) is not: the request may be made again.
- If its owner is lost between claim and answer, the command may or may not have been sent.  The
  next one to claim the request sends it (again) under the same id: the controller makes one
  operation of it, and the outcome of that is the answer.
- Without the memory nothing is carried out.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from uuid import uuid4

import orjson
import structlog

from procedures.calls import CallResult
from procedures.client import Unavailable
from procedures.contract import ErrorName, XrpcError
from procedures.replays import Claim, Replays, TokenRequest

# Between two looks at a request that somebody else carries out: at first, and at most.
_LOOK_FIRST, _LOOK_LONGEST = 0.05, 0.5
_KEEP_SECONDS = 1.0  # for the memory to take what became of a request
_SPARE_SECONDS = 3.0  # past a call's deadline: by then it is over, also for the memory
_FORGOTTEN_SECONDS = 3_600.0  # longer than any token is remembered

_REFUSALS = {
    Claim.TOKEN_FULL: (ErrorName.RATE_LIMIT_EXCEEDED, "too many requests with one token", "60"),
    Claim.ISSUER_FULL: (ErrorName.RATE_LIMIT_EXCEEDED, "too many requests of this issuer", "60"),
    Claim.FULL: (ErrorName.SERVICE_UNAVAILABLE, "too many requests at once", "5"),
    Claim.RUNNING: (
        ErrorName.SERVICE_UNAVAILABLE,
        "the same request was made before, and what becomes of it is not known yet",
        "5",
    ),
}

log = structlog.get_logger()

CarryOut = Callable[[str], Awaitable[CallResult]]
"""Carries a request out, as the operation with this id."""


class Once:
    """Carries out requests."""

    def __init__(self, replays: Replays) -> None:
        self._replays = replays

    async def use_up(self, request: TokenRequest, deadline: float) -> None:
        """Use a token that is for one request, whatever it asks for.

        Raises ``XrpcError(AuthenticationRequired)`` if it was used before, other ``XrpcError`` at
        limits, ``Unavailable``, and ``TimeoutError`` at ``deadline`` (the loop's time).
        """
        async with asyncio.timeout_at(deadline):
            claim = await self._replays.claim(
                replace(request, digest=b""), _new_owner(), _FORGOTTEN_SECONDS
            )
        if claim is Claim.RUNNING or isinstance(claim, bytes):
            headers = {"WWW-Authenticate": "Bearer"}
            message = "the token was used before"
            raise XrpcError(ErrorName.AUTHENTICATION_REQUIRED, message, headers)
        _check(claim)

    async def result(
        self, request: TokenRequest, deadline: float, carry_out: CarryOut, *, repeatable: bool
    ) -> CallResult:
        """Return the result of ``request``: by ``carry_out``, or what came of it before.

        ``repeatable``: what came of it only while this waits for it; a request that was answered
        earlier is made again, and counts once more.  Raises what ``carry_out`` raises,
        ``XrpcError`` at limits, ``Unavailable``, and ``TimeoutError`` at ``deadline`` (the loop's
        time).
        """
        owner, loop, pause = _new_owner(), asyncio.get_running_loop(), _LOOK_FIRST
        number, waited = 0, False
        while True:
            asked = request.again(number)
            async with asyncio.timeout_at(deadline):
                seconds = deadline - loop.time() + _SPARE_SECONDS
                claim = await self._replays.claim(asked, owner, seconds)
            if isinstance(claim, bytes):
                if waited or not repeatable:
                    return _decoded(claim)
                number += 1
                continue
            if claim is not Claim.RUNNING or loop.time() + pause >= deadline:
                _check(claim)
                return await self._carried_out(asked, owner, carry_out)
            waited = True
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LOOK_LONGEST)

    async def _carried_out(
        self, request: TokenRequest, owner: str, carry_out: CarryOut
    ) -> CallResult:
        try:
            result = await carry_out(request.identifier)
        except Exception:
            await self._kept(request, self._replays.release(request, owner))
            raise
        await self._kept(request, self._replays.answer(request, owner, _encoded(result)))
        return result

    async def _kept(self, request: TokenRequest, keeping: Awaitable[None]) -> None:
        """Wait a moment for the memory; without it the request stays as one whose owner is lost."""
        try:
            async with asyncio.timeout(_KEEP_SECONDS):
                await keeping
        except (Unavailable, TimeoutError) as error:
            log.warning("answer_not_kept", operation=request.identifier, reason=str(error))


def _new_owner() -> str:
    return str(uuid4())


def _check(claim: Claim) -> None:
    """Raise ``XrpcError`` unless the request may be carried out."""
    if claim is not Claim.MINE:
        name, message, seconds = _REFUSALS[claim]
        raise XrpcError(name, message, {"Retry-After": seconds})


def _encoded(result: CallResult) -> bytes:
    refusal = result.refusal
    return orjson.dumps(
        {
            "output": result.output,
            "operation": result.operation,
            "refusal": None if refusal is None else [refusal.name, refusal.message],
        }
    )


def _decoded(answer: bytes) -> CallResult:
    fields = orjson.loads(answer)
    refusal = fields["refusal"]
    return CallResult(
        fields["output"],
        fields["operation"],
        None if refusal is None else XrpcError(ErrorName(refusal[0]), refusal[1]),
        repeated=True,
    )
