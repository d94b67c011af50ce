"""The XRPC gateway: an ASGI application.

Each request goes one way: rate limit by address, method, authentication, rate limit by issuer,
body, the memory of requests, the method's handler, output check.  Whatever goes wrong on it is an
``XrpcError`` and becomes ``{"error": Name, "message": …}`` in one place; what is unexpected becomes
InternalServerError, and its traceback goes to the log alone.

- The clock of the answer starts with the request: ``refreshRecord`` answers by its deadline
  whatever the broker, the database or the issuer's host do.
- One log line per request.  Bodies and tokens are never logged.
- Behind a reverse proxy the ASGI server must be told to believe its ``X-Forwarded-For``, and
  only its; the address is taken from the ASGI scope.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import structlog
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from procedures import syntax
from procedures.bodies import read_json
from procedures.calls import Call, CallResult, Calls
from procedures.client import Unavailable
from procedures.contract import METHODS, REGISTER_PDS, ErrorName, Method, Verb, XrpcError
from procedures.once import Once
from procedures.rate_limits import Rate, TokenBuckets, address_key
from procedures.replays import Replays, TokenRequest, digest_of
from procedures.service import Service
from procedures.tokens import Token

BY_ADDRESS = Rate(burst=200, per_second=20)
BY_ISSUER = Rate(burst=30, per_second=1)
BY_ADMIN = Rate(burst=300, per_second=20)
_REGISTRATIONS = Rate(burst=10, per_second=1 / 60)  # of one account; a login makes one

_GRACE = 1.0  # past the deadline, for handlers that answer at it
_VERBS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
_UNKNOWN = "unknown"
_NO_STORE = {"Cache-Control": "private, no-store"}
_SOON = {"Retry-After": "5"}
_DAY = 86_400

log = structlog.get_logger()

Observer = Callable[[str, int, float], None]
"""Told of each request: NSID or ``unknown``, status, seconds."""


class Authenticator(Protocol):
    """Tells who calls."""

    async def authenticate(self, authorization: Sequence[str], method: Method) -> Token:
        """Return the caller's token, or raise ``XrpcError``."""


@dataclass(frozen=True, slots=True)
class GatewayLimits:
    """Bytes, seconds and rates.

    ``deadline`` stays below the 10 s that a PDS waits for the headers of a proxied call.  All
    users of a PDS come from its address: the rate by address is for many.
    """

    deadline: float = 8.0
    body: int = 64 * 1024
    body_timeout: float = 5.0
    by_address: Rate = BY_ADDRESS
    by_issuer: Rate = BY_ISSUER
    by_admin: Rate = BY_ADMIN
    registrations: Rate = _REGISTRATIONS


@dataclass(slots=True)
class _Trace:
    """What the log line of a request says, as far as the request has got."""

    method: str = _UNKNOWN
    caller: str | None = None
    operation: str | None = None
    repeated: bool = False
    error: str | None = None


class Gateway:
    """The endpoints; ``service`` None: there is no DID document to serve.

    ``token_reuse``: a token may be used until it expires, for a procedure within the rules of
    ``procedures.replays``; else once.  ``clock`` gives monotonic seconds.
    """

    def __init__(
        self,
        authenticator: Authenticator,
        calls: Calls,
        replays: Replays,
        service: Service | None,
        limits: GatewayLimits | None = None,
        observe: Observer | None = None,
        *,
        token_reuse: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._authenticator = authenticator
        self._handlers = calls.handlers
        self._once = Once(replays)
        self._token_reuse = token_reuse
        self._clock = clock
        self._document = None if service is None else service.document()
        self._limits = limits or GatewayLimits()
        self._observe = observe or (lambda _method, _status, _seconds: None)
        self._by_address = TokenBuckets(self._limits.by_address)
        self._by_issuer = TokenBuckets(self._limits.by_issuer)
        self._by_admin = TokenBuckets(self._limits.by_admin)
        self._registrations = TokenBuckets(self._limits.registrations)

    def routes(self) -> list[BaseRoute]:
        """Return the routes, to be mounted beside those for health and metrics."""
        return [
            Route("/xrpc/{nsid}", self._xrpc, methods=_VERBS),
            Route("/.well-known/did.json", self._did_document),
        ]

    async def _did_document(self, _request: Request) -> Response:
        if self._document is None:
            return error_response(XrpcError(ErrorName.NOT_FOUND, "there is no DID document here"))
        return JSONResponse(self._document)

    async def _xrpc(self, request: Request) -> Response:
        trace, began = _Trace(), time.monotonic()
        response = await self._answered(request, trace)
        seconds = time.monotonic() - began
        self._observe(trace.method, response.status_code, seconds)
        log.info(
            "request_served",
            method=trace.method,
            path=request.scope["path"],
            status=response.status_code,
            error=trace.error,
            caller=trace.caller,
            address=None if request.client is None else request.client.host,
            operation=trace.operation,
            repeated=trace.repeated,
            seconds=round(seconds, 4),
        )
        return response

    async def _answered(self, request: Request, trace: _Trace) -> Response:
        try:
            return JSONResponse(await self._output(request, trace), headers=_NO_STORE)
        except XrpcError as error:
            refusal = error
        except (Unavailable, TimeoutError):
            message = "the service is not available for now"
            refusal = XrpcError(ErrorName.SERVICE_UNAVAILABLE, message, _SOON)
        except ClientDisconnect:
            refusal = XrpcError(ErrorName.INVALID_REQUEST, "the body ended early")
        except Exception:  # the root of the request's task: the caller gets no details
            log.exception("request_failed", method=trace.method)
            refusal = XrpcError(ErrorName.INTERNAL_SERVER_ERROR, "something went wrong here")
        trace.error = refusal.name
        return error_response(refusal)

    async def _output(self, request: Request, trace: _Trace) -> dict[str, Any]:
        deadline = asyncio.get_running_loop().time() + self._limits.deadline
        host = None if request.client is None else request.client.host
        self._limit(self._by_address, address_key(host))
        method = _method(request)
        trace.method = method.nsid
        async with asyncio.timeout_at(deadline + _GRACE):
            return await self._called(request, method, trace, deadline)

    async def _called(
        self, request: Request, method: Method, trace: _Trace, deadline: float
    ) -> dict[str, Any]:
        authorization = request.headers.getlist("authorization")
        token = await self._authenticator.authenticate(authorization, method)
        trace.caller = token.issuer
        self._limit(self._by_admin if method.admin else self._by_issuer, token.issuer)
        if method.nsid == REGISTER_PDS:
            self._limit(self._registrations, token.issuer)
        fields = await self._fields(request, method)
        asked = TokenRequest(
            token.issuer, token.jti, token.expires, method.admin, digest_of(method.nsid, fields)
        )
        result = await self._result(method, asked, fields, deadline)
        trace.operation, trace.repeated = result.operation, result.repeated
        if result.refusal is not None:
            raise result.refusal
        return result.output

    async def _result(
        self, method: Method, asked: TokenRequest, fields: dict[str, Any], deadline: float
    ) -> CallResult:
        """Return the result of a call, once where that matters."""

        async def carry_out(identifier: str) -> CallResult:
            call = Call(asked.issuer, identifier, fields, deadline)
            result = await self._handlers[method.nsid](call)
            if result.refusal is None:
                method.check_output(result.output)
            return result

        if not self._token_reuse:
            await self._once.use_up(asked, deadline)
        elif method.verb is Verb.POST:
            return await self._once.result(asked, deadline, carry_out, repeatable=method.repeatable)
        return await carry_out(asked.identifier)

    async def _fields(self, request: Request, method: Method) -> dict[str, Any]:
        if method.verb is Verb.GET:
            return method.parameters(request.query_params.multi_items())
        body = await read_json(request, limit=self._limits.body, within=self._limits.body_timeout)
        return method.input(body)

    def _limit(self, buckets: TokenBuckets, key: str) -> None:
        wait = buckets.take(key, self._clock())
        if wait:
            headers = {"Retry-After": str(math.ceil(wait))}
            raise XrpcError(ErrorName.RATE_LIMIT_EXCEEDED, "too many requests", headers)


def _method(request: Request) -> Method:
    nsid = request.path_params["nsid"]
    method = METHODS.get(nsid)
    if method is None and len(nsid) <= syntax.MAX_NSID and syntax.is_nsid(nsid):
        raise XrpcError(ErrorName.METHOD_NOT_IMPLEMENTED, "this service has no such method")
    if method is None:
        raise XrpcError(ErrorName.INVALID_REQUEST, "the path does not name a method")
    if request.method != method.verb:
        allowed = {"Allow": method.verb.value}
        raise XrpcError(ErrorName.METHOD_NOT_ALLOWED, f"call it by {method.verb}", allowed)
    return method


def error_response(error: XrpcError) -> Response:
    """Return an error as XRPC answers it."""
    body = {"error": error.name, "message": error.message}
    return JSONResponse(body, error.status, headers=error.headers | _NO_STORE)


async def _http_exception(_request: Request, error: Exception) -> Response:
    """Answer what the router refuses: no such route, or no such verb."""
    refused = isinstance(error, HTTPException) and error.status_code == 405  # noqa: PLR2004 - HTTP
    name = ErrorName.METHOD_NOT_ALLOWED if refused else ErrorName.NOT_FOUND
    headers = dict(error.headers or {}) if isinstance(error, HTTPException) else {}
    return error_response(XrpcError(name, "there is nothing here", headers))


def create_app(gateway: Gateway, routes: Sequence[BaseRoute] = ()) -> Starlette:
    """Return the application: the gateway's routes and those given.

    Browsers of any origin may call: authority is in the token alone, there are no cookies.
    """
    cors = Middleware(
        CORSMiddleware,
        allow_origins=["*"],
        allow_methods=["GET", "POST"],
        allow_headers=["authorization", "content-type", "atproto-accept-labelers"],
        expose_headers=["retry-after"],
        max_age=_DAY,
    )
    return Starlette(
        routes=[*gateway.routes(), *routes],
        middleware=[cors],
        exception_handlers={HTTPException: _http_exception},
    )
