"""The gateway's first user: Chive's web client, as far as it calls the gateway.

It keeps a token by method until 10 s before it expires, and does not throw it away on a 401.  Its
admin page polls, cancels by ``operationId``, and shows as under way what is exactly ``running``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import httpx

from procedures.contract import (
    CANCEL_BACKFILL,
    GET_BACKFILL_HISTORY,
    GET_BACKFILL_STATUS,
    REGISTER_PDS,
    TRIGGER_DID_SYNC,
)

_RENEW_BEFORE = 10.0
_PAGE_READS = {"id", "type", "status", "progress", "recordsProcessed", "startedAt"}
_PAGE_KNOWS = {"running", "completed", "failed", "cancelled"}


class Pds(Protocol):
    """Signs tokens of the user who is logged in."""

    async def service_auth(self, audience: str, method: str) -> tuple[str, float]:
        """Return a token, and when it expires (Unix seconds)."""


Send = Callable[[str, str, dict[str, Any]], Awaitable[httpx.Response]]
"""Sends one request: verb, path, options of httpx."""


@dataclass
class WebClient:
    """Chive's pages; ``clock`` gives Unix seconds.

    ``answers`` counts by method and status; ``tokens`` are those that it got, by method.
    """

    pds: Pds
    send: Send
    audience: str
    clock: Callable[[], float]
    answers: Counter[tuple[str, int]] = field(default_factory=Counter)
    tokens: Counter[str] = field(default_factory=Counter)
    _kept: dict[str, tuple[str, float]] = field(default_factory=dict)

    async def status(self) -> list[dict[str, Any]]:
        """Return what the admin page lists, after it has read every operation."""
        return _read(await self._call("GET", GET_BACKFILL_STATUS))

    async def history(self) -> list[dict[str, Any]]:
        """Return what the admin page lists as over."""
        return _read(await self._call("GET", GET_BACKFILL_HISTORY))

    async def trigger(self, did: str) -> str:
        """Return the id of the operation that the page then follows."""
        answer = await self._call("POST", TRIGGER_DID_SYNC, json={"did": did})
        return str(answer["operationId"])

    async def cancel(self, identifier: str) -> bool:
        """Tell what the page is told."""
        answer = await self._call("POST", CANCEL_BACKFILL, json={"operationId": identifier})
        return bool(answer["success"])

    async def log_in(self, pds: str) -> bool:
        """Register the user's PDS, as at every login; tell whether it is registered."""
        answer = await self._call("POST", REGISTER_PDS, json={"pdsUrl": pds})
        assert answer.keys() >= {"pdsUrl", "registered", "status"}
        return bool(answer["registered"])

    async def _call(self, verb: str, method: str, **options: Any) -> dict[str, Any]:
        headers = {"Authorization": f"Bearer {await self._token(method)}"}
        answer = await self.send(verb, f"/xrpc/{method}", {"headers": headers, **options})
        self.answers[method, answer.status_code] += 1
        assert answer.status_code == 200, f"{method}: {answer.status_code} {answer.text}"
        return dict(answer.json())

    async def _token(self, method: str) -> str:
        text, expires = self._kept.get(method, ("", 0.0))
        if self.clock() >= expires - _RENEW_BEFORE:
            text, expires = await self.pds.service_auth(self.audience, method)
            self._kept[method] = text, expires
            self.tokens[method] += 1
        return text


def _read(page: dict[str, Any]) -> list[dict[str, Any]]:
    operations: list[dict[str, Any]] = page["operations"]
    for operation in operations:
        assert operation.keys() >= _PAGE_READS
        assert operation["status"] in _PAGE_KNOWS
    return operations
