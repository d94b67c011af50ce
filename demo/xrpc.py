"""Calls to a PDS: the transport and errors of the atproto SDK, with plain JSON in and out.

The SDK's typed models are left aside: they know the lexicons of bsky.app, and records here
are of others.  Submodules only: its top package costs a second to import.
"""

from __future__ import annotations

import base64
from typing import Any, Self

import httpx
import orjson
from atproto_client.exceptions import AtProtocolError, RequestErrorBase
from atproto_client.models.common import XrpcError
from atproto_client.request import AsyncRequest

from consumer.runtime.closing import Closing

_TIMEOUT = 60.0  # seconds; a busy machine makes the PDS slow


class XrpcFailed(Exception):
    """A call was refused, or no server was reached: ``error`` is the XRPC error's name."""

    def __init__(self, nsid: str, status: int | None, error: str, message: str) -> None:
        super().__init__(f"{nsid}: {status} {error}: {message}")
        self.status = status
        self.error = error


class Xrpc(Closing):
    """A client of one PDS or service.  ``authorization`` is the header of every call, if set."""

    def __init__(self, pds: str, authorization: str | None = None) -> None:
        self.authorization = authorization
        self._request = AsyncRequest(timeout=_TIMEOUT, trust_env=False)  # loopback: no proxies
        self._base = f"{pds}/xrpc"

    @classmethod
    def administrator(cls, pds: str, password: str) -> Self:
        """Return a client that acts as the administrator of the PDS."""
        credentials = base64.b64encode(f"admin:{password}".encode()).decode()
        return cls(pds, f"Basic {credentials}")

    async def close(self) -> None:
        """Release the connections."""
        await self._request.close()

    async def query(self, nsid: str, **parameters: Any) -> Any:
        """Call a query and return its body: decoded JSON, or bytes."""
        url_parameters = {name: value for name, value in parameters.items() if value is not None}
        return await self._call("get", nsid, params=url_parameters)

    async def procedure(
        self, nsid: str, body: dict[str, Any] | None = None, service: str | None = None
    ) -> Any:
        """Call a procedure with a JSON body and return its decoded answer.

        ``service`` is a DID with a fragment: the PDS passes the call on to it.
        """
        if body is None:
            return await self._call("post", nsid, service=service)
        content = orjson.dumps(body)
        return await self._call("post", nsid, "application/json", service, content=content)

    async def upload(self, nsid: str, content: bytes, mime_type: str) -> Any:
        """Call a procedure with bytes and return its decoded answer."""
        return await self._call("post", nsid, mime_type, content=content)

    async def _call(
        self,
        verb: str,
        nsid: str,
        kind: str | None = None,
        service: str | None = None,
        **request: Any,
    ) -> Any:
        headers = {"Authorization": self.authorization} if self.authorization else {}
        if service is not None:
            headers["atproto-proxy"] = service
        if kind is not None:
            headers["Content-Type"] = kind
        send = self._request.get if verb == "get" else self._request.post
        try:
            response = await send(url=f"{self._base}/{nsid}", headers=headers, **request)
        except (AtProtocolError, httpx.HTTPError) as error:
            raise _failed(nsid, error) from error
        return response.content


def _failed(nsid: str, error: Exception) -> XrpcFailed:
    response = error.response if isinstance(error, RequestErrorBase) else None
    if response is None:
        return XrpcFailed(nsid, None, type(error).__name__, str(error))
    if isinstance(response.content, XrpcError):
        content = response.content
        return XrpcFailed(nsid, response.status_code, content.error or "", content.message or "")
    return XrpcFailed(nsid, response.status_code, "", str(response.content)[:200])
