"""PLC directory and PDS in a process of its own, for the accounts of ``bench.hosted``.

``python -m bench.host PORT FILE``.  Every answer is prepared before the first request, so that the
measurements do not include this server.
"""

from __future__ import annotations

import sys
from pathlib import Path

import orjson
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from bench.hosted import Hosted, large, load, small
from consumer.embedded.ports import LOOPBACK
from simulator.account import Account


def app(hosted: Hosted, origin: str) -> Starlette:
    """Return the application; ``origin`` is the URL at which it will be served."""
    documents = {account.did: _document(account, origin) for account in _accounts(hosted)}

    async def document(request: Request) -> Response:
        return _answer(documents.get(request.path_params["did"]))

    async def repo(request: Request) -> Response:
        return _answer(hosted.repos.get(request.query_params["did"]))

    async def record(request: Request) -> Response:
        return _answer(hosted.proofs.get(request.query_params["did"]))

    return Starlette(
        routes=[
            Route("/xrpc/com.atproto.sync.getRepo", repo),
            Route("/xrpc/com.atproto.sync.getRecord", record),
            Route("/{did}", document),
        ]
    )


def _accounts(hosted: Hosted) -> list[Account]:
    return [large(), *(small(number) for number in range(len(hosted.repos) - 1))]


def _document(account: Account, origin: str) -> bytes:
    return orjson.dumps(account.document(origin))


def _answer(body: bytes | None) -> Response:
    return Response(body or b"", status_code=404 if body is None else 200)


if __name__ == "__main__":
    port = int(sys.argv[1])
    uvicorn.run(
        app(load(Path(sys.argv[2])), f"http://{LOOPBACK}:{port}"),
        host=LOOPBACK,
        port=port,
        log_level="error",
    )
