"""Calls of the consumer's gateway, as people make them: with a token, and by way of their PDS."""

from __future__ import annotations

import asyncio
import socket
import time
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from demo.author import Author
from demo.xrpc import Xrpc, XrpcFailed
from procedures.contract import REFRESH_RECORD, TRIGGER_DID_SYNC

_DEADLINE = 60.0
_POLL = 0.3


@dataclass(frozen=True, slots=True)
class Gateway:
    """The gateway at ``port`` of this machine, which is a service by its did:web."""

    port: int

    @classmethod
    def at_a_free_port(cls) -> Gateway:
        """Return one that a consumer may become."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            return cls(int(probe.getsockname()[1]))

    @property
    def did(self) -> str:
        """The service's DID, whose document the gateway serves."""
        return f"did:web:{quote(f'localhost:{self.port}')}"

    def environment(self, *admins: str) -> dict[str, str]:
        """Return the settings that make a consumer this gateway."""
        return {
            "CHIVE_GATEWAY__BIND": f"127.0.0.1:{self.port}",
            "CHIVE_GATEWAY__SERVICE_DID": self.did,
            "CHIVE_GATEWAY__ADMINS": ",".join(admins),
        }

    async def sync(self, admin: Author, did: str) -> str:
        """Trigger a DID sync with a token of ``admin``, and return the operation's id."""
        token = await admin.token(self.did, TRIGGER_DID_SYNC)
        async with Xrpc(f"http://127.0.0.1:{self.port}", f"Bearer {token}") as client:
            answer = await _answered(client, TRIGGER_DID_SYNC, {"did": did})
        return str(answer["operationId"])

    async def refresh(self, caller: Author, uri: str) -> dict[str, Any]:
        """Refresh a record by way of the PDS of ``caller``, and return the answer."""
        answer: dict[str, Any] = await caller.call(
            f"{self.did}#chive", REFRESH_RECORD, {"uri": uri}
        )
        return answer


async def _answered(client: Xrpc, method: str, body: dict[str, str]) -> Any:
    """Call a procedure; wait for the service while its port is closed."""
    give_up = time.monotonic() + _DEADLINE
    while True:
        try:
            return await client.procedure(method, body)
        except XrpcFailed as failure:
            if failure.status is not None or time.monotonic() > give_up:
                raise
        await asyncio.sleep(_POLL)
