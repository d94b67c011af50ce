"""Programs in other languages: run one that is installed, and take what it prints."""

from __future__ import annotations

import asyncio
import os
import shutil
from pathlib import Path

import pytest

_ENOUGH = 180.0  # seconds for a program, its build included


def need(program: str) -> None:
    """Skip the test where ``program`` is not installed."""
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed")


async def printed(folder: Path, *command: str) -> list[str]:
    """Run ``command`` in ``folder`` and return the lines that it prints; it must end well."""
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        *command, cwd=folder, stdout=pipe, stderr=pipe, env={**os.environ, "GOFLAGS": ""}
    )
    try:
        async with asyncio.timeout(_ENOUGH):
            out, err = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, (out + err).decode()[-2000:]
    return out.decode().splitlines()
