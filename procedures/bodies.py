"""The body of a request, read within bounds of size and time."""

from __future__ import annotations

import asyncio
from email.message import Message

from starlette.requests import Request

from procedures import strict_json
from procedures.contract import ErrorName, XrpcError

# Characters.  Parsing takes quadratic time, and the number of parameters has no bound.
_MAX_CONTENT_TYPE = 256


def _is_json(content_type: str) -> bool:
    kind = Message()
    kind["Content-Type"] = content_type
    charset = kind.get_content_charset("utf-8")
    return kind.get_content_type() == "application/json" and charset == "utf-8"


def _check_headers(request: Request, limit: int) -> None:
    content_type = request.headers.get("content-type", "")
    if len(content_type) > _MAX_CONTENT_TYPE or not _is_json(content_type):
        raise XrpcError(ErrorName.INVALID_REQUEST, "Content-Type must be application/json")
    if request.headers.get("content-encoding", "identity") != "identity":
        raise XrpcError(ErrorName.INVALID_REQUEST, "Content-Encoding is not supported")
    length = request.headers.get("content-length", "0")
    if length.isascii() and length.isdigit() and int(length[:20]) > limit:
        raise _too_large(limit)


def _too_large(limit: int) -> XrpcError:
    return XrpcError(ErrorName.PAYLOAD_TOO_LARGE, f"the body is larger than {limit} bytes")


async def _read(request: Request, limit: int) -> bytes:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > limit:
            raise _too_large(limit)
    return bytes(body)


async def read_json(request: Request, *, limit: int, within: float) -> object:
    """Return the JSON value of a body of at most ``limit`` bytes, read ``within`` seconds.

    Raises ``XrpcError``: InvalidRequest, PayloadTooLarge or RequestTimeout.
    """
    _check_headers(request, limit)
    try:
        async with asyncio.timeout(within):
            body = await _read(request, limit)
    except TimeoutError as error:
        raise XrpcError(ErrorName.REQUEST_TIMEOUT, "the body did not arrive in time") from error
    try:
        return strict_json.loads(body)
    except (strict_json.NotJson, strict_json.DuplicateKey) as error:
        raise XrpcError(ErrorName.INVALID_REQUEST, f"the body is not JSON: {error}") from error
