"""The nginx of docs/scaling.md in front of the gateways of two shards."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from procedures.contract import GET_BACKFILL_HISTORY, STATUSES, TRIGGER_DID_SYNC, ErrorName
from tests.support.consumer import ROOT
from tests.support.nginx import nginx
from tests.support.services import own_directory
from tests.support.web import response

Taken = list[tuple[str, bytes]]


@asynccontextmanager
async def gateway(status: int) -> AsyncIterator[tuple[int, Taken]]:
    """Answer every request with ``status``; give the port, and heads and bodies of requests."""
    taken: Taken = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        length = re.search(r"content-length: (\d+)", head)
        taken.append((head, await reader.readexactly(int(length[1]) if length else 0)))
        writer.write(response(status, b"{}"))
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1], taken


@pytest.mark.parametrize("status", [200, 401, 421])
async def test_a_call_for_the_second_shard_reaches_its_gateway_whole(
    nginx_program: str, server_directory: Path, status: int
) -> None:
    page = (ROOT / "docs" / "scaling.md").read_text()
    (locations,) = re.findall(r"^```nginx\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    other = STATUSES[ErrorName.OTHER_SHARD]
    with own_directory(server_directory, "nginx", ports=1) as directory:
        port = int((directory / "ports.json").read_text().strip("[]"))
        async with gateway(other) as (one, first), gateway(status) as (two, second):
            put = {"gateway-1:8480": f"127.0.0.1:{one}", "gateway-2:8480": f"127.0.0.1:{two}"}
            site = f"server {{\nlisten 127.0.0.1:{port};\n{locations}}}\n"
            async with (
                nginx(nginx_program, directory, port, site, put) as origin,
                httpx.AsyncClient(trust_env=False) as client,
            ):
                headers = {"Authorization": "Bearer theirs"}
                url, did = f"{origin}/xrpc/{TRIGGER_DID_SYNC}", {"did": "did:plc:alice"}
                answer = await client.post(url, json=did, headers=headers)
                assert answer.status_code == status
                url = f"{origin}/xrpc/{GET_BACKFILL_HISTORY}"
                await client.get(url, params=did, headers=headers)
            assert [body for _, body in second] == [b'{"did":"did:plc:alice"}', b""]
            for head, _ in second:
                assert "authorization: bearer theirs\r\n" in head
            assert second[0][0].startswith(f"post /xrpc/{TRIGGER_DID_SYNC} ".lower())
            assert "?did=did%3aplc%3aalice" in second[1][0]
            assert len(first) == len(second)
